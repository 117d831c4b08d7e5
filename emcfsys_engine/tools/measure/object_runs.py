"""Runs of equal pixels along rows: what objects are made of, and all that is counted on them."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

_BAND_PX = 1 << 24  # so many pixels are looked at together: memory stays flat on huge masks


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs of one value along rows, in reading order.

    Shapes: all of one length. first and last are columns, both inside the run.
    """

    value: np.ndarray
    row: np.ndarray
    first: np.ndarray
    last: np.ndarray
    grey_sum: np.ndarray | None  # float64, of the image's pixels below the run

    @property
    def length_px(self) -> np.ndarray:
        """How many pixels each run has."""
        return self.last - self.first + 1

    def where(self, kept: np.ndarray) -> "Runs":
        """Return the runs that a boolean array marks."""
        return Runs(
            value=self.value[kept],
            row=self.row[kept],
            first=self.first[kept],
            last=self.last[kept],
            grey_sum=None if self.grey_sum is None else self.grey_sum[kept],
        )


@dataclass(frozen=True, kw_only=True)
class Contacts:
    """Pairs of runs of one value that touch: one lies in the row below the other.

    Shapes: upper and lower are indices of runs.
    """

    upper: np.ndarray
    lower: np.ndarray


def runs_of(values: np.ndarray, grey: np.ndarray | None) -> Runs:
    """Cut every row into runs of equal values.

    Shapes: values are integers H×W, grey is any number H×W.
    """
    height, width = values.shape
    rows_at_once = max(1, _BAND_PX // max(1, width))
    parts = [
        _runs_of_band(values, grey, top, min(height, top + rows_at_once))
        for top in range(0, height, rows_at_once)
    ]
    sums = [part.grey_sum for part in parts if part.grey_sum is not None]
    return Runs(
        value=np.concatenate([part.value for part in parts]),
        row=np.concatenate([part.row for part in parts]),
        first=np.concatenate([part.first for part in parts]),
        last=np.concatenate([part.last for part in parts]),
        grey_sum=np.concatenate(sums) if sums else None,
    )


def contacts_of(runs: Runs, width: int) -> Contacts:
    """Return which runs touch, at a side or at a corner."""
    stride = width + 3  # keys of one row never reach into the next, not even one pixel further
    above = (runs.row - 1) * stride
    begin = np.searchsorted(runs.row * stride + runs.last, above + runs.first - 1, "left")
    end = np.searchsorted(runs.row * stride + runs.first, above + runs.last + 1, "right")
    count = np.maximum(end - begin, 0)
    lower = np.repeat(np.arange(len(count)), count)
    before = np.repeat(np.cumsum(count) - count, count)
    upper = np.arange(len(lower)) - before + np.repeat(begin, count)
    same = runs.value[upper] == runs.value[lower]
    return Contacts(upper=upper[same], lower=lower[same])


def objects_of(num_runs: int, contacts: Contacts) -> np.ndarray:
    """Return the object of each run: 0, 1, … in the order in which they are met.

    Shapes: int64, one a run.
    """
    ones = np.ones(len(contacts.upper), bool)
    graph = sparse.coo_array((ones, (contacts.upper, contacts.lower)), (num_runs, num_runs))
    _, numbers = csgraph.connected_components(graph, directed=False)
    _, first_met, places = np.unique(numbers, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first_met))[places]


def overlap_px(runs: Runs, contacts: Contacts, shift: int) -> np.ndarray:
    """Return how many pixels of each upper run have one of the lower run `shift` to the right."""
    begin = np.maximum(runs.first[contacts.upper] + shift, runs.first[contacts.lower])
    end = np.minimum(runs.last[contacts.upper] + shift, runs.last[contacts.lower])
    return np.maximum(end - begin + 1, 0)


def _runs_of_band(values: np.ndarray, grey: np.ndarray | None, top: int, bottom: int) -> Runs:
    band = values[top:bottom]
    width = band.shape[1]
    begins = np.ones(band.shape, bool)
    np.not_equal(band[:, 1:], band[:, :-1], out=begins[:, 1:])
    start = np.flatnonzero(begins)
    end = np.append(start[1:], band.size) - 1
    sums = None
    if grey is not None and start.size:
        sums = np.add.reduceat(grey[top:bottom].ravel(), start, dtype=np.float64)
    row, first = np.divmod(start, width) if width else (start, start)
    return Runs(
        value=band.ravel()[start],
        row=row + top,
        first=first,
        last=end - row * width,
        grey_sum=sums,
    )
