"""Class ids to outlines: exact, or simplified within a stated tolerance; holes are kept."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from scipy import ndimage
from skimage.measure import find_contours

from emcfsys_engine.annotations.rasterise import mask_of
from emcfsys_engine.annotations.shapes import Shape

_TOUCHING = np.ones((3, 3), bool)  # pixels that touch at a corner belong together
_MOST_ROUNDS = 40
_LEAST_AGREEMENT = 0.98  # a simplified outline that agrees less with its region is written exactly
_LEAST_OVERLAP = 0.992  # and all are, where a whole class would overlap less
_JUST_INSIDE = 1 - 1e-3  # the level at which a contour runs through the pixels' centres
MOST_TOLERANCE_PX = 2.0
TOLERANCE_PX = 0.3  # below 0.35 no pixel's centre changes sides


@dataclass(frozen=True, kw_only=True)
class Region:
    """Connected pixels of one class, with their holes.

    Shapes: rings are N×2 (x, y) in pixel corners, the outer one first.
    """

    class_id: int
    rings: tuple[np.ndarray, ...]
    area_px: int


def regions_of(
    ids: np.ndarray,
    *,
    background: int,
    tolerance_px: float = TOLERANCE_PX,
    smallest_px: int = 0,
) -> Iterator[Region]:
    """Yield every connected region of every class but the background, largest class value last.

    Shapes: ids are uint8 H×W.
    Units:  outlines stray at most tolerance_px; regions below smallest_px are left out.
    """
    for class_id in np.unique(ids):
        if class_id == background:
            continue
        for (rows, columns), mask in _components(ids == class_id):
            area = int(mask.sum())
            if area < smallest_px:
                continue
            contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5, "high")
            # find_contours counts rows first, from pixel centres, and the padding added one.
            rings = [contour[:-1, ::-1] - 0.5 + (columns.start, rows.start) for contour in contours]
            rings.sort(key=lambda ring: -np.ptp(ring[:, 0]) * np.ptp(ring[:, 1]))
            simple = tuple(_simplified(ring, tolerance_px) for ring in rings)
            yield Region(class_id=int(class_id), rings=simple, area_px=area)


def shapes_of(
    ids: np.ndarray,
    names: dict[int, str],
    *,
    background: int,
    tolerance_px: float = 0.5,
    smallest_px: int = 0,
) -> list[Shape]:
    """Return polygons that, drawn one over another as Labelme does, paint these class ids.

    Labelme's polygons have no holes: what lies in a hole is drawn after what surrounds it, and
    carries its own label, also where that is the background. So a person can correct either.
    Where the tolerance would cost a class more than 1 % of its overlap, outlines are exact.
    Shapes: ids are uint8 H×W.
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
    names: dict[int, str],
    background: int,
    tolerance_px: float,
    smallest_px: int,
) -> tuple[list[Shape], np.ndarray, np.ndarray]:
    """Return the shapes, what they paint, and the pixels of regions left out for their size.

    Paint every region, look what differs (holes do), paint that over it, until nothing differs.
    """
    painted = np.full(ids.shape, background, np.uint8)
    moved = np.zeros(ids.shape, bool)  # over an edge by simplifying: within the tolerance
    left_out = np.zeros(ids.shape, bool)
    shapes: list[Shape] = []
    for _ in range(_MOST_ROUNDS):
        wrong = (painted != ids) & ~moved & ~left_out
        if not wrong.any():
            break
        for class_id in np.unique(ids[wrong]):
            for box, mask in _components(wrong & (ids == class_id)):
                if int(mask.sum()) < smallest_px:
                    left_out[box] |= mask
                    continue
                filled = np.asarray(ndimage.binary_fill_holes(mask), dtype=bool)
                shape = _polygon(filled, box, names[int(class_id)], tolerance_px)
                _paint_over(painted, moved, shape, int(class_id), box, filled)
                shapes.append(shape)
    return shapes, painted, left_out


def _worst_overlap(ids: np.ndarray, painted: np.ndarray, left_out: np.ndarray) -> float:
    """Return the lowest overlap over union of any class."""
    truth, guess = ids[~left_out], painted[~left_out]
    worst = 1.0
    for class_id in np.unique(truth):
        wanted, given = truth == class_id, guess == class_id
        worst = min(worst, float((wanted & given).sum() / (wanted | given).sum()))
    return worst


def _components(mask: np.ndarray) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield the box and the pixels of each connected component, larger boxes first."""
    numbered: np.ndarray = np.empty(mask.shape, np.int32)
    ndimage.label(mask, _TOUCHING, output=numbered)
    boxes = [(place, box) for place, box in enumerate(ndimage.find_objects(numbered), 1) if box]
    boxes.sort(key=lambda pair: -_box_area(pair[1]))
    for place, box in boxes:
        yield box, numbered[box] == place


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
