"""Class ids to outlines: exact, or simplified within a stated tolerance; holes are kept."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy  # its parts are loaded when they are named
import shapely
from PIL import Image, ImageDraw
from skimage.measure import find_contours

from emcfsys_engine.annotations.masks import LabelTable
from emcfsys_engine.annotations.shapes import Annotation, Shape, SkippedShape
from emcfsys_engine.errors import UnknownClassError
from emcfsys_engine.project import UNLABELLED

LINE_PX = 10  # Labelme's defaults: a line is 10 pixels wide, a point a disc of radius 5
POINT_RADIUS_PX = 5
_FAR = 4  # times the image's size: nothing drawn farther out can matter, but could take for ever


def paint(canvas: np.ndarray, shape: Shape, class_id: int) -> int:
    """Paint one shape in place and return how many pixels it covers.

    Shapes: canvas is uint8 H×W.
    Source: labelme.utils.shape_to_mask for its own kinds (line width 10, point radius 5).
    """
    found = mask_of(shape, canvas.shape)
    if found is None:
        return 0
    (top, left), mask = found
    canvas[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = class_id
    return int(mask.sum())


def mask_of(shape: Shape, size_HW: tuple[int, ...]) -> tuple[tuple[int, int], np.ndarray] | None:
    """Return the (top, left) corner and a bool mask of the part inside the image, or None.

    Shapes: the mask is bool, as large as the part.
    """
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
    Shapes: rings are N×2 float64 (x, y) in pixel corners; bool H×W out.
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
        margin = (shape.width_px or LINE_PX) + 2
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
        draw.line(xy, fill=1, width=shape.width_px or LINE_PX)
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


def annotation_ids(
    annotation: Annotation, table: LabelTable, size_HW: tuple[int, int]
) -> np.ndarray:
    """Return the class ids that an annotation's shapes paint; 255 is unlabelled.

    What is not drawn is background or unlabelled, as the source says; inside a reviewed shape it is
    background. The pixels of a skipped shape are unlabelled in its place of the drawing order;
    where it may be anywhere, nothing undrawn is background.
    Shapes: uint8 H×W.
    Raises: AnnotationError for a label that is no class.
    """
    annotation = annotation.in_pixels(size_HW)
    lost = [one for one in annotation.skipped if _matters(one, table)]
    in_doubt = is_in_doubt(annotation, table)
    canvas = np.full(size_HW, UNLABELLED if in_doubt else table.undrawn, np.uint8)
    shapes = annotation.shapes
    if not in_doubt:
        for shape in shapes:
            if table.is_reviewed(shape):
                paint(canvas, shape, table.background)
    for number, shape in enumerate(shapes):
        _paint_lost(canvas, lost, number)
        if not table.is_reviewed(shape):
            paint(canvas, shape, _class_of(annotation, shape, table))
    _paint_lost(canvas, lost, len(shapes))
    return canvas


def is_in_doubt(annotation: Annotation, table: LabelTable) -> bool:
    """Tell whether a skipped shape of a class may lie anywhere in the image."""
    return any(one.in_doubt and _matters(one, table) for one in annotation.skipped)


def _class_of(annotation: Annotation, shape: Shape, table: LabelTable) -> int:
    class_id = table.of_shape(shape)
    if class_id is None:
        raise unknown_label(annotation.file, shape.full_name or shape.label, table)
    return class_id


def _matters(one: SkippedShape, table: LabelTable) -> bool:
    """Tell whether a skipped shape is of a class, as far as known: else it means no pixels."""
    return one.label is None or table.of_name(one.label) is not None


def _paint_lost(canvas: np.ndarray, lost: list[SkippedShape], number: int) -> None:
    for one in lost:
        if one.below == number and one.outline is not None:
            paint(canvas, one.outline, UNLABELLED)


def unknown_label(path: Path, name: str, table: LabelTable) -> UnknownClassError:
    """Return the error for a label that is no class, with the nearest that is."""
    near = table.nearest_name(name)
    remedy = f'Did you mean "{near}"? ' if near else ""
    remedy += f'Add it to [classes], or map it under [data.labels]: "{name}" = "…"'
    return UnknownClassError(path, f'label "{name}" is no class', remedy)


_TOUCHING = np.ones((3, 3), bool)  # pixels that touch at a corner belong together
_MOST_ROUNDS = 40
_LEAST_AGREEMENT = 0.98  # a simplified outline that agrees less with its region is written exactly
_LEAST_OVERLAP = 0.992  # and all are, where a whole class would overlap less
_JUST_INSIDE = 1 - 1e-3  # the level at which a contour runs through the pixels' centres
MOST_TOLERANCE_PX = 2.0
TOLERANCE_PX = 0.3  # below 0.35 no pixel's centre changes sides


@dataclass(frozen=True, kw_only=True)
class DrawnRegion:
    """Connected pixels of one class, with their holes; or a numbered object, of all its parts.

    Shapes: rings are N×2 float64 (x, y) in pixel corners, the largest one first.
    """

    class_id: int
    rings: tuple[np.ndarray, ...]
    area_px: int

    def polygons(self) -> list[list[np.ndarray]]:
        """Return the rings of each part: the outer one, then those of its holes.

        Outlines of pixels never touch: a ring inside an odd number of others is a hole.
        """
        if len(self.rings) == 1:
            return [list(self.rings)]
        closed = [shapely.Polygon(ring) for ring in self.rings]
        starts = shapely.points([ring[0] for ring in self.rings])
        inner, around = shapely.STRtree(closed).query(starts, predicate="within")
        depth = np.bincount(inner, minlength=len(self.rings))
        parts = {n: [ring] for n, ring in enumerate(self.rings) if not depth[n] % 2}
        for ring, outer in zip(inner.tolist(), around.tolist(), strict=True):
            if depth[ring] % 2 and depth[outer] == depth[ring] - 1:
                parts[outer].append(self.rings[ring])
        return list(parts.values())


def regions_of(
    ids: np.ndarray,
    *,
    background: int,
    tolerance_px: float = TOLERANCE_PX,
    smallest_px: int = 0,
    numbers: np.ndarray | None = None,
) -> Iterator[DrawnRegion]:
    """Yield every connected region of every class but the background, largest class value last.

    Where objects are numbered, those that touch are regions of their own.
    Shapes: ids are uint8 H×W, numbers integers H×W.
    Units:  outlines stray at most tolerance_px; regions below smallest_px are left out.
    """
    for class_id in np.unique(ids):
        if class_id == background:
            continue
        where = ids == class_id
        found = _components(where) if numbers is None else _numbered(where, numbers)
        for (rows, columns), mask in found:
            area = int(mask.sum())
            if area < smallest_px:
                continue
            contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5, "high")
            # find_contours counts rows first, from pixel centres, and the padding added one.
            rings = [contour[:-1, ::-1] - 0.5 + (columns.start, rows.start) for contour in contours]
            rings.sort(key=lambda ring: -np.ptp(ring[:, 0]) * np.ptp(ring[:, 1]))
            simple = tuple(_simplified(ring, tolerance_px) for ring in rings)
            yield DrawnRegion(class_id=int(class_id), rings=simple, area_px=area)


def shapes_of(
    ids: np.ndarray,
    names: Mapping[int, str],
    *,
    background: int,
    tolerance_px: float = 0.5,
    smallest_px: int = 0,
) -> list[Shape]:
    """Return polygons that, drawn one over another as Labelme does, paint these class ids.

    Labelme's polygons have no holes: what lies in a hole is drawn after what surrounds it, and
    carries its own label, also where that is the background. So a person can correct either.
    Where the tolerance would cost a class more than 1 % of its overlap, outlines are exact.
    Shapes: ids are H×W integers: uint8, or int32 of `with_own_values`.
    Units:  outlines stray at most tolerance_px; regions below smallest_px are left out.
    """
    if not 0 <= tolerance_px <= MOST_TOLERANCE_PX:
        raise ValueError(f"a tolerance of {tolerance_px} px is outside 0 to {MOST_TOLERANCE_PX}")
    shapes, painted, left_out = _drawn(ids, names, background, tolerance_px, smallest_px)
    if tolerance_px > 0 and _worst_overlap(ids, painted, left_out) < _LEAST_OVERLAP:
        return _drawn(ids, names, background, 0.0, smallest_px)[0]
    return shapes


def _drawn(
    ids: np.ndarray,
    names: Mapping[int, str],
    background: int,
    tolerance_px: float,
    smallest_px: int,
) -> tuple[list[Shape], np.ndarray, np.ndarray]:
    """Return the shapes, what they paint, and the pixels of regions left out for their size.

    Paint every region, look what differs (holes do), paint that over it, until nothing differs.
    """
    painted = np.full(ids.shape, background, ids.dtype)
    moved = np.zeros(ids.shape, bool)  # over an edge by simplifying: within the tolerance
    left_out = np.zeros(ids.shape, bool)
    shapes: list[tuple[int, Shape]] = []
    for _ in range(_MOST_ROUNDS):
        wrong = (painted != ids) & ~moved & ~left_out
        if not wrong.any():
            break
        for class_id, box, mask in _by_value(ids, wrong):
            if int(mask.sum()) < smallest_px:
                left_out[box] |= mask
                continue
            filled = np.asarray(scipy.ndimage.binary_fill_holes(mask), dtype=bool)
            shape = _polygon(filled, box, names[class_id], tolerance_px)
            _paint_over(painted, moved, shape, class_id, box, filled)
            shapes.append((class_id, shape))
    return _grouped(shapes), painted, left_out


def _by_value(
    ids: np.ndarray, where: np.ndarray
) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray]]:
    """Yield value, box and pixels of each connected region of one value, larger boxes first.

    Each value is looked for in its own box only: there may be as many as there are objects.
    """
    values, places = np.unique(ids[where], return_inverse=True)
    dense = np.zeros(ids.shape, np.int32)
    dense[where] = places.reshape(-1) + 1
    found = [
        (int(values[place - 1]), _within(outer, box), mask)
        for place, outer in enumerate(scipy.ndimage.find_objects(dense, len(values)), 1)
        for box, mask in _components(dense[outer] == place)
    ]
    yield from sorted(found, key=lambda one: -_box_area(one[1]))


def _within(outer: tuple[slice, slice], box: tuple[slice, slice]) -> tuple[slice, slice]:
    """Return in the coordinates of the image a box that lies within another."""
    rows, columns = (
        slice(around.start + inner.start, around.start + inner.stop)
        for around, inner in zip(outer, box, strict=True)
    )
    return rows, columns


def _grouped(shapes: Sequence[tuple[int, Shape]]) -> list[Shape]:
    """Say which shapes are parts of one numbered object: those have values above the classes'."""
    counts = Counter(value for value, _ in shapes)
    return [
        replace(shape, group=str(value - UNLABELLED))
        if value > UNLABELLED and counts[value] > 1
        else shape
        for value, shape in shapes
    ]


def _worst_overlap(ids: np.ndarray, painted: np.ndarray, left_out: np.ndarray) -> float:
    """Return the lowest overlap over union of any class."""
    truth, guess = ids[~left_out], painted[~left_out]
    values, places, wanted = np.unique(truth, return_inverse=True, return_counts=True)
    agree = np.bincount(places.reshape(-1)[truth == guess], minlength=len(values))
    given = np.bincount(np.searchsorted(values, guess[np.isin(guess, values)]), None, len(values))
    return float((agree / (wanted + given - agree)).min(initial=1.0))


def _components(mask: np.ndarray) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield the box and the pixels of each connected component, larger boxes first."""
    numbered: np.ndarray = np.empty(mask.shape, np.int32)
    scipy.ndimage.label(mask, _TOUCHING, output=numbered)
    found = enumerate(scipy.ndimage.find_objects(numbered), 1)
    boxes = [(place, box) for place, box in found if box]
    boxes.sort(key=lambda pair: -_box_area(pair[1]))
    for place, box in boxes:
        yield box, numbered[box] == place


def _numbered(
    where: np.ndarray, numbers: np.ndarray
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield the box and the pixels of each numbered object of a class."""
    places = np.zeros(where.shape, np.int32)
    places[where] = np.unique(numbers[where], return_inverse=True)[1].reshape(-1) + 1
    for place, box in enumerate(scipy.ndimage.find_objects(places), 1):
        if box is not None:
            yield box, places[box] == place


def _box_area(box: tuple[slice, slice]) -> int:
    rows, columns = box
    return (rows.stop - rows.start) * (columns.stop - columns.start)


def _polygon(
    filled: np.ndarray, box: tuple[slice, slice], label: str, tolerance_px: float
) -> Shape:
    """Return the polygon through the centres of a filled region's border pixels."""
    contours = find_contours(np.pad(filled, 1).astype(np.float32), _JUST_INSIDE, "high")
    contour = max(contours, key=len)
    corner = (box[1].start - 1, box[0].start - 1)
    exact = _without_repeats(np.rint(contour[:, ::-1]).astype(np.int64)) + corner
    straight = _without_collinear(exact)
    if tolerance_px > 0:
        simple = _simplified(straight.astype(np.float64), tolerance_px)
        shape = Shape(label=label, kind="polygon", rings=(simple,))
        if len(simple) >= 3 and _agreement(shape, box, filled) >= _LEAST_AGREEMENT:
            return shape
    points = straight.astype(np.float64)
    while len(points) < 3:  # one or two pixels: Labelme asks for three points
        points = np.concatenate((points, points[-1:]))
    return Shape(label=label, kind="polygon", rings=(points,))


def _agreement(shape: Shape, box: tuple[slice, slice], filled: np.ndarray) -> float:
    """Return the overlap over the union of a drawn shape and the region it stands for."""
    (left, top), size = (
        (box[1].start - 2, box[0].start - 2),
        (filled.shape[0] + 4, filled.shape[1] + 4),
    )
    here = Shape(label="", kind=shape.kind, rings=(shape.points - (left, top),))
    drawn = np.zeros(size, bool)
    found = mask_of(here, size)
    if found is not None:
        (row, column), mask = found
        drawn[row : row + mask.shape[0], column : column + mask.shape[1]] = mask
    wanted = np.pad(filled, 2)
    return float((drawn & wanted).sum() / (drawn | wanted).sum())


def _paint_over(
    painted: np.ndarray,
    moved: np.ndarray,
    shape: Shape,
    class_id: int,
    box: tuple[slice, slice],
    filled: np.ndarray,
) -> None:
    """Paint a shape, and note the pixels by which it differs from the region it stands for."""
    found = mask_of(shape, painted.shape)
    if found is None:
        return
    (top, left), mask = found
    here = (slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1]))
    painted[here][mask] = class_id
    rows, columns = box
    wanted = np.zeros(mask.shape, bool)
    wanted[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = filled
    moved[here] |= mask ^ wanted


def _without_repeats(points: np.ndarray) -> np.ndarray:
    kept = np.ones(len(points), bool)
    kept[1:] = (points[1:] != points[:-1]).any(axis=1)
    points = points[kept]
    return points[:-1] if len(points) > 1 and (points[0] == points[-1]).all() else points


def _without_collinear(points: np.ndarray) -> np.ndarray:
    """Drop the points at which the direction does not change."""
    if len(points) < 3:
        return points
    before = points - np.roll(points, 1, axis=0)
    after = np.roll(points, -1, axis=0) - points
    return points[(before != after).any(axis=1)]


def _simplified(ring: np.ndarray, tolerance_px: float) -> np.ndarray:
    """Return a ring with fewer points that strays at most the tolerance (Douglas–Peucker)."""
    if len(ring) < 4:
        return ring
    line = shapely.LineString(np.concatenate((ring, ring[:1])))
    points = shapely.get_coordinates(line.simplify(tolerance_px, preserve_topology=False))[:-1]
    return points if len(points) >= 3 else ring
