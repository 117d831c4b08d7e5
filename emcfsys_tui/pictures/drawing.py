"""A part of an image with its classes, in half-blocks or in the terminal's own pixels."""

import msgspec
import numpy as np
from PIL import Image

from emcfsys_engine.project import UNLABELLED
from emcfsys_tui.pictures.calming import calmed
from emcfsys_tui.pictures.encoders import encoded
from emcfsys_tui.pictures.protocol import Answer, PictureRequest, Reply, drawn_px, fit, room
from emcfsys_tui.view_models import Drawing

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the image
_RIM_PX = 2  # of an outline in the terminal's own pixels


class Shown(msgspec.Struct, kw_only=True):
    """An image to be drawn. Shapes: grey and ids are uint8 H×W."""

    grey: np.ndarray
    ids: np.ndarray | None
    classes: tuple[tuple[int, str], ...]  # value, name


def drawn(answer: Answer, shown: Shown, request: PictureRequest) -> Reply:
    """Return the part of an image that is wanted, as large as there is room."""
    height, width = shown.grey.shape
    left, top, wide, high = fit(
        request.view or (0.0, 0.0, float(width), float(height)), width, height
    )
    box = (left, top, left + wide, top + high)
    num_x, num_y = room(request, wide, high)
    ids = _ids(shown, (num_x, num_y), box)
    graphic = b""
    if request.drawing is not None:
        sharp = _painted(shown, drawn_px(request.drawing, num_x, num_y), box, request.drawing)
        graphic = encoded(sharp, request.drawing)
    full = msgspec.structs.replace(
        answer,
        width=num_x,
        height=num_y,
        view_px=(left, top, wide, high),
        drawing=request.drawing,
    )
    grey = _greys(shown, (num_x, num_y), box)
    if ids is None:
        return Reply(full, (calmed(grey) if request.is_calm else grey).tobytes(), graphic=graphic)
    rims = np.where(rim_of(ids), ids, UNLABELLED).astype(np.uint8)
    if request.is_calm:
        grey = calmed(grey, np.where(rims == UNLABELLED, 0, rims))
    return Reply(full, grey.tobytes(), ids.tobytes(), rims.tobytes(), graphic)


def rim_of(ids_HW: np.ndarray, thickness_px: int = 1) -> np.ndarray:
    """Return which pixels lie at the rim of their region; the edge of the picture is none.

    Shapes: bool H×W.
    """
    is_rim = np.zeros(ids_HW.shape, bool)
    for reach in range(1, thickness_px + 1):
        for axis in (0, 1):
            here, there = ids_HW.swapaxes(0, axis)[:-reach], ids_HW.swapaxes(0, axis)[reach:]
            is_step = here != there
            is_rim.swapaxes(0, axis)[:-reach] |= is_step
            is_rim.swapaxes(0, axis)[reach:] |= is_step
    return is_rim


def _greys(shown: Shown, size: tuple[int, int], box: Box) -> np.ndarray:
    is_reduced = size[0] < box[2] - box[0]
    method = Image.Resampling.BOX if is_reduced else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(shown.grey).resize(size, method, box=box))


def _ids(shown: Shown, size: tuple[int, int], box: Box) -> np.ndarray | None:
    if shown.ids is None:
        return None
    places = [
        np.clip((low + (np.arange(num) + 0.5) * (high - low) / num).astype(int), 0, most - 1)
        for num, low, high, most in (
            (size[1], box[1], box[3], shown.ids.shape[0]),
            (size[0], box[0], box[2], shown.ids.shape[1]),
        )
    ]
    return shown.ids[places[0][:, None], places[1][None, :]].astype(np.uint8)


def _painted(shown: Shown, size: tuple[int, int], box: Box, drawing: Drawing) -> Image.Image:
    """Return the part of the image with its classes in colour, as the half-blocks have them."""
    greys, ids = _greys(shown, size, box), _ids(shown, size, box)
    rgb = np.repeat(greys[..., None], 3, axis=2)
    if ids is None or not drawing.colours or not drawing.share:
        return Image.fromarray(rgb)
    for place, (value, _) in enumerate(shown.classes):
        if value == (drawing.only_class if drawing.only_class is not None else value or None):
            colour = drawing.colours[place % len(drawing.colours)]
            part = ids == value
            if drawing.outlines:
                part &= rim_of(ids, _RIM_PX)
            mixed = rgb[part] * (1 - drawing.share) + np.array(colour) * drawing.share
            rgb[part] = np.rint(mixed).astype(np.uint8)
    return Image.fromarray(rgb)
