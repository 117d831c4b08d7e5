"""Images to the model's pixel size and its answers back, row by row.

Bilinear, and averaging where it makes smaller, as torch's antialiased interpolation does.
C channels, H and W pixels, K taps.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


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

    def along_width(self, rows_CHW: Tensor) -> Tensor:
        """Return rows of the new width."""
        places, weights = self.places_NK.to(rows_CHW.device), self.weights_NK.to(rows_CHW.device)
        made = rows_CHW[..., places[:, 0]] * weights[:, 0]
        for tap in range(1, places.shape[1]):
            made.addcmul_(rows_CHW[..., places[:, tap]], weights[:, tap])
        return made

    def along_height(self, rows_CHW: Tensor, start: int, first: int, last: int) -> Tensor:
        """Return the new rows `first` to `last`; the old ones given begin at row `start`."""
        places = self.places_NK[first:last].to(rows_CHW.device) - start
        places = places.clamp(0, rows_CHW.shape[1] - 1)  # taps outside weigh nothing
        weights = self.weights_NK[first:last].to(rows_CHW.device)
        made = rows_CHW[:, places[:, 0]] * weights[:, 0, None]
        for tap in range(1, places.shape[1]):
            made.addcmul_(rows_CHW[:, places[:, tap]], weights[:, tap, None])
        return made


def scaled_reader(
    read: Callable[[int, int], Tensor], old_HW: tuple[int, int], new_HW: tuple[int, int]
) -> Callable[[int, int], Tensor]:
    """Return a reader of the rows of an image at another size."""
    down, across = Axis(old_HW[0], new_HW[0]), Axis(old_HW[1], new_HW[1])

    def scaled(first: int, last: int) -> Tensor:
        start = down.first[first]
        rows_CHW = across.along_width(read(start, down.last[last - 1]))
        return down.along_height(rows_CHW, start, first, last)

    return scaled


def scaled_bands(
    bands: Iterator[tuple[int, Tensor]], old_HW: tuple[int, int], new_HW: tuple[int, int]
) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, rows) at another size; a band waits for the rows below that it needs."""
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
