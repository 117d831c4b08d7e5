"""Touching objects parted at their necks: watershed of the distance to the border."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from emcfsys_engine.annotations.numbered import root_of

NECK = 0.75
_BAND_ROWS = 64  # so few that they stay in the processor's cache
_LEAST_DEPTH_PX = 1.0  # shallower necks are the roughness of any border drawn in pixels


def split_labels(
    ids: np.ndarray,
    values: Sequence[int],
    *,
    pixel: tuple[float, float] = (1.0, 1.0),
    neck: float = NECK,
) -> np.ndarray:
    """Return a label for each part of each object, 0 where there is none.

    Two parts stay one object when the neck between them is wider than `neck` times the smaller
    part, or less than one pixel narrower: both as radii of the largest discs that fit in.
    Shapes: ids are H×W integers; the result is int32 H×W.
    Source: watershed of the distance map, Beucher & Lantuéjoul 1979; basins are merged in the order
            of their passes (Najman & Schmitt 1996), with a relative depth where they use heights.
    """
    groups = [[value] for value in values] if _touch(ids, values) else [list(values)]
    labels = np.zeros(ids.shape, np.int32)
    largest = 0
    for group in groups:
        inside = np.isin(ids, group)
        if not inside.any():
            continue
        depth = _depth(inside, pixel)
        basins, peak = _basins(inside, depth)
        parts = _merged(basins, peak, depth, neck, _LEAST_DEPTH_PX * min(pixel))
        parts = _class_by_class(parts, basins, ids, group)[basins]
        np.add(parts, largest, out=labels, where=inside, casting="unsafe")
        largest = int(labels.max())
    return labels


def _touch(ids: np.ndarray, values: Sequence[int]) -> bool:
    """Tell whether objects of different classes are neighbours anywhere.

    Where they are not, the nearest pixel outside an object is of no class: distances and basins of
    all classes are found at once.
    """
    chosen = np.isin(ids, values)
    return any(
        bool(((ids[here] != ids[there]) & chosen[here] & chosen[there]).any())
        for here, there in _NEIGHBOURS
    )


def _basins(inside: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a number for each pixel, that of the peak it drains to, and how deep each peak is.

    Most objects have one peak and are one basin: only the others are flooded.
    Shapes: H×W, 0 outside; the depth of peak n is at n, 0 at 0.
    """
    # A rim of nothing: a peak is one only where something around it is lower.
    depth, inside = np.pad(depth, 1), np.pad(inside, 1)
    eight = np.ones((3, 3))
    highest = np.asarray(local_maxima(depth, connectivity=2)) & inside
    peaks, num = cast("tuple[np.ndarray, int]", ndimage.label(highest, eight))
    objects, _ = cast("tuple[np.ndarray, int]", ndimage.label(inside, eight))
    place = np.flatnonzero(peaks)
    peak_of, object_of = peaks.ravel()[place], objects.ravel()[place]
    home = np.zeros(num + 1, np.int64)
    home[peak_of] = object_of
    height = np.zeros(num + 1)
    height[peak_of] = depth.ravel()[place]  # a peak is level
    many = np.bincount(home[1:], minlength=int(objects.max()) + 1) > 1
    only = np.zeros(len(many), peaks.dtype)
    only[home[1:]] = np.arange(1, num + 1)
    basins = np.where(many, 0, only)[objects]
    rest = many[objects]
    if rest.any():
        basins += watershed(-depth, np.where(rest, peaks, 0), mask=rest, connectivity=2)
    return basins[1:-1, 1:-1], height


def _class_by_class(
    parts: np.ndarray, basins: np.ndarray, ids: np.ndarray, group: Sequence[int]
) -> np.ndarray:
    """Number the parts of the first class first. Shapes: parts has a part for each basin."""
    if len(group) < 2:
        return parts
    order = np.zeros(int(max(group)) + 1, np.int64)
    order[list(group)] = np.arange(len(group))
    inside = basins > 0
    place = np.zeros(int(parts.max()) + 1, np.int64)  # of each part's class
    place[parts[basins[inside]]] = order[ids[inside]] + 1  # part 0 is no part, and stays first
    new = np.empty_like(place)
    new[np.argsort(place, kind="stable")] = np.arange(len(place))
    return new[parts].astype(np.int32)


def _depth(inside: np.ndarray, pixel: tuple[float, float]) -> np.ndarray:
    """Return how far each pixel lies from the border; the image's edge is none."""
    if inside.all():
        return np.ones(inside.shape, np.float32)
    nearest = np.asarray(
        ndimage.distance_transform_edt(inside, pixel, return_distances=False, return_indices=True)
    )
    depth = np.empty(inside.shape, np.float32)
    columns = np.arange(inside.shape[1])
    for top in range(0, len(inside), _BAND_ROWS):  # scipy's own distances are whole, in float64
        rows = slice(top, top + _BAND_ROWS)
        down = (nearest[0, rows] - np.arange(len(inside))[rows, None]) * float(pixel[0])
        across = (nearest[1, rows] - columns) * float(pixel[1])
        depth[rows] = np.sqrt(down * down + across * across)
    return depth


def _merged(
    basins: np.ndarray, peak: np.ndarray, depth: np.ndarray, neck: float, least: float
) -> np.ndarray:
    """Return the part that each basin belongs to, by basin number; 0 stays 0."""
    num, peak = len(peak) - 1, peak.copy()
    parent = list(range(num + 1))
    for one, other, height in _passes(basins, depth, num):
        first, second = root_of(parent, one), root_of(parent, other)
        lower = min(peak[first], peak[second])
        if first != second and (height >= neck * lower or lower - height < least):
            parent[max(first, second)] = min(first, second)
            peak[min(first, second)] = max(peak[first], peak[second])
    roots = np.array([root_of(parent, basin) for basin in range(num + 1)])
    return np.unique(roots, return_inverse=True)[1].astype(np.int32)


def _passes(basins: np.ndarray, depth: np.ndarray, num: int) -> list[tuple[int, int, float]]:
    """Return the deepest pass between each two basins that touch, deepest first."""
    keys: list[np.ndarray] = []
    heights: list[np.ndarray] = []
    for here, there in _NEIGHBOURS:
        one, other = basins[here], basins[there]
        meet = (one != other) & (one > 0) & (other > 0)
        low, high = np.minimum(one[meet], other[meet]), np.maximum(one[meet], other[meet])
        keys.append(low.astype(np.int64) * (num + 1) + high)
        heights.append(np.minimum(depth[here][meet], depth[there][meet]))
    pair, place = np.unique(np.concatenate(keys), return_inverse=True)
    deepest = np.zeros(len(pair))
    np.maximum.at(deepest, place, np.concatenate(heights))
    order = np.argsort(-deepest, kind="stable")
    low, high = np.divmod(pair[order], num + 1)
    return list(zip(low.tolist(), high.tolist(), deepest[order].tolist(), strict=True))


_ALL, _BUT_LAST, _BUT_FIRST = slice(None), slice(None, -1), slice(1, None)
_NEIGHBOURS = (
    ((_ALL, _BUT_LAST), (_ALL, _BUT_FIRST)),
    ((_BUT_LAST, _ALL), (_BUT_FIRST, _ALL)),
    ((_BUT_LAST, _BUT_LAST), (_BUT_FIRST, _BUT_FIRST)),
    ((_BUT_LAST, _BUT_FIRST), (_BUT_FIRST, _BUT_LAST)),
)
