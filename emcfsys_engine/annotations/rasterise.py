"""Shapes to class ids: as Labelme draws its own shapes, by pixel centres for all other tools."""

import math
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

from emcfsys_engine.annotations.shapes import Shape

LINE_PX = 10  # Labelme's defaults: a line is 10 pixels wide, a point a disc of radius 5
POINT_RADIUS_PX = 5
_FAR = 4  # times the image's size: nothing drawn farther out can matter, but could take for ever


def rasterise(
    shapes: Iterable[tuple[Shape, int]], size_HW: tuple[int, int], *, background: int
) -> np.ndarray:
    """Return class ids; later shapes lie over earlier ones.

    Shapes: uint8 H×W.
    Source: labelme.utils.shape_to_mask for its own kinds (line width 10, point radius 5).
    """
    canvas = np.full(size_HW, background, np.uint8)
    for shape, class_id in shapes:
        paint(canvas, shape, class_id)
    return canvas


def paint(canvas: np.ndarray, shape: Shape, class_id: int) -> int:
    """Paint one shape in place and return how many pixels it covers.

    Shapes: canvas is uint8 H×W.
    """
    found = mask_of(shape, canvas.shape)
    if found is None:
        return 0
    (top, left), mask = found
    canvas[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = class_id
    return int(mask.sum())


def mask_of(shape: Shape, size_HW: tuple[int, ...]) -> tuple[tuple[int, int], np.ndarray] | None:
    """Return the (top, left) corner and a bool mask of the part inside the image, or None."""
    if shape.kind == "bitmap":
        return _clipped_bitmap(shape, size_HW)
    points = np.concatenate(shape.rings) if shape.rings else np.empty((0, 2))
    if not len(points) or not np.isfinite(points).all():
        return None
    box = _box(shape, points, size_HW)
    if box is None:
        return None
    left, top, right, bottom = box
    size = (bottom - top, right - left)
    limit = _FAR * max(size_HW) + 1000
    rings = [np.clip(ring, -limit, limit) - (left, top) for ring in shape.rings]
    mask = fill_rings(rings, size) if shape.kind == "rings" else _draw(shape, rings[0], size)
    return (top, left), mask


def fill_rings(rings: Iterable[np.ndarray], size_HW: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centres lie inside an odd number of rings.

    Each edge flips, in every row whose centre it crosses, the pixels to the right of the crossing;
    a running exclusive-or along the rows then leaves the inside. Cost: the sum of edge heights.
    Shapes: rings are N×2 (x, y) in pixel corners; bool H×W out.
    """
    height, width = size_HW
    flips = np.zeros((height, width + 1), np.uint8)
    for ring in rings:
        if len(ring) < 3:
            continue
        x, y = ring[:, 0], ring[:, 1]
        rows, columns = _crossings(x, y, np.roll(x, -1), np.roll(y, -1), height)
        np.bitwise_xor.at(flips, (rows, np.clip(columns, 0, width)), 1)
    return np.bitwise_xor.accumulate(flips[:, :width], axis=1).astype(bool)


def _crossings(
    x0: np.ndarray, y0: np.ndarray, x1: np.ndarray, y1: np.ndarray, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return for every edge and row it crosses: the row, and the first column right of it."""
    low, high = np.minimum(y0, y1), np.maximum(y0, y1)
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)  # half open: shared ends once
    counts = last - first
    edge = np.repeat(np.arange(len(x0)), counts)
    start = np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.arange(len(edge)) - start + first[edge]
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    across = x0[edge] + (rows + 0.5 - y0[edge]) * slope
    # Columns are clipped before the cast: a float beyond int64 has no defined integer.
    return rows, np.ceil(np.clip(across, -1.0, 1e9) - 0.5).astype(np.int64)


def _box(
    shape: Shape, points: np.ndarray, size_HW: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Return left, top, right, bottom of the pixels the shape can touch, inside the image."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 2.0
    if shape.kind == "circle" and len(points) > 1:
        radius = float(np.hypot(*(points[0] - points[1])))
        low, high = points[0] - radius, points[0] + radius
    elif shape.kind in ("line", "linestrip", "point"):
        margin = LINE_PX + 2
    left, top = (int(max(0, math.floor(v - margin))) for v in np.clip(low, -1e9, 1e9))
    right = int(min(size_HW[1], math.ceil(min(high[0], 1e9) + margin)))
    bottom = int(min(size_HW[0], math.ceil(min(high[1], 1e9) + margin)))
    return (left, top, right, bottom) if left < right and top < bottom else None


def _draw(shape: Shape, points: np.ndarray, size_HW: tuple[int, int]) -> np.ndarray:
    image = Image.new("L", (size_HW[1], size_HW[0]))
    draw = ImageDraw.Draw(image)
    xy = [(float(x), float(y)) for x, y in points]
    if shape.kind == "polygon" and len(xy) > 2:
        draw.polygon(xy, outline=1, fill=1)
    elif shape.kind == "rectangle" and len(xy) >= 2:
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        draw.rectangle((left, top, right, bottom), outline=1, fill=1)
    elif shape.kind == "circle" and len(xy) == 2:
        (x, y), radius = xy[0], math.dist(xy[0], xy[1])
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    elif shape.kind in ("line", "linestrip") and len(xy) >= 2:
        draw.line(xy, fill=1, width=LINE_PX)
    elif shape.kind == "point":
        r = POINT_RADIUS_PX
        for x, y in xy:
            draw.ellipse((x - r, y - r, x + r, y + r), outline=1, fill=1)
    return np.asarray(image, dtype=bool)


def _clipped_bitmap(
    shape: Shape, size_HW: tuple[int, ...]
) -> tuple[tuple[int, int], np.ndarray] | None:
    if shape.bitmap is None:
        return None
    left, top = shape.origin_xy
    height, width = shape.bitmap.shape
    cut_left, cut_top = max(0, -left), max(0, -top)
    cut_right, cut_bottom = min(width, size_HW[1] - left), min(height, size_HW[0] - top)
    if cut_left >= cut_right or cut_top >= cut_bottom:
        return None
    inside = shape.bitmap[cut_top:cut_bottom, cut_left:cut_right]
    return (top + cut_top, left + cut_left), inside
