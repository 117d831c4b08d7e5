"""Pixels in the camera's own type become the network's input on the device that computes.

N patches, C channels, M pixels of a crop.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Low and high end of the clip, mean and deviation after it: images.normalise.
Statistics = tuple[float, float, float, float]
PerChannel = tuple[Statistics, ...]
OWN_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))  # kept as they are until the device
AS_THEY_ARE: PerChannel = ((-np.inf, np.inf, 0.0, 1.0),)  # of values that are normalised already


class OwnRows(NamedTuple):
    """Rows of an image in the camera's own type, and the numbers that normalise them.

    Shapes: h×W or h×W×3, uint8 or uint16.
    """

    raw: np.ndarray
    statistics: PerChannel


class Crops(NamedTuple):
    """A step's crops as they were cut, on the host.

    Shapes: images N×C×M×M uint8, uint16 or float32, labels N×M×M uint8 (N×K×M×M with planes of
    objects), statistics N×C×4 float32: those of the image that a crop is from.
    """

    images: Tensor
    labels: Tensor
    statistics: Tensor

    def pinned(self) -> "Crops":
        """Return the same in memory that a GPU fetches by itself."""
        return Crops(*(each.pin_memory() for each in self))

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images and labels on the device, the images normalised there.

        Shapes: N×C×M×M float32 and N×M×M uint8 (N×K×M×M with planes of objects).
        """
        there = Crops(*(each.to(device, non_blocking=True) for each in self))
        if self.images.dtype == torch.float32:
            return there.images, there.labels
        columns = there.statistics.movedim(-1, 0)[..., None, None]
        return _scaled(there.images.float(), *columns), there.labels


def uploaded(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on the device; a GPU fetches it while the host goes on.

    Shapes: any; dtype kept.
    """
    if device.type != "cuda":
        return tensor
    torch.cuda.set_device(device)  # pinned memory belongs to this thread's GPU, else the first
    return tensor.pin_memory().to(device, non_blocking=True)


def own_rows(pixels: np.ndarray, statistics: PerChannel) -> OwnRows | None:
    """Return rows for the device to normalise; None: of a type that the host has to normalise.

    Shapes: H×W, or H×W×3 with the statistics of three channels, of any real dtype; uint8 and uint16
    are kept, others give None.
    """
    if pixels.dtype not in OWN_TYPES:
        return None
    own = np.require(pixels, requirements=("C", "W"))  # as torch wants it
    return OwnRows(raw=own, statistics=statistics_to_use(statistics))


def rows_on(rows: np.ndarray | OwnRows, device: torch.device) -> Tensor:
    """Return rows of an image on the device, normalised.

    Shapes: h×W or h×W×C uint8, uint16 or float32 in, C×h×W float32 out.
    """
    raw, statistics = rows if isinstance(rows, OwnRows) else (rows, AS_THEY_ARE)
    made = normalised(uploaded(torch.from_numpy(raw), device), statistics)
    return made[None] if made.ndim == 2 else made.movedim(-1, 0)


def statistics_to_use(found: PerChannel) -> PerChannel:
    """Return the statistics of an image; a constant channel becomes zeros by them."""
    return tuple((0.0, 0.0, 0.0, 1.0) if one[3] == 0 else one for one in found)


def normalised(raw: Tensor, statistics: PerChannel) -> Tensor:
    """Return rows of one image, normalised where they are; float32 ones are so already.

    Shapes: any of uint8, uint16 or float32 in, channels last where there are several; the same in
    float32 out.
    """
    if raw.dtype == torch.float32:
        return raw
    numbers = torch.tensor(statistics, dtype=torch.float32)
    if len(statistics) > 1:
        return _scaled(raw.float(), *uploaded(numbers, raw.device).unbind(-1))
    low, high, mean, deviation = numbers[0].tolist()
    return raw.float().clamp_(low, high).sub_(mean).div_(deviation)


def _scaled(images: Tensor, low: Tensor, high: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return images.maximum(low).minimum(high).sub_(mean).div_(deviation)
