"""An image as a network is to predict it, whole or in part."""

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.inference.bands import WantedMaps
from emcfsys_engine.learn.inference.tiles import Place, Sides
from emcfsys_engine.learn.pixels_on_device import OwnRows, uploaded
from emcfsys_engine.regions import Region, whole_of


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is wanted of an image that is not predicted as a whole.

    Shapes: read(first, last, left, right) gives h×w of the image, of the types that
    `Picture.read` gives.
    """

    region: Region
    read: Callable[[int, int, int, int], np.ndarray | OwnRows]
    of_HW: tuple[int, int]  # of the whole image
    sides: Sides | None = None  # of the whole image's tiles, where they are chosen already
    is_one_of_many: bool = False  # all of the image is predicted, in such parts


class Scale(NamedTuple):
    """By what an image is enlarged for the network: its pixels' height and width over a model's."""

    down: float
    across: float


AS_IT_IS = Scale(1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image to predict.

    `ahead`: rows are read in a thread while the network works on those above.
    Shapes: read(first, last) gives rows (last - first)×W, with ×3 for a model of colours, float32
    and normalised or OwnRows.
    """

    read: Callable[[int, int], np.ndarray | OwnRows]
    size_HW: tuple[int, int]  # of what is wanted
    info_bar_rows: int = 0  # at the bottom of the whole image
    scale: Scale = AS_IT_IS
    wanted: WantedMaps = field(default_factory=WantedMaps)
    ahead: bool = False
    part: Part | None = None

    @property
    def whole_size(self) -> tuple[int, int]:
        """The size of the whole image."""
        return self.size_HW if self.part is None else self.part.of_HW

    @property
    def inner_size(self) -> tuple[int, int]:
        """The size of the whole image as the network sees it."""
        height, width = self.whole_size
        return max(1, round(height * self.scale.down)), max(1, round(width * self.scale.across))

    @cached_property
    def inner_part(self) -> Region:
        """What is wanted, in the image as the network sees it."""
        if self.part is None:
            return whole_of(self.inner_size)
        if self.scale == AS_IT_IS:
            return self.part.region
        return needed_of(self.part.region, self.inner_size, self.whole_size)

    @property
    def bar_from(self) -> int:
        """The row of what is wanted with which the info bar begins; it may lie outside."""
        above = 0 if self.part is None else self.part.region.top
        return self.whole_size[0] - self.info_bar_rows - above

    @property
    def inner_bar_from(self) -> int:
        """The row of the whole image with which the info bar begins, as the network sees it."""
        return round((self.whole_size[0] - self.info_bar_rows) * self.scale.down)

    def above_bar(self, tile: Place[Any]) -> float:
        """Return which share of a tile counts for what is told of the image.

        That is what lies above the info bar; of parts that make the whole image each has the tiles
        that begin in it, so that each is counted once.
        """
        if self.part is not None and self.part.is_one_of_many:
            mine, (height, width), inner = self.part.region, self.whole_size, self.inner_size
            row, column = tile.top * height // inner[0], tile.left * width // inner[1]
            if not (mine.top <= row < mine.bottom and mine.left <= column < mine.right):
                return 0.0
        return (self.inner_bar_from - tile.top) / tile.height

    def read_columns(self, first: int, last: int, columns: tuple[int, int]) -> np.ndarray | OwnRows:
        """Return some columns of rows; all of them of an image that is wanted whole.

        Shapes: h×w, or h×w×3 for a model of colours, float32 and normalised or OwnRows.
        """
        if self.part is None:
            return self.read(first, last)
        return self.part.read(first, last, *columns)


# Rows of an image at another size, made as they come.
#
# C channels, H and W pixels, N new places, K taps.


class Axis:
    """How each of the new places of one axis is made of old ones."""

    def __init__(self, old: int, new: int) -> None:
        step = old / new
        reach = max(1.0, step)
        centre_K1 = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * step
        taps = int(2 * reach + 2)
        first = (centre_K1 - reach).floor()
        place_NK = first + torch.arange(taps, dtype=torch.float64)
        weight_NK = (1 - ((place_NK + 0.5 - centre_K1) / reach).abs()).clamp_min(0)
        weight_NK *= (place_NK >= 0) & (place_NK < old)
        self.places_NK = place_NK.clamp(0, old - 1).long()
        self.weights_NK = (weight_NK / weight_NK.sum(dim=1, keepdim=True)).float()
        self.first = self.places_NK.amin(dim=1).tolist()  # the old places that a new one needs
        self.last = (self.places_NK.amax(dim=1) + 1).tolist()

    def part(self, start: int, end: int) -> "Axis":
        """Return the axis of some of the new places; old ones count from the first they need."""
        made = copy(self)
        made.places_NK = self.places_NK[start:end] - self.first[start]
        made.weights_NK = self.weights_NK[start:end]
        made.first = [first - self.first[start] for first in self.first[start:end]]
        made.last = [last - self.first[start] for last in self.last[start:end]]
        return made

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the first old place that some of the new ones need, and the first beyond."""
        return self.first[start], self.last[end - 1]

    def _move(self, device: torch.device) -> None:
        if self.places_NK.device != device:
            self.places_NK = uploaded(self.places_NK, device)
            self.weights_NK = uploaded(self.weights_NK, device)

    def along_width(self, rows_CHW: Tensor) -> Tensor:
        """Return rows of the new width.

        Shapes: C×h×W float32 in, C×h×(new W) float32 out.
        """
        self._move(rows_CHW.device)
        places, weights = self.places_NK, self.weights_NK
        made = rows_CHW[..., places[:, 0]] * weights[:, 0]
        for tap in range(1, places.shape[1]):
            made.addcmul_(rows_CHW[..., places[:, tap]], weights[:, tap])
        return made

    def along_height(self, rows_CHW: Tensor, start: int, first: int, last: int) -> Tensor:
        """Return the new rows `first` to `last`; the old ones given begin at row `start`.

        Shapes: C×h×W float32 in, C×(last - first)×W float32 out.
        """
        self._move(rows_CHW.device)
        places = self.places_NK[first:last] - start
        places = places.clamp(0, rows_CHW.shape[1] - 1)  # taps outside weigh nothing
        weights = self.weights_NK[first:last]
        made = rows_CHW[:, places[:, 0]] * weights[:, 0, None]
        for tap in range(1, places.shape[1]):
            made.addcmul_(rows_CHW[:, places[:, tap]], weights[:, tap, None])
        return made


ReadPart = Callable[[int, int, tuple[int, int]], Tensor]  # first and last row, columns


def scaled_reader(read: ReadPart, old_HW: tuple[int, int], new_HW: tuple[int, int]) -> ReadPart:
    """Return a reader of the rows of an image at another size, in some of its columns.

    Shapes: rows come as C×h×w float32.
    """
    down, across = Axis(old_HW[0], new_HW[0]), Axis(old_HW[1], new_HW[1])
    parts: dict[tuple[int, int], Axis] = {}  # those of an image are all of the same columns

    def scaled(first: int, last: int, columns: tuple[int, int]) -> Tensor:
        if columns not in parts:
            parts[columns] = across.part(*columns)
        start = down.first[first]
        held_CHW = read(start, down.last[last - 1], across.span(*columns))
        return down.along_height(parts[columns].along_width(held_CHW), start, first, last)

    return scaled


def needed_of(wanted: Region, old_HW: tuple[int, int], new_HW: tuple[int, int]) -> Region:
    """Return what is needed of an image to make a part of it at another size."""
    top, bottom = Axis(old_HW[0], new_HW[0]).span(wanted.top, wanted.bottom)
    return Region(top, bottom, *Axis(old_HW[1], new_HW[1]).span(*wanted.columns))


class ScaledBands:
    """Takes the bands of an image from top to bottom, and gives them at another size.

    Of a `part` at the new size, those of what is `needed_of` the image for it.
    """

    def __init__(
        self, old_HW: tuple[int, int], new_HW: tuple[int, int], part: Region | None = None
    ) -> None:
        part = part or whole_of(new_HW)
        self._down = Axis(old_HW[0], new_HW[0]).part(part.top, part.bottom)
        self._across = Axis(old_HW[1], new_HW[1]).part(*part.columns)
        self._tall = part.bottom - part.top
        self._held_CHW: Tensor | None = None
        self._start = self._done = 0  # the old row that is held first; the new rows given out

    def add(self, first: int, band_CHW: Tensor) -> tuple[int, Tensor] | None:
        """Return (first row, rows) of what can be made now; None: it waits for the rows below.

        Shapes: C×h×W float32 in and out.
        """
        down, done = self._down, self._done
        held_CHW = self._across.along_width(band_CHW)
        if self._held_CHW is not None:
            held_CHW = torch.cat((self._held_CHW, held_CHW), dim=1)
        have = first + band_CHW.shape[1]
        ready = done
        while ready < self._tall and down.last[ready] <= have:
            ready += 1
        self._held_CHW = held_CHW
        if ready == done:
            return None
        made_CHW = down.along_height(held_CHW, self._start, done, ready)
        needed = down.first[ready] if ready < self._tall else have
        self._held_CHW = held_CHW[:, needed - self._start :]
        self._start, self._done = needed, ready
        return done, made_CHW


_MOST_CHANNELS = 4
_BY_SLICE = "Give one slice, or all to predict_stack, which yields slice by slice"


def as_pixels(given: Any) -> np.ndarray:
    """Return one image as an array.

    Shapes: H×W or H×W×C with C up to 4, of any real dtype; whatever numpy, Pillow or torch made.
    The dtype is kept, but bool becomes uint8 and floats of 16 bits become float32.
    Raises: InputError for stacks, other shapes and what is no picture.
    """
    pixels = _array(given)
    if pixels.ndim == 3 and pixels.shape[2] > _MOST_CHANNELS:
        what = f"has the shape {_told(pixels)}: a stack, or channels that come first"
        raise InputError("image", what, f"{_BY_SLICE}; colours are H×W×C")
    if pixels.ndim not in (2, 3):
        what = f"has {pixels.ndim} axes ({_told(pixels)}), an image has two, or three with colours"
        raise InputError("image", what, _BY_SLICE if pixels.ndim > 3 else "Give it as H×W")
    return pixels


def slices_of(given: Any) -> Iterator[np.ndarray]:
    """Yield the images of a stack: D×H×W, D×H×W×C, or anything that yields images.

    Shapes: as `as_pixels` takes and gives them.
    Raises: InputError for one image, or where a slice is none.
    """
    if isinstance(given, np.ndarray | torch.Tensor) and given.ndim < 3:
        raise InputError("stack", "is no stack", "Give D×H×W, or one image to predict")
    if not isinstance(given, Iterable):
        raise InputError("stack", f"is a {type(given).__name__}", "Give D×H×W, or a list of images")
    for one in given:
        yield as_pixels(one)


def _array(given: Any) -> np.ndarray:
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = given.float().numpy() if given.dtype == torch.bfloat16 else given.numpy()
    elif isinstance(given, Image.Image):
        plain = {"1": "L", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
        given = given.convert(plain.get(given.mode, given.mode))
    try:
        pixels = np.asarray(given)
    except (ValueError, TypeError):
        raise InputError("image", "has rows of unlike lengths", "Give it as H×W") from None
    if pixels.dtype.kind not in "buif":
        word = "complex numbers" if pixels.dtype.kind == "c" else f"the type {pixels.dtype}"
        remedy = (
            "Give real numbers, such as np.abs of it" if word[0] == "c" else "Give real numbers"
        )
        raise InputError("image", f"holds {word}", remedy)
    if pixels.dtype == np.bool_:
        return pixels.view(np.uint8)
    return pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels


def _told(pixels: np.ndarray) -> str:
    return " × ".join(map(str, pixels.shape)) or "one number"
