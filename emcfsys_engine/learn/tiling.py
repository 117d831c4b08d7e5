"""Whole images through a network: tiles in batches, blended smoothly, given out band by band.

N tiles, C channels or classes, H and W pixels of the image, T pixels of a tile.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Forward = Callable[[Tensor], Tensor]
MIN_PX = 32  # smaller images are padded: the deepest map of a network must not vanish


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

    A band is given out as soon as no later tile touches it, so that memory holds one row of tiles.
    Shapes: the image is float32 on the device of the network.
    """
    height, width = image_CHW.shape[-2:]
    image_CHW = _at_least(image_CHW, MIN_PX)
    tall, wide = image_CHW.shape[-2:]
    tile_h, tile_w = min(tile_px, tall), min(tile_px, wide)
    tops = tile_starts(tall, tile_h, overlap)
    lefts = tile_starts(wide, tile_w, overlap)
    window_TT = _window(tile_h, tile_w, overlap, image_CHW.device)
    total: Tensor | None = None  # C×tile_h×wide: the rows that later tiles may still touch
    weight = image_CHW.new_zeros(tile_h, wide)
    for number, top in enumerate(tops):
        for left, logits_CTT in _row(forward, image_CHW, top, tile_h, lefts, tile_w, batch, tta):
            if total is None:
                total = logits_CTT.new_zeros(logits_CTT.shape[0], tile_h, wide)
            total[:, :, left : left + tile_w] += logits_CTT * window_TT
            weight[:, left : left + tile_w] += window_TT
        assert total is not None
        done = (tops[number + 1] if number + 1 < len(tops) else tall) - top
        band = total[:, :done] / weight[:done]
        first, last = top, min(top + done, height)
        if first < last:
            yield first, band[:, : last - first, :width]
        total = _moved_up(total, done)
        weight = _moved_up(weight, done)


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles begin: evenly spread, the last one ends with the image."""
    if length <= tile:
        return [0]
    stride = max(1, int(tile * (1 - overlap)))
    number = -(-(length - tile) // stride) + 1
    return [round(i * (length - tile) / (number - 1)) for i in range(number)]


def _row(
    forward: Forward,
    image_CHW: Tensor,
    top: int,
    tile_h: int,
    lefts: list[int],
    tile_w: int,
    batch: int,
    tta: bool,
) -> Iterator[tuple[int, Tensor]]:
    rows_CTW = image_CHW[:, top : top + tile_h]
    for first in range(0, len(lefts), batch):
        some = lefts[first : first + batch]
        tiles_NCTT = torch.stack([rows_CTW[:, :, left : left + tile_w] for left in some])
        logits_NCTT = forward_flipped(forward, tiles_NCTT) if tta else forward(tiles_NCTT).float()
        yield from zip(some, logits_NCTT, strict=True)


def forward_flipped(forward: Forward, tiles_NCTT: Tensor) -> Tensor:
    """Return the mean logits over the four flips (test-time augmentation)."""
    total = forward(tiles_NCTT).float()
    for axes in ((-1,), (-2,), (-2, -1)):
        total = total + forward(tiles_NCTT.flip(axes)).float().flip(axes)
    return total / 4


def _window(tile_h: int, tile_w: int, overlap: float, device: torch.device) -> Tensor:
    return _ramp(tile_h, overlap, device)[:, None] * _ramp(tile_w, overlap, device)[None]


def _ramp(length: int, overlap: float, device: torch.device) -> Tensor:
    """Rise and fall by sin² over the overlap: neighbouring tiles cross-fade without an edge."""
    margin = max(1, int(length * overlap))
    place = (torch.arange(length, device=device, dtype=torch.float32) + 0.5) / margin
    rise = torch.sin(place.clamp(max=1) * (torch.pi / 2)) ** 2
    # A floor keeps the image's own borders, which only one tile sees, well conditioned.
    return torch.minimum(rise, rise.flip(0)).clamp_min(1e-3)


def _moved_up(rows: Tensor, done: int) -> Tensor:
    moved = torch.zeros_like(rows)
    kept = rows.shape[-2] - done
    if kept > 0:
        moved[..., :kept, :] = rows[..., done:, :]
    return moved


def _at_least(image_CHW: Tensor, size_px: int) -> Tensor:
    missing_h = max(0, size_px - image_CHW.shape[-2])
    missing_w = max(0, size_px - image_CHW.shape[-1])
    if not (missing_h or missing_w):
        return image_CHW
    return F.pad(image_CHW[None], (0, missing_w, 0, missing_h), mode="replicate")[0]
