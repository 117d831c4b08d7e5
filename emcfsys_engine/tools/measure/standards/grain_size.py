"""Grain size after ASTM E112: G from crossings of lines and circles, and from counted grains."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from emcfsys_engine.tools.measure.standards.intercepts import (
    Crossings,
    Grains,
    cross_circles,
    cross_lines,
)
from emcfsys_engine.tools.measure.standards.interval import (
    FieldValue,
    Spread,
    field_of_parts,
    over_fields,
    prediction_powered,
)
from emcfsys_engine.tools.measure.standards.results import Calibration, Gathered, GrainSize

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
    Shapes: a map of grains, H×W.
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
    Shapes: a map of grains, H×W. Units: num_lines in all.
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
