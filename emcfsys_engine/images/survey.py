"""What must be known of a whole image before its first row can be used, found band by band.

The results are those that `normalise` and `info_bar` find in an image in memory, to the bit: the
same pixels are sampled (all of them up to 4 Mpx, then an evenly strided grid), so that a large
image read in bands and a small one read whole are normalised alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.info_bar import find_info_bar_of_rows
from emcfsys_engine.images.normalise import (
    Normaliser,
    has_equal_channels,
    has_no_number,
    luminance,
    sample_stride,
)
from emcfsys_engine.images.rows import PlaneRows


@dataclass(frozen=True, kw_only=True)
class Survey:
    """An image's statistics and how it becomes one channel."""

    info_bar_rows: int
    statistics: tuple[float, float, float, float]  # as Normaliser.statistics
    is_coloured: bool  # channels differ: the luminance is used

    def grey(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of one channel. Shapes: h×W or h×W×C in, h×W out."""
        if rows.ndim == 2:
            return rows
        return luminance(rows) if self.is_coloured else rows[..., 0]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The specimen without the constant rows and columns around it."""

    top: int
    bottom: int
    left: int
    right: int


def survey(rows: PlaneRows, normaliser: Normaliser, *, info_bar_rows: int | None = None) -> Survey:
    """Read an image once, in most cases, and return its statistics.

    A bar that was looked for already is given as `info_bar_rows`.
    Raises: ImageError when the file is damaged, or holds no finite number.
    """
    bar = rows.info_bar_rows if info_bar_rows is None else info_bar_rows
    if not bar and info_bar_rows is None:
        bar = find_info_bar_of_rows(_first_channel(rows), rows.shape[:2], rows.dtype)
    coloured = len(rows.shape) == 3 and rows.shape[2] >= 3 and not _is_grey(rows)
    found = Survey(info_bar_rows=bar, statistics=(0.0, 0.0, 0.0, 0.0), is_coloured=coloured)
    height = rows.height - bar
    if height <= 0 or rows.width == 0:
        return found
    sample = _sample(_Grey(rows, found, height), height, rows.width)
    if has_no_number(sample):
        raise ImageError(rows.source, "holds no finite number", "Leave it out, or write it again")
    return Survey(
        info_bar_rows=bar, statistics=normaliser.statistics_of(sample), is_coloured=coloured
    )


class _Grey:
    """The rows of the specimen in one channel."""

    def __init__(self, rows: PlaneRows, found: Survey, height: int) -> None:
        self._rows = rows
        self._found = found
        self.height = height

    def read(self, first: int, last: int) -> np.ndarray:
        return self._found.grey(self._rows.read(first, last))

    def bands(self, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows) along the blocks in which the file is read."""
        step = self._rows.block_rows
        while first < last:
            end = min(last, (first // step + 1) * step)
            yield first, self.read(first, end)
            first = end


def _first_channel(rows: PlaneRows) -> Callable[[int, int], np.ndarray]:
    def read(first: int, last: int) -> np.ndarray:
        pixels = rows.read(first, last)
        return pixels if pixels.ndim == 2 else pixels[..., 0]

    return read


def _is_grey(rows: PlaneRows) -> bool:
    step = rows.block_rows
    return all(
        has_equal_channels(rows.read(first, min(rows.height, first + step)))
        for first in range(0, rows.height, step)
    )


def _sample(grey: _Grey, height: int, width: int) -> np.ndarray:
    top, bottom = _constant_rows(grey, height)
    edge = grey.read(top, top + 1)[0]
    left, right = _run(edge == edge[0]), _run((edge == edge[-1])[::-1])
    if left == 0 and right == 0:  # columns cannot be constant: the usual image, read once
        return _strided(grey, _Frame(top=top, bottom=bottom, left=0, right=width))
    return _strided(grey, _with_columns(grey, top, bottom, width))


def _strided(grey: _Grey, frame: _Frame) -> np.ndarray:
    stride = sample_stride((frame.bottom - frame.top) * (frame.right - frame.left))
    parts: list[np.ndarray] = []
    for first, band in grey.bands(frame.top, frame.bottom):
        skip = -(first - frame.top) % stride
        parts.append(band[skip::stride, frame.left : frame.right : stride].ravel())
    return np.concatenate(parts)


def _constant_rows(grey: _Grey, height: int) -> tuple[int, int]:
    """Return where the specimen begins and ends; an image all constant keeps all its rows."""
    corner = grey.read(0, 1)[0, 0]
    top = 0
    for first, band in grey.bands(0, height):
        run = _run((band == corner).all(axis=1))
        top = first + run
        if run < len(band):
            break
    if top == height:
        return 0, height
    corner = grey.read(height - 1, height)[0, 0]
    bottom = height
    while bottom > top:
        first = max(top, bottom - 64)
        run = _run((grey.read(first, bottom) == corner).all(axis=1)[::-1])
        bottom -= run
        if bottom > first:
            break
    return (top, bottom) if top < bottom else (0, height)


def _with_columns(grey: _Grey, top: int, bottom: int, width: int) -> _Frame:
    edge = grey.read(top, top + 1)[0]
    left, right = width, width  # constant columns at either side
    for _, band in grey.bands(top, bottom):
        left = min(left, _run((band[:, :left] == edge[0]).all(axis=0)))
        right = min(right, _run((band[:, width - right :] == edge[-1]).all(axis=0)[::-1]))
        if left == 0 and right == 0:
            break
    left = min(left, width - 1)
    return _Frame(top=top, bottom=bottom, left=left, right=max(width - right, left + 1))


def _run(flags: np.ndarray) -> int:
    """Return how many values at the beginning are true."""
    return len(flags) if flags.all() else int(np.argmin(flags))
