"""Find the bar of text that microscopes paint below an image."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_FLAT = 0.6  # a painted row is mostly one value
_LEAST_ROWS = 8
_MOST_SHARE = 0.25
_BAND_ROWS = 512


def find_info_bar(pixels: np.ndarray) -> int:
    """Return how many rows at the bottom are a painted bar; 0 when none is.

    A bar is a block at the bottom where one background value fills most of each row, begun by a
    sharp edge, and whose text uses the extreme grey values. Real specimens are never so flat.
    Shapes: H×W or H×W×C.
    """
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    return find_info_bar_of_rows(lambda first, last: grey[first:last], grey.shape, grey.dtype)


def find_info_bar_of_rows(
    read: Callable[[int, int], np.ndarray], size_HW: tuple[int, ...], dtype: np.dtype[Any]
) -> int:
    """Return the same for an image of one channel that is read in bands; most are not read whole.

    Shapes: read(first, last) gives rows of W pixels.
    """
    height, width = size_HW
    if width < 64 or height < 64 or dtype.kind not in "ui":
        return 0
    background = _commonest(read(height - _LEAST_ROWS, height))
    start = height - max(1, int(height * _MOST_SHARE))
    facts = [_facts(rows, background) for rows in _bands(read, start, height)]
    share, low, high = (np.concatenate(each) for each in zip(*facts, strict=True))
    flat = share > _FLAT
    if flat.all() or flat.sum() < _LEAST_ROWS:
        return 0
    # Rows full of text may fall below the limit: a bar reaches up to the last flat row above it.
    rows = _rows_from_bottom(flat)
    first = len(flat) - rows
    if rows < _LEAST_ROWS or first == 0 or share[:first].mean() > 0.2:
        return 0
    ends = [(int(band.min()), int(band.max())) for band in _bands(read, 0, start)]
    ends.append((int(low.min()), int(high.max())))
    whole = max(most for _, most in ends) - min(least for least, _ in ends)
    has_text = int(high[first:].max()) - int(low[first:].min()) > 0.3 * max(1, whole)
    return rows if has_text else 0


def _facts(rows: np.ndarray, background: np.generic) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a row's share of background, its lowest and its highest value."""
    return (rows == background).mean(axis=1), rows.min(axis=1), rows.max(axis=1)


def _bands(read: Callable[[int, int], np.ndarray], first: int, last: int) -> Iterator[np.ndarray]:
    for start in range(first, last, _BAND_ROWS):
        yield read(start, min(last, start + _BAND_ROWS))


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
