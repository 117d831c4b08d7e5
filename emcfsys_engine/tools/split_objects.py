"""Touching objects parted at their necks: watershed of the distance to the border."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

NECK = 0.75
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
    labels = np.zeros(ids.shape, np.int32)
    largest = 0
    for value in values:
        inside = ids == value
        if not inside.any():
            continue
        depth = _depth(inside, pixel)
        # A rim of nothing: a peak is one only where something around it is lower.
        basins = watershed(np.pad(-depth, 1), mask=np.pad(inside, 1), connectivity=2)[1:-1, 1:-1]
        parts = _merged(basins, depth, neck, _LEAST_DEPTH_PX * min(pixel))[basins]
        np.add(parts, largest, out=labels, where=inside, casting="unsafe")
        largest = int(labels.max())
    return labels


def _depth(inside: np.ndarray, pixel: tuple[float, float]) -> np.ndarray:
    """Return how far each pixel lies from the border; the image's edge is none."""
    if inside.all():
        return np.ones(inside.shape, np.float32)
    return np.asarray(ndimage.distance_transform_edt(inside, pixel), np.float32)


def _merged(basins: np.ndarray, depth: np.ndarray, neck: float, least: float) -> np.ndarray:
    """Return the part that each basin belongs to, by basin number; 0 stays 0."""
    num = int(basins.max())
    peak = np.zeros(num + 1)
    inside = basins > 0
    np.maximum.at(peak, basins[inside], depth[inside])
    parent = list(range(num + 1))
    for one, other, height in _passes(basins, depth, num):
        first, second = _root(parent, one), _root(parent, other)
        lower = min(peak[first], peak[second])
        if first != second and (height >= neck * lower or lower - height < least):
            parent[max(first, second)] = min(first, second)
            peak[min(first, second)] = max(peak[first], peak[second])
    roots = np.array([_root(parent, basin) for basin in range(num + 1)])
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


def _root(parent: list[int], basin: int) -> int:
    while parent[basin] != basin:
        parent[basin] = parent[parent[basin]]
        basin = parent[basin]
    return basin


_ALL, _BUT_LAST, _BUT_FIRST = slice(None), slice(None, -1), slice(1, None)
_NEIGHBOURS = (
    ((_ALL, _BUT_LAST), (_ALL, _BUT_FIRST)),
    ((_BUT_LAST, _ALL), (_BUT_FIRST, _ALL)),
    ((_BUT_LAST, _BUT_LAST), (_BUT_FIRST, _BUT_FIRST)),
    ((_BUT_LAST, _BUT_FIRST), (_BUT_FIRST, _BUT_LAST)),
)
