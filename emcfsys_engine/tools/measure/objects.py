"""Objects of one mask and what a microscopist publishes of each: size, shape, grey, neighbours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
from scipy.spatial import KDTree

from emcfsys_engine.errors import ShapeError
from emcfsys_engine.tools.measure.runs import (
    Contacts,
    Runs,
    contacts_of,
    objects_of,
    overlap_px,
    runs_of,
)
from emcfsys_engine.tools.measure.watershed import NECK, split_labels

Split = Literal["none", "watershed"]


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of one mask, in reading order of their topmost pixels.

    Shapes: every array has one entry an object: class_value in the mask's integers, area_px and
            extents int64, touches_border bool, all others float64.
    Units:  lengths and areas are in the unit of the pixel size given, pixels of size 1 without one;
            names with _px are always pixels. Angles are degrees, intensities grey values.
            A centroid counts from the middle of the first pixel. Circularity is 4π area /
            perimeter² (Cox 1927), not cut off: of objects of a few pixels it may be above 1.
    """

    class_value: np.ndarray
    area_px: np.ndarray
    area: np.ndarray
    equivalent_diameter: np.ndarray
    perimeter: np.ndarray
    feret_max: np.ndarray
    feret_min: np.ndarray
    major_axis: np.ndarray
    minor_axis: np.ndarray
    orientation_deg: np.ndarray
    eccentricity: np.ndarray
    circularity: np.ndarray
    solidity: np.ndarray
    centroid_y: np.ndarray
    centroid_x: np.ndarray
    centroid_y_px: np.ndarray
    centroid_x_px: np.ndarray
    neighbour_distance: np.ndarray  # NaN: the only one of its class
    touches_border: np.ndarray
    extent_y_px: np.ndarray  # of the rectangle around it
    extent_x_px: np.ndarray
    mean_intensity: np.ndarray | None
    integrated_intensity: np.ndarray | None

    def __len__(self) -> int:
        return len(self.area_px)


def measure_objects(
    ids: np.ndarray,
    values: Sequence[int],
    *,
    pixel: tuple[float, float] = (1.0, 1.0),
    grey: np.ndarray | None = None,
    split: Split = "none",
    neck: float = NECK,
    min_px: int = 1,
    exclude_border: bool = False,
    numbered: Runs | None = None,
) -> Objects:
    """Measure the objects of the given class values; pixels that touch at a corner are one object.

    Rows and columns may have different sizes: all lengths and angles are those of the specimen.
    Objects below min_px, and with exclude_border those at an edge, are left out before neighbours
    are looked for.
    Where the mask numbers its objects (`numbered`), each number is one object, also where two of
    them touch; nothing is split then.
    Shapes: ids are H×W integers, grey is H×W of any real dtype. Units: pixel is (y, x).
    Raises: ShapeError if grey has another size.
    """
    if grey is not None and grey.shape != ids.shape:
        raise ShapeError(f"the mask is {ids.shape}, its image {grey.shape}")
    if numbered is not None:
        runs = numbered  # a number is of one class
        class_value = ids[runs.row, runs.first]
        runs = runs.where(np.isin(class_value, np.asarray(values, ids.dtype)))
    elif split == "watershed":
        labels = split_labels(ids, values, pixel=pixel, neck=neck)
        runs = runs_of(labels, grey)
        runs = runs.where(runs.value > 0)
    else:
        runs = runs_of(ids, grey)
        runs = runs.where(np.isin(runs.value, np.asarray(values, ids.dtype)))
    contacts = contacts_of(runs, ids.shape[1])
    if numbered is None:
        owner = objects_of(len(runs.row), contacts)
    else:
        _, first_met, places = np.unique(runs.value, return_index=True, return_inverse=True)
        owner = np.argsort(np.argsort(first_met))[places]
    owner, runs, contacts = _kept(owner, runs, contacts, ids.shape, min_px, exclude_border)
    return _measured(ids, runs, contacts, owner, pixel)


def _kept(
    owner: np.ndarray,
    runs: Runs,
    contacts: Contacts,
    shape: tuple[int, ...],
    min_px: int,
    exclude_border: bool,
) -> tuple[np.ndarray, Runs, Contacts]:
    """Leave out what is too small or at an edge."""
    good = np.bincount(owner, runs.length_px) >= min_px
    if exclude_border:
        good[owner[_at_border(runs, shape)]] = False
    if good.all():
        return owner, runs, contacts
    stays = good[owner]
    run_place = np.cumsum(stays) - 1
    both = stays[contacts.upper]
    kept = Contacts(upper=run_place[contacts.upper[both]], lower=run_place[contacts.lower[both]])
    return (np.cumsum(good) - 1)[owner[stays]], runs.where(stays), kept


def _at_border(runs: Runs, shape: tuple[int, ...]) -> np.ndarray:
    height, width = shape[:2]
    sides = (runs.first == 0) | (runs.last == width - 1)
    return sides | (runs.row == 0) | (runs.row == height - 1)


def _measured(
    ids: np.ndarray, runs: Runs, contacts: Contacts, owner: np.ndarray, pixel: tuple[float, float]
) -> Objects:
    num = int(owner.max()) + 1 if owner.size else 0
    _, first_run = np.unique(owner, return_index=True)
    class_value = ids[runs.row[first_run], runs.first[first_run]]
    length = runs.length_px
    area_px = np.bincount(owner, length, num)
    y_px = np.bincount(owner, length * runs.row, num) / area_px
    x_px = np.bincount(owner, length * (runs.first + runs.last) / 2, num) / area_px
    major, minor, angle = _axes(runs, owner, (y_px, x_px), area_px, pixel)
    perimeter = _perimeters(runs, contacts, owner, area_px, pixel)
    area = area_px * (pixel[0] * pixel[1])
    hulls = hulls_of(runs, owner, num)
    feret_max, feret_min = feret_diameters(hulls, pixel)
    centroids = np.column_stack((y_px * pixel[0], x_px * pixel[1]))
    touches = np.zeros(num, bool)
    touches[owner[_at_border(runs, ids.shape)]] = True
    extent_y, extent_x = _extents_px(runs, owner, num)
    sums = None if runs.grey_sum is None else np.bincount(owner, runs.grey_sum, num)
    with np.errstate(invalid="ignore"):
        eccentricity = np.where(major > 0, np.sqrt(np.maximum(0, 1 - (minor / major) ** 2)), 0.0)
    return Objects(
        class_value=class_value,
        area_px=area_px.astype(np.int64),
        area=area,
        equivalent_diameter=np.sqrt(4 * area / math.pi),
        perimeter=perimeter,
        feret_max=feret_max,
        feret_min=feret_min,
        major_axis=major,
        minor_axis=minor,
        orientation_deg=angle,
        eccentricity=eccentricity,
        circularity=4 * math.pi * area / perimeter**2,
        solidity=area_px / convex_areas_px(hulls),
        centroid_y=centroids[:, 0],
        centroid_x=centroids[:, 1],
        centroid_y_px=y_px,
        centroid_x_px=x_px,
        neighbour_distance=_neighbours(centroids, class_value),
        touches_border=touches,
        extent_y_px=extent_y,
        extent_x_px=extent_x,
        mean_intensity=None if sums is None else sums / area_px,
        integrated_intensity=sums,
    )


def _extents_px(runs: Runs, owner: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return height and width of the upright rectangle around each object."""
    extents: list[np.ndarray] = []
    for first, last in ((runs.row, runs.row), (runs.first, runs.last)):
        low, high = np.full(num, np.iinfo(np.int64).max), np.full(num, -1)
        np.minimum.at(low, owner, first)
        np.maximum.at(high, owner, last)
        extents.append(high - low + 1)
    return extents[0], extents[1]


def _axes(
    runs: Runs,
    owner: np.ndarray,
    centre_px: tuple[np.ndarray, np.ndarray],
    area_px: np.ndarray,
    pixel: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return major and minor axis of the ellipse with the same second moments, and its direction.

    The direction is that of the major axis, from the image's x axis towards its top, 0 to 180; NaN
    where no direction is longer than the others.
    Source: as regionprops: axis = 4 √eigenvalue of the covariance of the pixels' centres.
    """
    num, length = len(area_px), runs.length_px
    y = (runs.row - centre_px[0][owner]) * pixel[0]
    x = ((runs.first + runs.last) / 2 - centre_px[1][owner]) * pixel[1]
    within = length * (length**2 - 1) / 12 * pixel[1] ** 2  # of a run about its own middle
    yy = np.bincount(owner, length * y * y, num) / area_px
    xx = np.bincount(owner, length * x * x + within, num) / area_px
    xy = np.bincount(owner, length * x * y, num) / area_px
    half, spread = (yy + xx) / 2, np.hypot((xx - yy) / 2, xy)
    major = 4 * np.sqrt(half + spread)
    minor = 4 * np.sqrt(np.maximum(half - spread, 0))
    degrees = np.degrees(0.5 * np.arctan2(-2 * xy, xx - yy)) % 180
    return major, minor, np.where(spread > 1e-9 * half, degrees, np.nan)


def _perimeters(
    runs: Runs,
    contacts: Contacts,
    owner: np.ndarray,
    area_px: np.ndarray,
    pixel: tuple[float, float],
) -> np.ndarray:
    """Return perimeters from how often lines in four directions cross the border.

    An object with A pixels, P of which have a neighbour of its own in a direction, is entered and
    left 2 (A - P) times along it. Holes count. Each direction stands for the angles nearest to it.
    Source: Crofton's formula as in Legland, Kiêu & Devaux 2007 (Image Anal. Stereol. 26:83), here
            with the weights of a rectangular grid; for squares equal to perimeter_crofton.
    """
    num = len(area_px)
    height, width = pixel
    lean = math.atan2(height, width)  # of the diagonal
    diagonal = math.hypot(height, width)
    whose = owner[contacts.upper]
    pairs = {
        shift: np.bincount(whose, overlap_px(runs, contacts, shift), num) for shift in (-1, 0, 1)
    }
    along = np.bincount(owner, minlength=num)  # A - P along rows: one a run
    crossings = (
        (lean / math.pi) * height * along
        + (0.5 - lean / math.pi) * width * (area_px - pairs[0])
        + 0.25 * (height * width / diagonal) * (2 * area_px - pairs[-1] - pairs[1])
    )
    return math.pi * crossings


def _neighbours(centroids: np.ndarray, class_value: np.ndarray) -> np.ndarray:
    """Return the distance to the nearest centroid of the same class."""
    distance = np.full(len(centroids), np.nan)
    for value in np.unique(class_value):
        mine = np.flatnonzero(class_value == value)
        if len(mine) > 1:
            found, _ = KDTree(centroids[mine]).query(centroids[mine], k=2)
            distance[mine] = found[:, 1]
    return distance


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

    Shapes: points are K×2 float64 (x, y) in pixels; owner, K int64, is each one's object, rising.
    """

    points: np.ndarray
    owner: np.ndarray
    num_objects: int


def hulls_of(runs: Runs, owner: np.ndarray, num_objects: int) -> Hulls:
    """Return the hull of each object.

    Shapes: owner is the object of each run, int64.
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

    Shapes: one float64 an object, twice.
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

    Shapes: one whole float64 an object.
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
