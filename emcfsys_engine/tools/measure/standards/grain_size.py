"""Grain size after ASTM E112: crossings of lines and circles with boundaries; counted grains."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import numpy as np
from scipy import ndimage

from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.tools.measure.fields import Field
from emcfsys_engine.tools.measure.objects import Split
from emcfsys_engine.tools.measure.runs import painted
from emcfsys_engine.tools.measure.standards.interval import (
    FieldValue,
    Spread,
    field_of_parts,
    over_fields,
    prediction_powered,
)
from emcfsys_engine.tools.measure.standards.results import Calibration, Gathered, GrainSize
from emcfsys_engine.tools.measure.watershed import split_labels

_STEP = 0.5  # of a pixel's shorter side, between two looks along a line
_GRAZE = round(2 / _STEP)  # looks within two pixels
_WIDEST_PX = 25  # a boundary
# Diameters over the side of the square: 500 mm of line in a square of 100 mm.
ABRAMS = (0.7958, 0.5305, 0.2653)


@dataclass(frozen=True, kw_only=True)
class Grains:
    """Grains that have grown over their boundary until they touch.

    A boundary has no width in the material, one of several pixels in a mask: where three grains
    meet, a line through it would miss a crossing. One that ends within a grain stays a boundary.
    Shapes: a map as `grain_map` makes, int32 H×W, 0 only on boundaries that end within a grain.
    Units:  pixel is (y, x).
    """

    grown: np.ndarray
    pixel: tuple[float, float]

    @classmethod
    def of(cls, drawn: np.ndarray, pixel: tuple[float, float]) -> "Grains":
        """Return a map with its grains grown: each boundary pixel joins the nearest grain.

        Shapes: int32 H×W, as `grain_map` makes.
        """
        gap = drawn == 0
        if gap.all() or not gap.any():
            return cls(grown=drawn, pixel=pixel)
        distance, places = cast(
            "tuple[np.ndarray, np.ndarray]",
            ndimage.distance_transform_edt(drawn <= 0, return_indices=True),
        )
        grown = np.where(gap, drawn[places[0], places[1]], drawn)
        # Half of a boundary lies on a grain's own side: only where no other grain is as near as
        # boundaries are wide does one end.
        width_px = 2 * math.ceil(float(np.percentile(distance[gap], 95))) + 1
        window = 2 * min(width_px, _WIDEST_PX) + 1
        alone = ndimage.maximum_filter(grown, window) == ndimage.minimum_filter(grown, window)
        return cls(grown=np.where(gap & alone, 0, grown), pixel=pixel)

    def parts(self, each_side: int) -> "list[Grains]":
        """Return the rectangles that each side is split into, row by row."""
        size = self.grown.shape
        ends = [[n * side // each_side for n in range(each_side + 1)] for side in size]
        return [
            Grains(
                grown=self.grown[top:bottom, left:right],
                pixel=self.pixel,
            )
            for top, bottom in pairwise(ends[0])
            for left, right in pairwise(ends[1])
            if bottom > top and right > left
        ]

    def along(self, down: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the grains met at places in order, counted from the middle of the first pixel.

        Shapes: K float64 down and right; K int32 out. Units: places as the pixel's size.
        """
        rows, columns = (
            np.clip(np.floor(place / size + 0.5).astype(np.int64), 0, side - 1)
            for place, size, side in zip((down, right), self.pixel, self.grown.shape, strict=True)
        )
        return self.grown[rows, columns]


@dataclass(frozen=True, kw_only=True)
class Crossings:
    """What test lines met. Units: length in the unit of the pixel size, over labelled pixels."""

    count: float
    length: float


def grain_map(
    field: Field, values: tuple[int, ...], *, split: Split, neck: float, min_px: int
) -> np.ndarray:
    """Return the grains of a field: its numbered objects, else those its boundaries part.

    Pixels of a class that touch at a corner only are two grains: a boundary one pixel wide parts
    them. Grains below min_px are boundary.
    Shapes: int32 H×W, 0 on boundaries, -1 where unlabelled.
    """
    ids = field.ids
    inside = np.isin(ids, np.asarray(values, ids.dtype))
    if field.numbered is not None:
        grains = painted(field.numbered, ids.shape)
        grains[~inside] = 0
    elif split == "watershed":
        grains = split_labels(ids, values, pixel=field.pixel, neck=neck).astype(np.int32)
    else:
        grains = np.zeros(ids.shape, np.int32)
        for value in sorted(set(values) & set(np.unique(ids).tolist())):
            mine, _ = cast("tuple[np.ndarray, int]", ndimage.label(ids == value))
            grains += np.where(mine > 0, mine + grains.max(initial=0), 0).astype(np.int32)
    if min_px > 1:
        grains[np.bincount(grains.ravel())[grains] < min_px] = 0
    grains[ids == UNLABELLED] = -1
    return grains


def count_crossings(met: np.ndarray, *, closed: bool = False, graze: int = 2) -> float:
    """Return how many boundaries a test line crosses, from the grains it meets in order.

    A change of grain counts 1, with or without boundary pixels between; so does a boundary that is
    only touched: the line leaves a grain and comes back to it, for more than `graze` looks (the
    steps of a boundary drawn in pixels are no boundaries). A line that ends on a boundary counts
    ½. What is not labelled interrupts the line.
    Shapes: met is a row of a map of grains, K int32.
    Source: ASTM E112, clause 12 (intersections); its 1½ for a hit of a triple point is not given.
    """
    starts = np.flatnonzero(np.append(True, met[1:] != met[:-1])) if met.size else np.zeros(0, int)
    runs, length = met[starts], np.diff(np.append(starts, met.size))
    if not (runs > 0).any():
        return 0.0
    if closed and runs.size > 1:  # begin within a grain, and come back to it
        if runs[0] == runs[-1]:
            runs, length = runs[:-1], np.append(length[0] + length[-1], length[1:-1])
        turn = -int(np.argmax(np.where(runs > 0, length, 0)))
        runs, length = np.roll(runs, turn), np.roll(length, turn)
        runs, length = np.append(runs, runs[0]), np.append(length, length[0])
    place = np.flatnonzero(runs > 0)
    place = place[~_grazed(runs, length, place, graze)]
    between = [runs[first + 1 : last] for first, last in pairwise(place)]
    ends = 0.0
    if not closed:
        ends += 0.5 * (runs[0] == 0 and runs.size > 1 and runs[1] > 0)
        ends += 0.5 * (runs[-1] == 0 and runs.size > 1 and runs[-2] > 0)
    return float(sum(bool((gap >= 0).all()) for gap in between)) + float(ends)


def _grazed(runs: np.ndarray, length: np.ndarray, place: np.ndarray, graze: int) -> np.ndarray:
    """Tell which grains are met only between the steps of their own boundary."""
    grain = runs[place]
    same = np.zeros(place.size, bool)
    for apart in (1, 2):  # a step back into itself, or to and fro between two grains
        again = grain[apart:] == grain[:-apart]
        same[apart:] |= again
        same[: same.size - apart] |= again
    return same & (length[place] <= graze)


def cross_lines(grains: Grains, num_lines: int, rng: np.random.Generator) -> Crossings:
    """Cross grains by straight lines in all directions, from edge to edge.

    Directions are spread so that each has the same length of line, places are by chance. Edges run
    through the middles of the outermost pixels: what a pixel's outer half crosses is not seen.
    """
    height, width = _extent(grains)
    count = length = 0.0
    for angle in _directions(height, width, num_lines, rng):
        along = (math.sin(angle), math.cos(angle))
        reach = (abs(along[1]) * height + abs(along[0]) * width) / 2
        away = (2 * rng.random() - 1) * reach
        start = (height / 2 + along[1] * away, width / 2 - along[0] * away)
        first, last = _within(start, along, (height, width))
        if last <= first:
            continue
        places = _steps(last - first, grains.pixel) + first
        met = grains.along(start[0] + along[0] * places, start[1] + along[1] * places)
        count += count_crossings(met, graze=_GRAZE)
        length += (last - first) * float((met >= 0).mean())
    return Crossings(count=count, length=length)


def cross_circles(grains: Grains) -> Crossings:
    """Cross grains by three circles about the middle of their map.

    Source: Abrams' three circles (ASTM E112, clause 14), the square as large as the map allows.
    """
    height, width = _extent(grains)
    count = length = 0.0
    for share in ABRAMS:
        radius = share * min(height, width) / 2
        if not radius:
            continue
        around = 2 * math.pi * radius
        angle = _steps(around, grains.pixel) / radius
        down, right = np.sin(angle) * radius + height / 2, np.cos(angle) * radius + width / 2
        met = grains.along(down, right)
        count += count_crossings(met, closed=True, graze=_GRAZE)
        length += around * float((met >= 0).mean())
    return Crossings(count=count, length=length)


def _extent(grains: Grains) -> tuple[float, float]:
    height, width = grains.grown.shape
    return (height - 1) * grains.pixel[0], (width - 1) * grains.pixel[1]


def _directions(
    height: float, width: float, num_lines: int, rng: np.random.Generator
) -> list[float]:
    """Return directions, more where the field is broad: lines along it are shorter in the mean.

    Source: isotropic uniform random lines; one by chance in each share of their measure.
    """
    angles = np.linspace(0, math.pi, 721)
    breadth = np.abs(np.cos(angles)) * height + np.abs(np.sin(angles)) * width
    reached = np.append(0, np.cumsum((breadth[1:] + breadth[:-1]) / 2))
    shares = (np.arange(num_lines) + rng.random(num_lines)) / num_lines
    return np.interp(shares * reached[-1], reached, angles).tolist()


def _steps(length: float, pixel: tuple[float, float]) -> np.ndarray:
    """Return the middles of short steps along a line."""
    num = max(1, math.ceil(length / (_STEP * min(pixel))))
    return (np.arange(num) + 0.5) * (length / num)


def _within(
    start: tuple[float, float], along: tuple[float, float], size: tuple[float, float]
) -> tuple[float, float]:
    """Return where a line through start enters and leaves the rectangle, as lengths from start."""
    first, last = -math.inf, math.inf
    for place, step, side in zip(start, along, size, strict=True):
        if abs(step) < 1e-12:
            continue  # along this side: start lies between the two
        near, far = sorted(((0 - place) / step, (side - place) / step))
        first, last = max(first, near), min(last, far)
    return first, last


Method = Literal["lines", "circles", "planimetric"]
METHODS: tuple[Method, ...] = ("lines", "circles", "planimetric")
_NM_PER_MM = 1e6
_PARTS = 3  # a side: a field is measured in nine parts, which say how much it varies


def g_of_intercepts(per_mm: float) -> float:
    """Return G from boundaries crossed per mm of line: 6.643856 log₁₀ N_L - 3.288 (E112)."""
    return 6.643856 * math.log10(per_mm) - 3.288


def g_of_grains(per_mm2: float) -> float:
    """Return G from grains per mm²: 3.321928 log₁₀ N_A - 2.954 (E112)."""
    return 3.321928 * math.log10(per_mm2) - 2.954


def count_grains(grains: np.ndarray) -> float:
    """Return how many grains a rectangle holds: whole ones, half of those its sides cut.

    A grain at a corner counts a quarter (for each of its corners), so that rectangles side by side
    hold as many as they do together.
    Shapes: a map of grains, int32 H×W.
    Source: Jeffries' planimetric procedure (ASTM E112, clause 11); corners as Saltykov counts them.
    """
    whole = _numbers_in(grains)
    at_side = np.concatenate((grains[0], grains[-1], grains[:, 0], grains[:, -1]))
    if (grains < 0).any():
        at_side = np.append(at_side, grains[_beside(grains < 0)])
    corners = grains[[0, 0, -1, -1], [0, -1, 0, -1]]
    num_corners = int((corners > 0).sum())
    num_cut = np.setdiff1d(at_side[at_side > 0], corners).size
    num_whole = np.setdiff1d(whole, np.append(at_side, corners)).size
    return num_whole + num_cut / 2 + num_corners / 4


def _numbers_in(grains: np.ndarray) -> np.ndarray:
    """Return the numbers of the grains in a map, rising."""
    there = np.bincount(np.maximum(grains, 0).ravel(), minlength=1) > 0
    there[0] = False
    return np.flatnonzero(there)


def _beside(unlabelled: np.ndarray) -> np.ndarray:
    beside = np.zeros_like(unlabelled)
    beside[1:] |= unlabelled[:-1]
    beside[:-1] |= unlabelled[1:]
    beside[:, 1:] |= unlabelled[:, :-1]
    beside[:, :-1] |= unlabelled[:, 1:]
    return beside & ~unlabelled


def measure_grains(
    grains: np.ndarray, pixel_nm: tuple[float, float], num_lines: int, rng: np.random.Generator
) -> dict[str, FieldValue]:
    """Return crossings per mm for lines and circles, and grains per mm², of one field.

    Each is the mean over the field's 3×3 parts; how these differ says how sure it is. A grain that
    two parts share counts ½ in both, which makes them alike: of N grains S are shared, and the
    variance of independent parts is taken N / (N - S / 2) times.
    Shapes: a map of grains, int32 H×W. Units: num_lines in all; pixel_nm is (y, x).
    """
    each = max(1, round(num_lines / _PARTS**2))
    found: dict[str, list[float]] = {method: [] for method in METHODS}
    field = Grains.of(grains, pixel_nm)
    num_in_parts = 0
    for part in field.parts(_PARTS):
        num_in_parts += _numbers_in(part.grown).size
        area_nm2 = float((part.grown >= 0).sum()) * pixel_nm[0] * pixel_nm[1]
        if not area_nm2:
            continue
        found["planimetric"].append(count_grains(part.grown) * _NM_PER_MM**2 / area_nm2)
        for method, met in (
            ("lines", cross_lines(part, each, rng)),
            ("circles", cross_circles(part)),
        ):
            if met.length:
                found[method].append(_per_mm(met))
    num = _numbers_in(field.grown).size
    shared = min(num, num_in_parts - num)
    alike = num / (num - shared / 2) if num else 1.0
    return {
        method: field_of_parts(values, alike=alike) for method, values in found.items() if values
    }


def _per_mm(met: Crossings) -> float:
    return met.count * _NM_PER_MM / met.length


def grain_sizes(gathered: Gathered, calibration: Calibration | None) -> tuple[GrainSize, ...]:
    """Return the grain size of every field and over all fields, by each method."""
    rows: list[GrainSize] = []
    for method in METHODS:
        fields = [(mask, found[method]) for mask, found in gathered.fields if method in found]
        if not fields:
            continue
        rows += [_row(mask, method, over_fields([one])) for mask, one in fields]
        values = [one for _, one in fields]
        spread = over_fields(values)
        if calibration is not None:
            spread = prediction_powered(values, *calibration.of(method))
        rows.append(_row("", method, spread))
    return tuple(rows)


def _row(mask: str, method: Method, spread: Spread) -> GrainSize:
    planimetric = method == "planimetric"
    g_of = g_of_grains if planimetric else g_of_intercepts

    def through(value_of: Callable[[float], float], density: float | None) -> float | None:
        return value_of(density) if density is not None and density > 0 else None

    def nm_of(density: float) -> float:
        return _NM_PER_MM / (math.sqrt(density) if planimetric else density)

    return GrainSize(
        mask=mask,
        method=method,
        num_fields=spread.num_fields,
        crossings_per_mm=None if planimetric else spread.mean,
        grains_per_mm2=spread.mean if planimetric else None,
        relative_accuracy_percent=spread.relative_accuracy_percent,
        grain_size_nm=through(nm_of, spread.mean),
        grain_size_nm_ci95_low=through(nm_of, spread.high),
        grain_size_nm_ci95_high=through(nm_of, spread.low),
        g=through(g_of, spread.mean),
        g_ci95_low=through(g_of, spread.low),
        g_ci95_high=through(g_of, spread.high),
    )
