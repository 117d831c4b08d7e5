"""Convex hulls of many objects at once: Feret diameters, and the area inside the hull."""

from dataclasses import dataclass

import numpy as np
import shapely

from emcfsys_engine.tools.measure.runs import Runs

# A pixel is the diamond through the middles of its sides: its extent along rows and columns is one
# pixel, and a drawn disc's diameter has no bias. scikit-image's hulls are the same.
_DIAMOND = np.array([(0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)])
_AT_ONCE = 1 << 21  # distances held in memory together
_STEP = 8  # rings of up to so many points more or less are looked at together
_ROUNDING_PX = 1e-9
_ROUNDS = 4  # of leaving out: a disc of 50 pixels keeps a quarter of its ends


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
    # Of each row of an object only its two ends can lie on the hull, and of these few do.
    left = _outermost(runs.first[order[start]], row[start], mine[start])
    right = _outermost(-runs.last[order[end]], row[start], mine[start])
    centres = np.concatenate((left[0], right[0] * (-1, 1)))
    whose = np.concatenate((left[1], right[1]))
    order = np.argsort(whose, kind="stable")
    corners = (centres[order, None] + _DIAMOND).reshape(-1, 2)
    points, whose = _hull(corners, np.repeat(whose[order], len(_DIAMOND)))
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
    bucket = -(-count // _STEP) * _STEP
    for size in np.unique(bucket[bucket > 0]).tolist():
        members = np.flatnonzero(bucket == size)
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


def _outermost(x: np.ndarray, y: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out most points that are not left of the line between those above and below.

    Such a point is no corner of a hull, whatever else is left out with it.
    Shapes: K numbers each, the points of an owner from top to bottom; M×2 as (x, y), and M owners.
    """
    for _ in range(_ROUNDS):
        kept = np.ones(len(x), bool)
        down, along = y[2:] - y[:-2], y[1:-1] - y[:-2]
        is_left = (x[1:-1] - x[:-2]) * down < (x[2:] - x[:-2]) * along
        kept[1:-1] = is_left | (owner[2:] != owner[:-2])
        x, y, owner = x[kept], y[kept], owner[kept]
    return np.column_stack((x, y)).astype(np.float64), owner


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
