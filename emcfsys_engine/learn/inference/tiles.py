"""A network over images of any size: overlapping tiles, blended smoothly, given out in bands.

N tiles, C channels or classes, H and W pixels of the image, T pixels of a tile.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from emcfsys_engine.learn.pixels_on_device import uploaded
from emcfsys_engine.regions import Region, whole_of

Key = TypeVar("Key")
Forward = Callable[[Tensor], Tensor]
# Given the rows to read, (first, last) and on, and the columns (left, right), yields them as
# C×(last - first)×(right - left) on the device.
ReadBlocks = Callable[[Sequence[tuple[int, int]], tuple[int, int]], Iterator[Tensor]]
MIN_PX = 32  # smaller images are padded: the deepest map of a network must not vanish

_LEAST_TILE_PX = 64
_MOST_GROWTH = 1.25  # of a tile's side, where fewer pixels are computed by it
LOCAL_GROWTH = 2.0  # the same, of networks to which a tile's size means nothing
_MOST_SMALL = 4  # times as many tiles at a time, where they are small


@dataclass(kw_only=True)
class Tiles:
    """How large tiles are and how many are predicted at a time: less, once memory was short.

    `step_px`: multiples of it are sides that the network takes as they are, and a side may be up to
    `most_growth` times as long where an image is covered with fewer pixels then; 0: every side is
    `px`. What overlaps is a share of `px`, however long a side is.
    """

    px: int
    batch: int
    step_px: int = 0
    most_growth: float = _MOST_GROWTH

    def shrink(self) -> bool:
        """Take half of them at a time, else tiles of half the side; False: none are smaller."""
        if self.batch > 1:
            self.batch //= 2
        elif self.px >= 2 * _LEAST_TILE_PX:
            self.px = self.px // 64 * 32
        else:
            return False
        return True

    def side(self, length_px: int, overlap: float) -> int:
        """Return the side along an axis of an image: the least that is computed, then the least.

        A longer one has no more pixels than all of a batch: memory bounds those.
        """
        if not self.step_px or self.batch == 1 or self.px % self.step_px or length_px <= self.px:
            return min(self.px, length_px)
        growth = min(self.most_growth, math.sqrt(self.batch))
        sides = range(self.px, int(self.px * growth) + 1, self.step_px)

        def computed_px(side: int) -> int:
            return side * len(tile_starts(length_px, side, self.overlap_of(side, overlap)))

        return min(min(sides, key=lambda side: (computed_px(side), side)), length_px)

    def sides(self, size_HW: tuple[int, int], overlap: float) -> "Sides":
        """Return height and width of the tiles of an image, and how much of them overlaps."""
        height, width = (self.side(max(length, MIN_PX), overlap) for length in size_HW)
        return Sides(
            height, width, self.overlap_of(height, overlap), self.overlap_of(width, overlap)
        )

    def overlap_of(self, side: int, overlap: float) -> float:
        """Return the share of a side that overlaps: in pixels it is that of `px`."""
        return overlap * min(1.0, self.px / side)

    def at_once(self, height_px: int, width_px: int) -> int:
        """Return how many tiles of a size are predicted at a time: as many pixels as ever."""
        fit = self.batch * self.px**2 // (height_px * width_px)
        return max(1, min(fit, _MOST_SMALL * self.batch))


class Sides(NamedTuple):
    """Height and width of an image's tiles in px, and the shares of them that overlap."""

    height: int
    width: int
    overlap_down: float
    overlap_across: float


class ImageRows(NamedTuple):
    """An image that is read row by row, each row once.

    `part`: only this of it is computed, by the tiles that the whole image would have: what is found
    there is the same. `sides`: of the tiles, where they are chosen already.
    Shapes: what is read is C×h×w float32.
    """

    read: ReadBlocks
    size_HW: tuple[int, int]
    part: Region | None = None
    sides: Sides | None = None


class Done(NamedTuple, Generic[Key]):
    """Rows that no later tile touches. Shapes: logits are C×h×W float32.

    `first` counts from the top of the part that is wanted.
    """

    key: Key
    first: int
    logits: Tensor
    is_last: bool  # of its image


class Place(NamedTuple, Generic[Key]):
    """Where a tile lies that was computed. Units: px of its image."""

    key: Key
    top: int
    left: int
    height: int


Seen = Callable[[Sequence[Place[Key]]], None]


def logit_bands(
    forward: Forward,
    image_CHW: Tensor,
    *,
    tile_px: int,
    overlap: float,
    batch: int,
    tta: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, logits C×h×W) from top to bottom; together they cover the image once.

    Shapes: the image is C×H×W float32 on the device of the network; logits are float32.
    """
    height, width = image_CHW.shape[-2:]

    def read(ranges: Sequence[tuple[int, int]], columns: tuple[int, int]) -> Iterator[Tensor]:
        return (image_CHW[:, first:last, slice(*columns)] for first, last in ranges)

    tiles = Tiles(px=tile_px, batch=batch)
    images = [(None, ImageRows(read, (height, width)))]
    for done in bands_of(forward, images, tiles, overlap=overlap, tta=tta, is_alone=True):
        yield done.first, done.logits


def bands_of(
    forward: Forward,
    images: Iterable[tuple[Key, ImageRows]],
    tiles: Tiles,
    *,
    overlap: float,
    tta: bool = False,
    is_alone: bool = False,
    seen: Seen[Key] | None = None,
) -> Iterator[Done[Key]]:
    """Yield the logits of images in bands, each from top to bottom, one image after the other.

    Tiles of several rows, and of several images, share a batch. A band is given out as soon as no
    later tile touches it, and rows are forgotten as soon as no later tile needs them: memory holds
    two rows of tiles and a batch, whatever an image's height. Which rows are read at a time, and
    which tiles share a batch, has no influence.
    `is_alone`: there is one image; its last batch is to be about as full as the others.
    `seen`: told which tiles each batch held once it was computed, before any of its rows are done.
    Shapes: `forward` is given N×C×T×T float32, and gives N×C×T×T of any float type.
    """
    windows = _Windows()
    cut = (
        tile
        for key, rows in images
        for tile in _Blend(key, rows, tiles, overlap, windows).tiles(rows)
    )
    for some in _batches(cut, tiles, is_alone=is_alone):
        tiles_NCTT = torch.stack([tile.pixels_CTT for tile in some])
        logits_NCTT = (forward_flipped(forward, tiles_NCTT) if tta else forward(tiles_NCTT)).float()
        if seen is not None:
            seen([tile.of.place(tile) for tile in some])
        weights_NTT = _weights(some, logits_NCTT)
        for tile, logits_CTT, weights_TT in zip(some, logits_NCTT, weights_NTT, strict=True):
            done = tile.of.add(tile, logits_CTT, weights_TT)
            if done is not None:
                yield done


class _Tile(NamedTuple, Generic[Key]):
    of: "_Blend[Key]"
    row: int
    column: int
    pixels_CTT: Tensor


def _batches(
    cut: Iterator[_Tile[Key]], tiles: Tiles, *, is_alone: bool
) -> Iterator[list[_Tile[Key]]]:
    """Yield tiles of one shape, as many as are predicted at a time."""
    some: list[_Tile[Key]] = []
    for tile in cut:
        shape = tile.pixels_CTT.shape
        if some and shape != some[0].pixels_CTT.shape:
            yield some
            some = []
        some.append(tile)
        most = tiles.at_once(shape[-2], shape[-1])
        if is_alone:
            most = -(-tile.of.number // -(-tile.of.number // most))
        if len(some) >= most:
            yield some
            some = []
    if some:
        yield some


def _weights(some: Sequence[_Tile[Key]], logits_NCTT: Tensor) -> Tensor:
    """Return what each tile's logits weigh where tiles blend: of its row times of its column.

    Shapes: N×T×T; of no size where each tile is an image.
    """
    if all(tile.of.number == 1 for tile in some):
        return logits_NCTT.new_empty(len(some), 0)
    pairs = [tile.of.windows(tile, logits_NCTT.device) for tile in some]
    down_NT, across_NT = (torch.stack(several) for several in zip(*pairs, strict=True))
    return down_NT[:, :, None] * across_NT[:, None]


class _Windows:
    """The weights of tiles on the device, uploaded once for all images of a size."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[int, ...], int, float], Tensor] = {}

    def of(self, starts: tuple[int, ...], tile: int, overlap: float, on: torch.device) -> Tensor:
        key = (starts, tile, overlap)
        if key not in self._known:
            self._known[key] = uploaded(_windows(*key), on)
        return self._known[key]


class _Blend(Generic[Key]):
    """The logits of one image, or of a part of it, put together from those of its tiles."""

    def __init__(
        self, key: Key, rows: ImageRows, tiles: Tiles, overlap: float, windows: _Windows
    ) -> None:
        self.key = key
        self.height, self.width = rows.size_HW
        self._part = rows.part or whole_of(rows.size_HW)
        self._sides = rows.sides or tiles.sides(rows.size_HW, overlap)
        self.tile_h, self.tile_w = self._sides[:2]
        self._every_top = tile_starts(
            max(self.height, MIN_PX), self.tile_h, self._sides.overlap_down
        )
        self._every_left = tile_starts(
            max(self.width, MIN_PX), self.tile_w, self._sides.overlap_across
        )
        self._down = _touching(self._every_top, self.tile_h, self._part.top, self._part.bottom)
        self._across = _touching(self._every_left, self.tile_w, *self._part.columns)
        self.tops, self.lefts = self._every_top[self._down], self._every_left[self._across]
        self.number = len(self.tops) * len(self.lefts)
        self._windows = windows
        self._total_CTW: Tensor | None = None  # the rows that later tiles may still touch

    def tiles(self, rows: ImageRows) -> Iterator[_Tile[Key]]:
        """Yield each tile, row after row of them.

        Shapes: a tile is C×T×T, a view of the rows that are held.
        """
        tops, tile_h, first_left = self.tops, self.tile_h, self.lefts[0]
        ranges = [(tops[0], min(tops[0] + tile_h, self.height))]
        ranges += [(above + tile_h, top + tile_h) for above, top in pairwise(tops)]
        blocks = rows.read(ranges, (first_left, min(self.lefts[-1] + self.tile_w, self.width)))
        held_CTW = _at_least(next(blocks), MIN_PX)
        for row, top in enumerate(tops):
            if row:
                fresh_CTW = _at_least(next(blocks), MIN_PX, rows=False)
                held_CTW = torch.cat((held_CTW[:, top - tops[row - 1] :], fresh_CTW), dim=1)
            for column, left in enumerate(self.lefts):
                start = left - first_left
                yield _Tile(self, row, column, held_CTW[:, :, start : start + self.tile_w])

    def add(self, tile: _Tile[Key], logits_CTT: Tensor, weights_TT: Tensor) -> Done[Key] | None:
        """Take the logits of the next tile; return the rows that are done with it, if any are."""
        row, column = tile.row, tile.column
        if self.number == 1:
            return self._done(0, logits_CTT, self._part.bottom)
        if self._total_CTW is None:
            wide = self.lefts[-1] + self.tile_w - self.lefts[0]
            self._total_CTW = logits_CTT.new_zeros(len(logits_CTT), self.tile_h, wide)
        total_CTW, left = self._total_CTW, self.lefts[column] - self.lefts[0]
        total_CTW[:, :, left : left + self.tile_w].addcmul_(logits_CTT, weights_TT)
        if column + 1 < len(self.lefts):
            return None
        if row + 1 == len(self.tops):
            return self._done(row, total_CTW, self._part.bottom)
        made = self._done(row, total_CTW, self.tops[row + 1])
        if made is not None:  # before its rows are written over
            made = made._replace(logits=made.logits.clone())
        _move_up(total_CTW, self.tops[row + 1] - self.tops[row])
        return made

    def _done(self, row: int, rows_CTW: Tensor, until: int) -> Done[Key] | None:
        """Return what is wanted of the rows from a tile's top on; None: all of it lies above."""
        top, left = self.tops[row], self.lefts[0]
        first = max(top, self._part.top)
        if until <= first:
            return None
        columns = slice(self._part.left - left, self._part.right - left)
        made_ChW = rows_CTW[:, first - top : until - top, columns]
        return Done(self.key, first - self._part.top, made_ChW, until == self._part.bottom)

    def place(self, tile: _Tile[Key]) -> Place[Key]:
        """Return where a tile lies."""
        return Place(self.key, self.tops[tile.row], self.lefts[tile.column], self.tile_h)

    def windows(self, tile: _Tile[Key], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the weights of a tile's rows and of its columns. Shapes: T and T."""
        down, across = (
            self._windows.of(tuple(starts), side, overlap, device)
            for starts, side, overlap in (
                (self._every_top, self.tile_h, self._sides.overlap_down),
                (self._every_left, self.tile_w, self._sides.overlap_across),
            )
        )
        return down[self._down.start + tile.row], across[self._across.start + tile.column]


def _touching(starts: Sequence[int], tile: int, first: int, last: int) -> slice:
    """Return which of an image's tiles touch its rows, or columns, from `first` to `last`."""
    found = [n for n, start in enumerate(starts) if start < last and start + tile > first]
    return slice(found[0], found[-1] + 1)


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles begin: evenly spread, the last one ends with the image."""
    if length <= tile:
        return [0]
    stride = max(1, int(tile * (1 - overlap)))
    number = -(-(length - tile) // stride) + 1
    return [round(i * (length - tile) / (number - 1)) for i in range(number)]


def forward_flipped(forward: Forward, tiles_NCTT: Tensor) -> Tensor:
    """Return the mean logits over the four flips (test-time augmentation).

    Shapes: N×1×T×T in, N×3×T×T of colours, of the type that `forward` takes; N×C×T×T float32 out.
    """
    total = forward(tiles_NCTT).float()
    for axes in ((-1,), (-2,), (-2, -1)):
        total = total + forward(tiles_NCTT.flip(axes)).float().flip(axes)
    return total / 4


@lru_cache(maxsize=32)
def _windows(starts: tuple[int, ...], tile: int, overlap: float) -> Tensor:
    """Return each tile's weights along one axis; over all tiles they add up to 1 everywhere.

    Tiles form a grid, so that the weight of a pixel is the product of its row's and its column's.
    Shapes: one row of T for each start, on the host.
    """
    ramp = _ramp(tile, overlap)
    total = torch.zeros(starts[-1] + tile)
    for start in starts:
        total[start : start + tile] += ramp
    return torch.stack([ramp / total[start : start + tile] for start in starts])


def _ramp(length: int, overlap: float) -> Tensor:
    """Rise and fall by sin² over the overlap: neighbouring tiles cross-fade without an edge."""
    margin = max(1, int(length * overlap))
    place = (torch.arange(length, dtype=torch.float32) + 0.5) / margin
    rise = torch.sin(place.clamp(max=1) * (torch.pi / 2)) ** 2
    # A floor keeps the image's own borders, which only one tile sees, well conditioned.
    return torch.minimum(rise, rise.flip(0)).clamp_min(1e-3)


def _move_up(rows_CTW: Tensor, done: int) -> None:
    """Drop the first rows in place; what comes after the last is 0."""
    kept = rows_CTW.shape[1] - done
    if kept > 0:
        rows_CTW[:, :kept] = rows_CTW[:, done:].clone()
    rows_CTW[:, max(0, kept) :] = 0


def _at_least(rows_CHW: Tensor, size_px: int, *, rows: bool = True) -> Tensor:
    missing_h = max(0, size_px - rows_CHW.shape[-2]) if rows else 0
    missing_w = max(0, size_px - rows_CHW.shape[-1])
    if not (missing_h or missing_w):
        return rows_CHW
    return F.pad(rows_CHW[None], (0, missing_w, 0, missing_h), mode="replicate")[0]
