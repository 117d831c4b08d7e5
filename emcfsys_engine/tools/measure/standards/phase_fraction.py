"""Phase fractions after ASTM E562 (points of a grid) and E1245 (all pixels)."""

import math

import numpy as np

from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.tools.measure.standards.interval import (
    FieldValue,
    Spread,
    over_fields,
    prediction_powered,
)
from emcfsys_engine.tools.measure.standards.results import Calibration, Gathered, PhaseFraction
from emcfsys_engine.tools.measure.standards.two_point import fraction_interval, fraction_of

Phase = tuple[int, str]


def point_grid(shape: tuple[int, int], num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Return a square grid of about num_points over an image, laid at a place by chance.

    Shapes: K×2 rows and columns.
    """
    step = math.sqrt(shape[0] * shape[1] / num_points)
    rows, columns = (np.arange(rng.random() * step, side, step).astype(np.int64) for side in shape)
    down, right = np.meshgrid(rows, columns, indexing="ij")
    return np.column_stack((down.ravel(), right.ravel()))


def count_points(
    ids: np.ndarray, phases: list[Phase], num_points: int, rng: np.random.Generator
) -> dict[str, FieldValue]:
    """Return the share of grid points on each phase; a point is a pixel and on one phase only.

    Of one field alone the variance is that of its area fraction, and of points set by chance.
    Shapes: ids are H×W.
    """
    grid = point_grid((ids.shape[0], ids.shape[1]), num_points, rng)
    met = ids[grid[:, 0], grid[:, 1]]
    met = met[met != UNLABELLED]
    found: dict[str, FieldValue] = {}
    areas = measure_areas(ids, phases)
    for value, name in phases:
        if name not in areas or not met.size:
            continue
        share, area = float((met == value).mean()), areas[name]
        variance = None
        if area.variance is not None:
            variance = area.variance + area.value * (1 - area.value) / met.size
        found[name] = FieldValue(value=share, variance=variance, freedom=area.freedom)
    return found


def measure_areas(ids: np.ndarray, phases: list[Phase]) -> dict[str, FieldValue]:
    """Return the area fraction of each phase. Shapes: ids are H×W, 255 where unlabelled."""
    labelled = ids != UNLABELLED
    found: dict[str, FieldValue] = {}
    for value, name in phases:
        one = fraction_of(ids == value, labelled)
        if one is not None:
            found[name] = one
    return found


def phase_fractions(
    gathered: Gathered, calibration: Calibration | None
) -> tuple[PhaseFraction, ...]:
    """Return the fraction of each phase in every field, and over all fields."""
    method = "points" if gathered.settings.standard == "e562" else "area"
    rows: list[PhaseFraction] = []
    for phase in gathered.names():
        fields = [found.get(phase, FieldValue(value=0.0)) for _, found in gathered.fields]
        for (mask, _), one in zip(gathered.fields, fields, strict=True):
            rows.append(_row(mask, phase, method, over_fields([one]), one))
        spread = over_fields(fields)
        if calibration is not None:
            spread = prediction_powered(fields, *calibration.of(phase, absent=0.0))
        alone = fields[0] if len(fields) == 1 and calibration is None else None
        rows.append(_row("", phase, method, spread, alone))
    return tuple(rows)


def _row(
    mask: str, phase: str, method: str, spread: Spread, alone: FieldValue | None
) -> PhaseFraction:
    ends = (spread.low, spread.high)
    if alone is not None:
        ends = fraction_interval(alone) or (None, None)
    low, high = (None if end is None else min(1.0, max(0.0, end)) for end in ends)
    return PhaseFraction(
        mask=mask,
        phase=phase,
        method=method,
        num_fields=spread.num_fields,
        fraction=spread.mean,
        sd=spread.sd,
        fraction_ci95_low=low,
        fraction_ci95_high=high,
        relative_accuracy_percent=spread.relative_accuracy_percent,
    )
