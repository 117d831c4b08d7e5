"""Objects as runs along rows: a few numbers a row of each, whatever the size of the mask.

H and W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from emcfsys_engine.images.rows import PlaneRows
from emcfsys_engine.project import UNLABELLED

_BAND_PX = 1 << 24  # so many pixels are looked at together: memory stays flat on huge masks


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs of one value along rows, in reading order.

    Shapes: all of one length: value any integers, the places int64. first and last are columns,
            both inside the run.
    """

    value: np.ndarray
    row: np.ndarray
    first: np.ndarray
    last: np.ndarray
    grey_sum: np.ndarray | None  # float64, of the image's pixels below the run

    @property
    def length_px(self) -> np.ndarray:
        """How many pixels each run has.

        Shapes: one int64 a run.
        """
        return self.last - self.first + 1

    def where(self, kept: np.ndarray) -> "Runs":
        """Return the runs that a boolean array marks, or those at the places given, in their order.

        Shapes: one bool a run, or integer indices.
        """
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

    Shapes: upper and lower are indices of runs, int64, one a pair each.
    """

    upper: np.ndarray
    lower: np.ndarray


def runs_of(values: np.ndarray, grey: np.ndarray | None, *, nothing: int | None = None) -> Runs:
    """Cut every row into runs of equal values; those of `nothing` are left out.

    Shapes: values are integers H×W, grey is H×W of any real dtype.
    """
    parts = [
        _runs_of_band(values[rows], None if grey is None else grey[rows], rows.start, nothing)
        for rows in _bands(values.shape)
    ]
    return _joined(parts)


def runs_beside(
    ids: np.ndarray, numbers: PlaneRows, background: int, grey: np.ndarray | None
) -> Runs:
    """Return the runs of all objects whose numbers a file beside the mask holds.

    As `all_numbered`, a band at a time: pixels of a class with numbers that have none are no
    object, the connected parts of a class without any are its objects. The class that a mask gives
    a pixel, and so what a class covers, is left as it is.
    Shapes: ids are uint8 H×W, of the file's first H rows; grey is H×W of any real dtype.
    """
    nothing = background if background >= 0 else UNLABELLED
    have, bare = np.zeros((2, UNLABELLED + 1), bool)
    parts: list[Runs] = []
    for rows in _bands(ids.shape):
        own, mine = numbers.read(rows.start, rows.stop), ids[rows]
        have |= np.bincount(mine[own > 0], minlength=len(have)) > 0
        bare |= np.bincount(mine[own == 0], minlength=len(bare)) > 0
        own = np.where(mine == nothing, 0, own)
        below = None if grey is None else grey[rows]
        parts.append(_runs_of_band(own, below, rows.start, nothing=0))
    runs = _joined(parts)
    for value in np.flatnonzero(bare & ~have).tolist():
        if value not in (nothing, UNLABELLED):
            runs = _with_parts_of(value, ids, grey, runs)
    return runs


def _with_parts_of(value: int, ids: np.ndarray, grey: np.ndarray | None, runs: Runs) -> Runs:
    """Add the connected parts of a class, numbered behind those that are there."""
    found = runs_of(ids, grey)
    found = found.where(found.value == value)
    owner = objects_of(len(found.row), contacts_of(found, ids.shape[1]))
    largest = int(runs.value.max(initial=0))
    every = _joined([runs, replace(found, value=owner + largest + 1)])
    return every.where(np.lexsort((every.first, every.row)))


def painted(runs: Runs, size_HW: tuple[int, ...]) -> np.ndarray:
    """Return the rank of each pixel's value among all of them, from 1; 0 outside the runs.

    Shapes: int32 H×W.
    """
    width = size_HW[1]
    _, rank = np.unique(runs.value, return_inverse=True)
    rank = rank.astype(np.int32) + 1
    made = np.zeros(size_HW[:2], np.int32)
    for rows in _bands(size_HW):
        mine = slice(*np.searchsorted(runs.row, (rows.start, rows.stop)))
        steps = np.zeros((rows.stop - rows.start, width + 1), np.int32)
        row = runs.row[mine] - rows.start
        steps[row, runs.first[mine]] += rank[mine]
        steps[row, runs.last[mine] + 1] -= rank[mine]
        made[rows] = steps[:, :-1].cumsum(axis=1, dtype=np.int32)
    return made


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


def told_of_numbers(runs: Runs, width: int) -> list[str]:
    """Say what a person may not have meant with the numbers of a mask: one line each."""
    numbers = np.unique(runs.value)
    num_parts = int(objects_of(len(runs.row), contacts_of(runs, width)).max(initial=-1)) + 1
    said: list[str] = []
    if num_parts > len(numbers):
        said.append(f"{num_parts - len(numbers):,} parts that touch no other were joined by number")
    most = {1: 255, 2: 65_535}.get(runs.value.dtype.itemsize, 0)
    if most and len(numbers) == most:
        said.append("it has all numbers that it can hold: save 32 bits if some objects are lost")
    return said


def overlap_px(runs: Runs, contacts: Contacts, shift: int) -> np.ndarray:
    """Return how many pixels of each upper run have one of the lower run `shift` to the right.

    Shapes: one int64 a pair of `contacts`.
    """
    begin = np.maximum(runs.first[contacts.upper] + shift, runs.first[contacts.lower])
    end = np.minimum(runs.last[contacts.upper] + shift, runs.last[contacts.lower])
    return np.maximum(end - begin + 1, 0)


def _bands(size_HW: tuple[int, ...]) -> Iterator[slice]:
    height, width = size_HW[:2]
    rows_at_once = max(1, _BAND_PX // max(1, width))
    for top in range(0, height, rows_at_once):
        yield slice(top, min(height, top + rows_at_once))


def _joined(parts: list[Runs]) -> Runs:
    sums = [part.grey_sum for part in parts if part.grey_sum is not None]
    return Runs(
        value=np.concatenate([part.value for part in parts]),
        row=np.concatenate([part.row for part in parts]),
        first=np.concatenate([part.first for part in parts]),
        last=np.concatenate([part.last for part in parts]),
        grey_sum=np.concatenate(sums) if sums else None,
    )


def _runs_of_band(band: np.ndarray, grey: np.ndarray | None, top: int, nothing: int | None) -> Runs:
    width = band.shape[1]
    begins = np.ones(band.shape, bool)
    np.not_equal(band[:, 1:], band[:, :-1], out=begins[:, 1:])
    start = np.flatnonzero(begins)
    end = np.append(start[1:], band.size) - 1
    sums = None
    if grey is not None and start.size:
        sums = np.add.reduceat(grey.ravel(), start, dtype=np.float64)
    row, first = np.divmod(start, width) if width else (start, start)
    found = Runs(
        value=band.ravel()[start],
        row=row + top,
        first=first,
        last=end - row * width,
        grey_sum=sums,
    )
    return found if nothing is None else found.where(found.value != nothing)
