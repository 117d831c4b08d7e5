"""A part of an image with its classes, in half-blocks or in the terminal's own pixels."""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import numpy as np
from PIL import Image

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.images.mosaic_view import NOT_DONE, MosaicView, ref_of
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.regions import Region
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.shard_lines import DoneSoFar
from emcfsys_engine.run.shards import FOLDER
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

    Shapes: H×W of any dtype in, bool H×W out.
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


# Fewer changes of colour along a line of cells: they are what a picture costs on a slow line.
#
# A half-block of the two colours that the terminal holds costs 3 bytes, one of two others 23. Greys
# of a noisy micrograph differ from cell to cell by what nobody sees. Here each cell takes the greys
# that cost least: bytes, and the squared error times a price that falls until the picture fits.
_BYTES_A_CELL = 5.0
_FEW_BYTES = 4800  # that any picture may cost: with the rest of a key in Data less than 6 kB
_PRICES = (0.1, 0.04, 0.02, 0.012, 0.008, 0.004, 0.003)  # with the last it is still a micrograph
_TOLERANCE = 64  # of 256 greys: an edge stays an edge
_SAMPLE = 4  # the price is found on every fourth line of cells
_STATES = 3  # so many ways to write a line are followed
_AHEAD = 4  # cells whose mean grey may stand for all of them
_LEVELS = 24  # greys that a terminal has
_CHANGED = (0, 11, 20)  # bytes of SGR for no, one or two other colours
_COLOURED = 256  # and above: colours, which stay as they are


class _Way(NamedTuple):
    """One way to write the cells of a line so far."""

    cost: float = 0.0  # bytes and the price of errors
    num_bytes: int = 0
    fore: int = -1
    back: int = -1
    cell: tuple[int, int] = (0, 0)  # the last one: its upper and its lower half
    before: Self | None = None


def calmed(grey_HW: np.ndarray, colour_HW: np.ndarray | None = None) -> np.ndarray:
    """Return the greys of a picture in half-blocks, calm enough for about five bytes a cell.

    Shapes: uint8 H×W, H even; `colour_HW` has an integer for each colour that lies over it, or 0.
    """
    steps_HW = np.rint(grey_HW * ((_LEVELS - 1) / 255))
    wanted_HW = np.rint(steps_HW * (255 / (_LEVELS - 1))).astype(int)
    if colour_HW is not None:
        wanted_HW = np.where(colour_HW > 0, _COLOURED + colour_HW.astype(int), wanted_HW)
    lines = list(zip(wanted_HW[::2].tolist(), wanted_HW[1::2].tolist(), strict=False))
    sample = lines[_SAMPLE // 2 :: _SAMPLE] or lines
    num_cells = grey_HW.shape[1] * max(1, len(lines))
    most_bytes = max(_BYTES_A_CELL * num_cells, _FEW_BYTES) * len(sample) / max(1, len(lines))

    def num_bytes(price: float) -> int:
        return sum(_cheapest(*line, price).num_bytes for line in sample)

    price = next((one for one in _PRICES[:-1] if num_bytes(one) <= most_bytes), _PRICES[-1])
    made_HW = wanted_HW
    for number, line in enumerate(lines):
        made_HW[2 * number : 2 * number + 2] = _halves(_cheapest(*line, price))
    return np.where(made_HW < _COLOURED, made_HW, grey_HW).astype(np.uint8)


def _cheapest(upper: Sequence[int], lower: Sequence[int], price: float) -> _Way:
    """Return the cheapest way to write a line of cells that is found."""
    ways = [_Way()]
    for place, (top, bottom) in enumerate(zip(upper, lower, strict=True)):
        best: dict[tuple[int, int], _Way] = {}
        means = {_mean_grey(line[place : place + _AHEAD]) for line in (upper, lower)}
        for way in ways:
            for longer in _longer(way, top, bottom, means, price):
                known = best.get(longer[2:4])
                if known is None or longer[0] < known[0]:
                    best[longer[2:4]] = longer
        ways = sorted(best.values(), key=lambda way: way[0])[:_STATES]
    return ways[0]


def _mean_grey(values: Sequence[int]) -> int:
    """Return the terminal's grey that is nearest to the mean of these; -1 where there is none."""
    greys = [value for value in values if value < _COLOURED]
    if not greys:
        return -1
    step = 255 / (_LEVELS - 1)
    return round(round(sum(greys) / len(greys) / step) * step)


def _longer(way: _Way, top: int, bottom: int, means: Set[int], price: float) -> Iterator[_Way]:
    """Return the ways to write one cell more."""
    fore, back = way.fore, way.back
    known = {fore, back, *means}
    for a, a_error in _choices(top, known):
        for b, b_error in _choices(bottom, known):
            blank = ((fore, a, 1), (a, back, 3))  # an empty cell, a full one
            halves = ((a, b, 3), (b, a, 3))  # the upper half-block, the lower one
            for new_fore, new_back, num_bytes in blank if a == b else halves:
                num_bytes += _CHANGED[(new_fore != fore) + (new_back != back)]
                cost = way.cost + num_bytes + price * (a_error + b_error)
                yield _Way(cost, way.num_bytes + num_bytes, new_fore, new_back, (a, b), way)


def _choices(wanted: int, known: Set[int]) -> list[tuple[int, int]]:
    """Return the colours that a half of a cell may take, with their squared errors."""
    found = [(wanted, 0)]
    if wanted < _COLOURED:
        for one in known:
            error = abs(one - wanted)
            if 0 <= one < _COLOURED and 0 < error <= _TOLERANCE:
                found.append((one, error * error))
    return found


def _halves(way: _Way) -> tuple[list[int], list[int]]:
    """Return the upper and the lower halves of a line's cells."""
    cells: list[tuple[int, int]] = []
    while way.before is not None:
        cells.append(way.cell)
        way = way.before
    return [upper for upper, _ in reversed(cells)], [lower for _, lower in reversed(cells)]


_SECONDS = 0.5  # of reading regions, then what is there is shown
_FINE_PX = 1 << 24  # a part of no more pixels is read anew, more finely
_MOST_PX = 1024  # of the longer side of what is drawn


class Mosaics:
    """Keeps the image that was looked at last."""

    def __init__(self) -> None:
        self._key: tuple[str, int] = ("", -1)
        self._done: DoneSoFar | None = None
        self._view: MosaicView | None = None

    def answer(self, request: PictureRequest) -> Reply:
        """Return what is done of an image by now; `is_whole` is false while more waits to be read.

        Raises: EmcfError where its image or mask cannot be read.
        """
        view, done = self._look(request)
        is_whole = view.grow(done.regions(str(ref_of(view.mosaic))), _SECONDS)
        height, width = view.mosaic.size_HW
        pixel_nm = view.mosaic.pixel_nm
        answer = Answer(
            key=request.key,
            image_px=(width, height),
            pixel_nm=pixel_nm[1] if pixel_nm else None,
            classes=classes_of(Path(request.model)) if request.model else (),
            is_whole=is_whole,
        )
        if request.point is not None:
            words = _point_words(view, answer, request.point)
            return Reply(msgspec.structs.replace(answer, point=words))
        return _part(view, answer, request)

    def _look(self, request: PictureRequest) -> tuple[MosaicView, DoneSoFar]:
        run, key = Run(Path(request.run)), (request.run, request.mosaic)
        if self._done is None or self._key[0] != request.run:
            self._done, self._view = DoneSoFar(run), None
        self._done.look()
        if self._view is None or self._key != key:
            if request.mosaic >= len(self._done.mosaics):
                what = "names no such image"
                raise RunFolderError(run.folder / FOLDER, what, "Look at the job again")
            mosaic = self._done.mosaics[request.mosaic]
            self._view = MosaicView(mosaic, run.folder / FOLDER, _MOST_PX)
        self._key = key
        return self._view, self._done


def classes_of(model: Path) -> tuple[tuple[int, str], ...]:
    """Return the values and names of a model's classes.

    Raises: ModelFileError.
    """
    card = read_card(model)
    return tuple(zip(card.class_values, card.classes, strict=True))


def _part(view: MosaicView, answer: Answer, request: PictureRequest) -> Reply:
    width, height = answer.image_px
    whole = (0.0, 0.0, float(width), float(height))
    left, top, wide, high = fit(request.view or whole, width, height)
    part = view
    if wide * high <= _FINE_PX and view.factor > 1:
        box = Region(
            int(top), min(height, -int(-top - high)), int(left), min(width, -int(-left - wide))
        )
        part = view.part(box, max(1, max(box.size) // _MOST_PX))
    by, x, y = part.factor, part.box.left, part.box.top
    asked = ((left - x) / by, (top - y) / by, wide / by, high / by)
    shown = Shown(grey=part.grey, ids=part.ids, classes=answer.classes)
    reply = drawn(answer, shown, msgspec.structs.replace(request, view=asked))
    seen = reply.answer.view_px
    in_image = (seen[0] * by + x, seen[1] * by + y, seen[2] * by, seen[3] * by)
    return reply._replace(answer=msgspec.structs.replace(reply.answer, view_px=in_image))


def _point_words(view: MosaicView, answer: Answer, point: tuple[int, int]) -> str:
    x, y = point
    if not (0 <= x < answer.image_px[0] and 0 <= y < answer.image_px[1]):
        return ""
    value = int(view.ids[y // view.factor, x // view.factor])
    name = "not done yet" if value == NOT_DONE else dict(answer.classes).get(value, str(value))
    words = f"{x},{y}  {name}"
    if view.mosaic.pixel_nm is not None:
        down, across = view.mosaic.pixel_nm
        words += f"  {x * across:,.0f} {y * down:,.0f} nm"
    return words
