"""The preview of a validation: image, truth, prediction and errors, in colours that stay pure."""

import msgspec
import numpy as np
from PIL import Image

from emcfsys_tui.pictures.encoders import encoded
from emcfsys_tui.pictures.protocol import Answer, Reply, Wish, drawn_px, fit, room

_PANELS = ("image", "truth", "prediction", "error")
_GAP_PX = 2
_SATURATED = 60  # between the strongest and the weakest of red, green, blue
_LEAST_SHARE = 0.2  # of a cell, from which on a colour fills it
_MOST_COLOURS = 64


def strip_reply(wish: Wish) -> Reply:
    """Return a preview's four panels, in a row or two by two, whichever is larger in this room.

    Raises: OSError for what is no picture.
    """
    with Image.open(wish.path) as opened:
        strip = opened.convert("RGB")
    rows = _rows_of_panels(strip.size, wish)
    picture = _arranged(strip, rows)
    width, height = picture.size
    left, top, wide, high = fit(wish.view or (0.0, 0.0, float(width), float(height)), width, height)
    answer = Answer(
        key=wish.key,
        image_px=(width, height),
        view_px=(left, top, wide, high),
        point=_panel_words(wish.point, picture.size, rows),
        channels=3,
    )
    if wish.point is not None or wish.width < 1 or wish.height < 1:
        return Reply(answer)
    num_x, num_y = room(wish, wide, high)
    box = (left, top, left + wide, top + high)
    graphic = b""
    if wish.drawing is not None:
        sharp = _sized(picture, drawn_px(wish.drawing, num_x, num_y), box)
        graphic = encoded(sharp, wish.drawing)
    full = msgspec.structs.replace(answer, width=num_x, height=num_y, drawing=wish.drawing)
    return Reply(full, _sized(picture, (num_x, num_y), box).tobytes(), graphic=graphic)


def _sized(
    picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    if size[0] < box[2] - box[0]:
        return Image.fromarray(_reduced(picture, size, box))
    return picture.resize(size, Image.Resampling.NEAREST, box=box)


def _reduced(
    picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
    """Return a smaller picture in which class colours stay pure, and thin outlines stay seen.

    Shapes: H×W×3 uint8, H and W of `size` (width, height).
    """

    def mean(plane_HW: np.ndarray) -> np.ndarray:
        plane = Image.fromarray(plane_HW.astype(np.float32))
        return np.asarray(plane.resize(size, Image.Resampling.BOX, box=box))

    rgb = np.asarray(picture).astype(np.int32)
    is_coloured = rgb.max(axis=2) - rgb.min(axis=2) > _SATURATED
    plain = mean(np.where(is_coloured, 0, rgb.mean(axis=2)))
    shade = plain / np.maximum(mean(~is_coloured), 1e-3)
    small = np.repeat(np.clip(shade, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    best = np.full(small.shape[:2], _LEAST_SHARE, np.float32)
    for number in np.unique(packed[is_coloured])[:_MOST_COLOURS]:
        share = mean(packed == number)
        colour = (int(number) >> 16, int(number) >> 8 & 255, int(number) & 255)
        small[share > best] = colour
        best = np.maximum(best, share)
    return small


def _rows_of_panels(size: tuple[int, int], wish: Wish) -> int:
    """Return 1 or 2: how many rows of panels make them larger."""
    wide, high = max(1, wish.width), max(1, wish.height)
    in_row = min(wide / size[0], high / size[1])
    in_square = min(2 * wide / size[0], high / (2 * size[1]))
    return 2 if in_square > in_row else 1


def _arranged(strip: Image.Image, rows: int) -> Image.Image:
    if rows == 1:
        return strip
    width, height = (strip.width - _GAP_PX) // 2, strip.height
    square = Image.new("RGB", (width, 2 * height + _GAP_PX), (255, 255, 255))
    square.paste(strip.crop((0, 0, width, height)), (0, 0))
    right = strip.crop((width + _GAP_PX, 0, strip.width, height))
    square.paste(right, (0, height + _GAP_PX))
    return square


def _panel_words(point: tuple[int, int] | None, size: tuple[int, int], rows: int) -> str:
    if point is None or not (0 <= point[0] < size[0] and 0 <= point[1] < size[1]):
        return ""
    columns = 4 // rows
    wide, high = size[0] / columns, size[1] / rows
    across, down = int(point[0] / wide), int(point[1] / high)
    x, y = point[0] - round(across * wide), point[1] - round(down * high)
    return f"{_PANELS[down * columns + across]} {x},{y}"
