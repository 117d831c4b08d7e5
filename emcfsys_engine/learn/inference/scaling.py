"""Rows of an image at another size, made as they come.

C channels, H and W pixels, N new places, K taps.
"""

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor

from emcfsys_engine.learn.pixels_on_device import uploaded
from emcfsys_engine.regions import Region, whole_of


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


ReadPart = Callable[[int, int, tuple[int, int]], Tensor]  # first and last row, columns


def scaled_reader(read: ReadPart, old_HW: tuple[int, int], new_HW: tuple[int, int]) -> ReadPart:
    """Return a reader of the rows of an image at another size, in some of its columns.

    Shapes: rows come as C×h×w.
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

        Shapes: C×h×W in and out.
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
