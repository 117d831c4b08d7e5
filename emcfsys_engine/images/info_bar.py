"""Find the bar of text that microscopes paint below an image."""

import numpy as np

_FLAT = 0.6  # a painted row is mostly one value
_LEAST_ROWS = 8
_MOST_SHARE = 0.25


def find_info_bar(pixels: np.ndarray) -> int:
    """Return how many rows at the bottom are a painted bar; 0 when none is.

    A bar is a block at the bottom where one background value fills most of each row, begun by a
    sharp edge, and whose text uses the extreme grey values. Real specimens are never so flat.
    Shapes: H×W or H×W×C.
    """
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    height = grey.shape[0]
    lowest = grey[height - max(1, int(height * _MOST_SHARE)) :]
    if grey.shape[1] < 64 or height < 64 or not _is_integer(grey):
        return 0
    background = _commonest(lowest[-_LEAST_ROWS:])
    share = (lowest == background).mean(axis=1)
    flat = share > _FLAT
    if flat.all() or flat.sum() < _LEAST_ROWS:
        return 0
    # Rows full of text may fall below the limit: a bar reaches up to the last flat row above it.
    rows = _rows_from_bottom(flat)
    bar, above = lowest[len(lowest) - rows :], lowest[: len(lowest) - rows]
    if rows < _LEAST_ROWS or not len(above):
        return 0
    has_text = np.ptp(bar) > 0.3 * max(1, int(np.ptp(grey)))
    specimen_is_flat = (above == background).mean() > 0.2
    return rows if has_text and not specimen_is_flat else 0


def _rows_from_bottom(flat: np.ndarray) -> int:
    rows = gap = 0
    for number, is_flat in enumerate(flat[::-1], start=1):
        gap = 0 if is_flat else gap + 1
        if gap > 12:
            break
        if is_flat:
            rows = number
    return rows


def _commonest(block: np.ndarray) -> np.generic:
    values, counts = np.unique(block, return_counts=True)
    return values[counts.argmax()]


def _is_integer(grey: np.ndarray) -> bool:
    return grey.dtype.kind in "ui"
