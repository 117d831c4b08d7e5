"""A curve that grows for days, kept small: columns with their mean, least and most."""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import msgspec

_BLOCK = 64
_LARGEST = 1e30


class ColumnOfSeries(msgspec.Struct, frozen=True, kw_only=True):
    """What one column of a chart shows of a series."""

    x: float  # middle of the points in it
    low: float
    high: float
    mean: float


class Series:
    """Points in the order of their x; only ever grows, so that a view of it never changes."""

    def __init__(self) -> None:
        self.xs = array("d")
        self.ys = array("d")
        self._lows = array("d")
        self._highs = array("d")
        self._sums = array("d")

    def extend(self, xs: Iterable[float], ys: Iterable[float]) -> None:
        """Append points; their x must not be below the last one's.

        What no chart can show (1e309 in a file reads as infinity) is left out.
        """
        xs, ys = list(xs), list(ys)
        if ys and not (min(ys) > -_LARGEST and max(ys) < _LARGEST and math.isfinite(sum(ys))):
            pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if abs(y) < _LARGEST]
            xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
        self.xs.extend(xs)
        self.ys.extend(ys)
        while (len(self._lows) + 1) * _BLOCK <= len(self.ys):
            start = len(self._lows) * _BLOCK
            block = self.ys[start : start + _BLOCK]
            self._highs.append(max(block))
            self._sums.append(sum(block))
            self._lows.append(min(block))  # last: its length says how many blocks are whole

    def cut_after(self, x: float) -> "Series":
        """Return a series of the points up to this x: what a resume leaves."""
        kept = Series()
        end = bisect_right(self.xs, x)
        kept.extend(self.xs[:end], self.ys[:end])
        return kept

    def view(self) -> "SeriesView":
        """Return the points so far, as a value that does not change any more."""
        return SeriesView(self, len(self.ys))

    def extremes(self, start: int, end: int) -> tuple[float, float, float]:
        """Return lowest, highest and sum of the points [start, end), which holds at least one."""
        first, last = -(-start // _BLOCK), min(end // _BLOCK, len(self._lows))
        if first >= last:
            part = self.ys[start:end]
            return min(part), max(part), sum(part)
        head, tail = self.ys[start : first * _BLOCK], self.ys[last * _BLOCK : end]
        low, high = min(self._lows[first:last]), max(self._highs[first:last])
        total = sum(self._sums[first:last]) + sum(head) + sum(tail)
        for part in (head, tail):
            if part:
                low, high = min(low, min(part)), max(high, max(part))
        return low, high, total


class SeriesView(msgspec.Struct, frozen=True):
    """The first `count` points of a series."""

    series: Series
    count: int

    @property
    def span(self) -> tuple[float, float] | None:
        """First and last x, or None without points."""
        return (self.series.xs[0], self.series.xs[self.count - 1]) if self.count else None

    @property
    def last(self) -> float | None:
        """The newest value."""
        return self.series.ys[self.count - 1] if self.count else None

    def columns(self, left: float, right: float, num_columns: int) -> list[ColumnOfSeries]:
        """Return at most `num_columns` columns of the points between two x, and one beyond each."""
        if not self.count or num_columns < 1:
            return []
        xs = self.series.xs
        start = max(0, bisect_left(xs, left, 0, self.count) - 1)
        end = min(self.count, bisect_right(xs, right, 0, self.count) + 1)
        if end - start <= num_columns:
            ys = self.series.ys
            return [
                ColumnOfSeries(x=xs[n], low=ys[n], high=ys[n], mean=ys[n])
                for n in range(start, end)
            ]
        return self._summed(start, end, left, right, num_columns)

    def nearest(self, x: float) -> tuple[float, float] | None:
        """Return the point whose x is nearest."""
        if not self.count:
            return None
        xs = self.series.xs
        right = min(bisect_left(xs, x, 0, self.count), self.count - 1)
        left = max(0, right - 1)
        best = left if abs(xs[left] - x) <= abs(xs[right] - x) else right
        return xs[best], self.series.ys[best]

    def _summed(
        self, start: int, end: int, left: float, right: float, num_columns: int
    ) -> list[ColumnOfSeries]:
        xs = self.series.xs
        width = (right - left) / num_columns
        found: list[ColumnOfSeries] = []
        here = start
        for column in range(num_columns + 1):
            if column < num_columns:
                there = bisect_left(xs, left + (column + 1) * width, here, end)
            else:
                there = end
            if there > here:
                low, high, total = self.series.extremes(here, there)
                middle = (xs[here] + xs[there - 1]) / 2
                mean = total / (there - here)
                found.append(ColumnOfSeries(x=middle, low=low, high=high, mean=mean))
            here = there
        return found


def smoothed(columns: list[ColumnOfSeries], strength: int) -> list[ColumnOfSeries]:
    """Return the columns' means as a running average; strength 0 leaves them as they are.

    A running average over about 2, 6 or 20 columns on both sides, cut at the ends.
    """
    if strength <= 0:
        return columns
    reach = (2, 6, 20)[min(strength, 3) - 1]
    sums = [0.0]
    for column in columns:
        sums.append(sums[-1] + column.mean)
    out: list[ColumnOfSeries] = []
    for place, column in enumerate(columns):
        first, last = max(0, place - reach), min(len(columns), place + reach + 1)
        mean = (sums[last] - sums[first]) / (last - first)
        out.append(ColumnOfSeries(x=column.x, low=mean, high=mean, mean=mean))
    return out
