"""Convex hulls of many objects at once: Feret diameters, and the area inside the hull."""

from dataclasses import dataclass

import numpy as np
import shapely
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
        """How many pixels each run has.

        Shapes: one number a run.
        """
        return self.last - self.first + 1

    def where(self, kept: np.ndarray) -> "Runs":
        """Return the runs that a boolean array marks.

        Shapes: bool H×W.
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

    Shapes: upper and lower are indices of runs.
    """

    upper: np.ndarray
    lower: np.ndarray


def runs_of(values: np.ndarray, grey: np.ndarray | None, *, nothing: int | None = None) -> Runs:
    """Cut every row into runs of equal values; those of `nothing` are left out.

    Shapes: values are integers H×W, grey is any number H×W.
    """
    height, width = values.shape
    rows_at_once = max(1, _BAND_PX // max(1, width))
    parts = [
        _runs_of_band(values, grey, top, min(height, top + rows_at_once))
        for top in range(0, height, rows_at_once)
    ]
    if nothing is not None:
        parts = [part.where(part.value != nothing) for part in parts]
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
    """Return how many pixels of each upper run have one of the lower run `shift` to the right.

    Shapes: one number a run.
    """
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


# A pixel is the diamond through the middles of its sides: its extent along rows and columns is one
# pixel, and a drawn disc's diameter has no bias. scikit-image's hulls are the same.
_DIAMOND = np.array([(0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)])
_AT_ONCE = 1 << 21  # distances held in memory together
_ROUNDING_PX = 1e-9


@dataclass(frozen=True, kw_only=True)
class Hulls:
    """Convex hulls of objects as closed rings.

    Shapes: points are K×2 as (x, y) in pixels; owner holds the object of each, rising.
    """

    points: np.ndarray
    owner: np.ndarray
    num_objects: int


def hulls_of(runs: Runs, owner: np.ndarray, num_objects: int) -> Hulls:
    """Return the hull of each object.

    Shapes: owner is the object of each run.
    """
    if not num_objects:
        return Hulls(points=np.zeros((0, 2)), owner=owner, num_objects=0)
    order = np.argsort(owner, kind="stable")
    mine, row = owner[order], runs.row[order]
    changes = np.ones(len(order), bool)
    changes[1:] = (mine[1:] != mine[:-1]) | (row[1:] != row[:-1])
    start = np.flatnonzero(changes)
    end = np.append(start[1:], len(order)) - 1
    # Of each row of an object only its two ends can lie on the hull.
    left = np.column_stack((runs.first[order[start]], row[start]))
    right = np.column_stack((runs.last[order[end]], row[start]))
    ends = np.stack((left, right), axis=1).reshape(-1, 2).astype(np.float64)
    centres, whose = _hull(ends, np.repeat(mine[start], 2))
    corners = (centres[:, None] + _DIAMOND).reshape(-1, 2)
    points, whose = _hull(corners, np.repeat(whose, len(_DIAMOND)))
    return Hulls(points=points, owner=whose, num_objects=num_objects)


def feret_diameters(hulls: Hulls, pixel: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest and the smallest distance between two parallel lines around each object.

    Shapes: one number an object, twice. Units: as `pixel_nm`, else pixels.
    Units:  as pixel, which is the size (y, x) of a pixel.
    Source: Feret 1930; the smallest lies across a side of the hull (Freeman & Shapira 1975).
    """
    points = hulls.points * (pixel[1], pixel[0])
    count = np.bincount(hulls.owner, minlength=hulls.num_objects)
    begin = np.cumsum(count) - count
    largest, smallest = np.zeros(hulls.num_objects), np.zeros(hulls.num_objects)
    bucket = np.ceil(np.log2(np.maximum(count, 1))).astype(int)
    for power in np.unique(bucket):
        members = np.flatnonzero(bucket == power)
        size = 1 << int(power)
        at_once = max(1, _AT_ONCE // size**2)
        for first in range(0, len(members), at_once):
            few = members[first : first + at_once]
            # Rings shorter than the bucket repeat their last point: a side of length 0.
            steps = np.minimum(np.arange(size), count[few, None] - 1)
            rings = points[begin[few, None] + steps]
            largest[few], smallest[few] = _extents(rings)
    return largest, smallest


def convex_areas_px(hulls: Hulls) -> np.ndarray:
    """Return how many pixels have their centre inside each hull, as scikit-image counts them.

    Shapes: one number an object.
    """
    if not hulls.num_objects:
        return np.zeros(0)
    same = hulls.owner[1:] == hulls.owner[:-1]
    begin, end = hulls.points[:-1][same], hulls.points[1:][same]
    owner = hulls.owner[1:][same]
    low, high = np.minimum(begin[:, 1], end[:, 1]), np.maximum(begin[:, 1], end[:, 1])
    first_row, last_row = np.ceil(low).astype(int), np.floor(high).astype(int)
    count = np.where(high > low, np.maximum(last_row - first_row + 1, 0), 0)
    side = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(side)) - np.repeat(np.cumsum(count) - count, count) + first_row[side]
    share = (row - begin[side, 1]) / (end[side, 1] - begin[side, 1])
    x = begin[side, 0] + share * (end[side, 0] - begin[side, 0])
    top = np.full(hulls.num_objects, np.iinfo(np.int64).max)
    bottom = np.full(hulls.num_objects, -1)
    np.minimum.at(top, owner, first_row)
    np.maximum.at(bottom, owner, last_row)
    place = np.cumsum(np.append(0, bottom - top + 1))
    line = place[owner[side]] + row - top[owner[side]]
    left, right = np.full(place[-1], np.inf), np.full(place[-1], -np.inf)
    np.minimum.at(left, line, x)
    np.maximum.at(right, line, x)
    pixels = np.floor(right + _ROUNDING_PX) - np.ceil(left - _ROUNDING_PX) + 1
    return np.add.reduceat(pixels, place[:-1])


def _hull(points: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hull's points of each owner's points. Shapes: K×2, and K rising owners."""
    lines = shapely.linestrings(points, indices=owner)
    return shapely.get_coordinates(shapely.convex_hull(lines), return_index=True)


def _extents(rings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the greatest and the least extent of rings. Shapes: N×M×2."""
    x, y = rings[..., 0], rings[..., 1]
    across = x[:, :, None] - x[:, None, :]
    down = y[:, :, None] - y[:, None, :]
    largest = np.sqrt((across**2 + down**2).max(axis=(1, 2)))
    side_x, side_y = np.roll(x, -1, axis=1) - x, np.roll(y, -1, axis=1) - y
    length = np.hypot(side_x, side_y)
    # Distance of every point j from the line through side i.
    height = np.abs(side_x[:, :, None] * -down + side_y[:, :, None] * across).max(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        width = np.where(length > 0, height / length, np.inf)
    return largest, width.min(axis=1)
