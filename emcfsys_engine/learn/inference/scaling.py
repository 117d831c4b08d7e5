"""Rows of an image at another size, made as they come.

C channels, H and W pixels, N new places, K taps.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from emcfsys_engine.learn.pixels_on_device import uploaded


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


class ScaledBands:
    """Takes the bands of an image from top to bottom, and gives them at another size."""

    def __init__(self, old_HW: tuple[int, int], new_HW: tuple[int, int]) -> None:
        self._down, self._across = Axis(old_HW[0], new_HW[0]), Axis(old_HW[1], new_HW[1])
        self._tall = new_HW[0]
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
