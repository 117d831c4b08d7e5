"""A network over an image of any size: overlapping tiles, blended smoothly, given out in bands.

N tiles, C channels or classes, H and W pixels of the image, T pixels of a tile.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from emcfsys_engine.learn.pixels_on_device import uploaded

Forward = Callable[[Tensor], Tensor]
# Given the rows to read, (first, last) and on, yields them as C×(last - first)×W on the device.
ReadBlocks = Callable[[Sequence[tuple[int, int]]], Iterator[Tensor]]
MIN_PX = 32  # smaller images are padded: the deepest map of a network must not vanish

_LEAST_TILE_PX = 64


@dataclass(kw_only=True)
class Tiles:
    """How large tiles are and how many are predicted at a time: less, once memory was short."""

    px: int
    batch: int

    def shrink(self) -> bool:
        """Take half of them at a time, else tiles of half the side; False: none are smaller."""
        if self.batch > 1:
            self.batch //= 2
        elif self.px >= 2 * _LEAST_TILE_PX:
            self.px = self.px // 64 * 32
        else:
            return False
        return True


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

    Shapes: the image is float32 on the device of the network.
    """
    height, width = image_CHW.shape[-2:]
    return logit_bands_of_rows(
        forward,
        lambda ranges: (image_CHW[:, first:last] for first, last in ranges),
        (height, width),
        tile_px=tile_px,
        overlap=overlap,
        batch=batch,
        tta=tta,
    )


def logit_bands_of_rows(
    forward: Forward,
    read: ReadBlocks,
    size_HW: tuple[int, int],
    *,
    tile_px: int,
    overlap: float,
    batch: int,
    tta: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, logits C×h×W) of an image that is read row by row, each row once.

    A band is given out as soon as no later tile touches it, and rows are forgotten as soon as no
    later tile needs them: memory holds two rows of tiles and a batch, whatever the image's height.
    Tiles of several rows share a batch. Which rows are read at a time has no influence.
    """
    height, width = size_HW
    tall, wide = max(height, MIN_PX), max(width, MIN_PX)
    tile_h, tile_w = min(tile_px, tall), min(tile_px, wide)
    tops = tile_starts(tall, tile_h, overlap)
    lefts = tile_starts(wide, tile_w, overlap)
    ranges = [(0, min(tile_h, height))]
    ranges += [(above + tile_h, top + tile_h) for above, top in pairwise(tops)]
    tiles = _tiles(read(ranges), tops, lefts, tile_w)
    windows_h = _windows(tuple(tops), tile_h, overlap)
    windows_w = _windows(tuple(lefts), tile_w, overlap)
    total_CTW: Tensor | None = None  # the rows that later tiles may still touch
    while some := list(islice(tiles, batch)):
        tiles_NCTT = torch.stack([tile_CTT for _, _, tile_CTT in some])
        if total_CTW is None:
            windows_h, windows_w = (uploaded(w, tiles_NCTT.device) for w in (windows_h, windows_w))
        logits_NCTT = (forward_flipped(forward, tiles_NCTT) if tta else forward(tiles_NCTT)).float()
        if total_CTW is None:
            total_CTW = logits_NCTT.new_zeros(logits_NCTT.shape[1], tile_h, wide)
        down_NT = torch.stack([windows_h[row] for row, _, _ in some])
        across_NT = torch.stack([windows_w[column] for _, column, _ in some])
        windows_NTT = down_NT[:, :, None] * across_NT[:, None]
        for (row, column, _), logits_CTT, window_TT in zip(
            some, logits_NCTT, windows_NTT, strict=True
        ):
            left = lefts[column]
            total_CTW[:, :, left : left + tile_w].addcmul_(logits_CTT, window_TT)
            if column + 1 < len(lefts):
                continue
            top, is_last = tops[row], row + 1 == len(tops)
            done = tall - top if is_last else tops[row + 1] - top
            if top < min(top + done, height):
                yield top, total_CTW[:, : min(done, height - top), :width].clone()
            if not is_last:
                _move_up(total_CTW, done)


def _tiles(
    blocks: Iterator[Tensor], tops: Sequence[int], lefts: Sequence[int], tile_w: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield each tile with the numbers of its row and column, row after row of them.

    Shapes: a tile is C×T×T, a view of the rows that are held.
    """
    held_CTW = _at_least(next(blocks), MIN_PX)
    for row, top in enumerate(tops):
        if row:
            fresh_CTW = _at_least(next(blocks), MIN_PX, rows=False)
            held_CTW = torch.cat((held_CTW[:, top - tops[row - 1] :], fresh_CTW), dim=1)
        for column, left in enumerate(lefts):
            yield row, column, held_CTW[:, :, left : left + tile_w]


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles begin: evenly spread, the last one ends with the image."""
    if length <= tile:
        return [0]
    stride = max(1, int(tile * (1 - overlap)))
    number = -(-(length - tile) // stride) + 1
    return [round(i * (length - tile) / (number - 1)) for i in range(number)]


def forward_flipped(forward: Forward, tiles_NCTT: Tensor) -> Tensor:
    """Return the mean logits over the four flips (test-time augmentation).

    Shapes: N×1×T×T in, N×C×T×T out.
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

    def _move(self, device: torch.device) -> None:
        if self.places_NK.device != device:
            self.places_NK = uploaded(self.places_NK, device)
            self.weights_NK = uploaded(self.weights_NK, device)

    def along_width(self, rows_CHW: Tensor) -> Tensor:
        """Return rows of the new width.

        Shapes: C×h×W in, C×h×(new W) out.
        """
        self._move(rows_CHW.device)
        places, weights = self.places_NK, self.weights_NK
        made = rows_CHW[..., places[:, 0]] * weights[:, 0]
        for tap in range(1, places.shape[1]):
            made.addcmul_(rows_CHW[..., places[:, tap]], weights[:, tap])
        return made

    def along_height(self, rows_CHW: Tensor, start: int, first: int, last: int) -> Tensor:
        """Return the new rows `first` to `last`; the old ones given begin at row `start`.

        Shapes: C×h×W in, C×(last - first)×W out.
        """
        self._move(rows_CHW.device)
        places = self.places_NK[first:last] - start
        places = places.clamp(0, rows_CHW.shape[1] - 1)  # taps outside weigh nothing
        weights = self.weights_NK[first:last]
        made = rows_CHW[:, places[:, 0]] * weights[:, 0, None]
        for tap in range(1, places.shape[1]):
            made.addcmul_(rows_CHW[:, places[:, tap]], weights[:, tap, None])
        return made


def scaled_reader(
    read: Callable[[int, int], Tensor], old_HW: tuple[int, int], new_HW: tuple[int, int]
) -> Callable[[int, int], Tensor]:
    """Return a reader of the rows of an image at another size.

    Shapes: rows come as C×h×W.
    """
    down, across = Axis(old_HW[0], new_HW[0]), Axis(old_HW[1], new_HW[1])

    def scaled(first: int, last: int) -> Tensor:
        start = down.first[first]
        rows_CHW = across.along_width(read(start, down.last[last - 1]))
        return down.along_height(rows_CHW, start, first, last)

    return scaled


def scaled_bands(
    bands: Iterator[tuple[int, Tensor]], old_HW: tuple[int, int], new_HW: tuple[int, int]
) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, rows) at another size; a band waits for the rows below that it needs.

    Shapes: C×h×W in and out.
    """
    down, across = Axis(old_HW[0], new_HW[0]), Axis(old_HW[1], new_HW[1])
    held_CHW: Tensor | None = None
    start = done = 0  # the old row that is held first; the new rows given out
    for first, band_CHW in bands:
        fresh_CHW = across.along_width(band_CHW)
        held_CHW = fresh_CHW if held_CHW is None else torch.cat((held_CHW, fresh_CHW), dim=1)
        have = first + band_CHW.shape[1]
        ready = done
        while ready < new_HW[0] and down.last[ready] <= have:
            ready += 1
        if ready > done:
            yield done, down.along_height(held_CHW, start, done, ready)
            done = ready
            needed = down.first[done] if done < new_HW[0] else have
            held_CHW = held_CHW[:, needed - start :]
            start = needed
