"""Phase fractions after ASTM E562 (points of a grid) and E1245 (pixels), and how sure they are."""

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
from scipy import fft, ndimage

from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.tools.measure.standards.interval import (
    FieldValue,
    Spread,
    over_fields,
    prediction_powered,
    t_95,
)
from emcfsys_engine.tools.measure.standards.results import Calibration, Gathered, PhaseFraction

Phase = tuple[int, str]


def point_grid(shape: tuple[int, int], num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Return a square grid of about num_points over an image, laid at a place by chance.

    Shapes: K×2 int64, rows and columns in pixels.
    """
    step = math.sqrt(shape[0] * shape[1] / num_points)
    rows, columns = (np.arange(rng.random() * step, side, step).astype(np.int64) for side in shape)
    down, right = np.meshgrid(rows, columns, indexing="ij")
    return np.column_stack((down.ravel(), right.ravel()))


def count_points(
    ids: np.ndarray, phases: list[Phase], num_points: int, rng: np.random.Generator
) -> dict[str, FieldValue] | None:
    """Return the share of grid points on each phase; a point is a pixel and on one phase only.

    Of one field alone the variance is that of its area fraction, and of points set by chance.
    None where no point is on a labelled pixel: that is no field.
    Shapes: ids are H×W uint8, 255 where unlabelled. Units: shares are 0 to 1.
    """
    grid = point_grid((ids.shape[0], ids.shape[1]), num_points, rng)
    met = ids[grid[:, 0], grid[:, 1]]
    met = met[met != UNLABELLED]
    areas = measure_areas(ids, phases)
    if areas is None or not met.size:
        return None
    found: dict[str, FieldValue] = {}
    for value, name in phases:
        share, area = float((met == value).mean()), areas[name]
        variance = None
        if area.variance is not None:
            variance = area.variance + area.value * (1 - area.value) / met.size
        found[name] = FieldValue(value=share, variance=variance, freedom=area.freedom)
    return found


def measure_areas(ids: np.ndarray, phases: list[Phase]) -> dict[str, FieldValue] | None:
    """Return the area fraction of each phase; None where nothing is labelled: that is no field.

    Shapes: ids are H×W uint8, 255 where unlabelled. Units: fractions are 0 to 1.
    """
    labelled = ids != UNLABELLED
    if not labelled.any():
        return None
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
    if spread.half_width == 0:  # none of it, or nothing else, in all fields: nothing says how rare
        spread = replace(spread, half_width=None)
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


_MOST_PX = 512  # a side: larger images are averaged in blocks, which leaves the variance as it is
_DECAYED = 0.05  # of the variance of a pixel: from here on pixels are taken as independent
_BEYOND = 1.5  # of that distance
_MOST_PAIRS = 0.5  # of all pairs: beyond, the covariances of one image only cancel each other


def fraction_of(inside: np.ndarray, labelled: np.ndarray) -> FieldValue | None:
    """Return the area fraction of a phase in one image with the variance of that fraction.

    Var = (1/A²) Σ n(r) C(r) over |r| < r₀, divided by 1 - (1/A²) Σ n(r) because C is about the
    image's own fraction; n counts pairs of pixels at a distance, C is their covariance, A counts
    pixels, r₀ is 1.5 times where C has fallen to 5 %. The degrees of freedom are how many discs of
    radius r₀ the image holds, at most how many parts it has (of the phase or of what is between
    them, whichever are more): 1 / Σ a² with a the parts' shares of their area. Few large
    parts say less than their pixels do. None where nothing is labelled.
    Shapes: bool H×W, twice. Units: the fraction is 0 to 1.
    Source: Dahari et al. 2024 (arXiv:2410.19568), after Matheron's integral range; here without
            their periodic borders and their factor fitted on a library of microstructures.
    """
    total = int(labelled.sum())
    if not total:
        return None
    block = max(1, math.ceil(max(inside.shape) / _MOST_PX))
    phase, weight = _averaged(inside & labelled, block), _averaged(labelled, block)
    fraction = float((inside & labelled).sum()) / total
    if fraction in (0.0, 1.0):
        return FieldValue(value=fraction)  # one image without the phase does not say how rare it is
    products = _by_distance(phase - fraction * weight)
    whole = total == inside.size
    pairs = _pairs_of_whole(inside.shape, block) if whole else _by_distance(weight)
    covariance = products / np.maximum(pairs, 1e-9)
    fallen = np.flatnonzero(covariance < _DECAYED * covariance[0])
    reach = math.ceil(_BEYOND * (fallen[0] if fallen.size else len(covariance)))
    area = float(weight.sum())
    share = np.cumsum(pairs) / area**2
    reach = max(1, min(reach, int(np.searchsorted(share, _MOST_PAIRS)) - 1))
    variances = np.cumsum(products)[: reach + 1] / area**2 / (1 - share[: reach + 1])
    parts = max(_num_of_parts(one) for one in (inside & labelled, labelled & ~inside))
    freedom = min(max(2.0, 1 / share[reach]), parts)
    return FieldValue(
        value=fraction, variance=float(variances[reach // 2 :].max()), freedom=freedom
    )


def fraction_interval(one: FieldValue) -> tuple[float, float] | None:
    """Return the 95 % interval of a fraction, never beyond 0 and 1: symmetric in its logit."""
    if one.variance is None or not 0 < one.value < 1:
        return None
    odds = math.log(one.value / (1 - one.value))
    reach = t_95(one.freedom) * math.sqrt(one.variance) / (one.value * (1 - one.value))
    low, high = (1 / (1 + math.exp(-max(-700.0, odds + side * reach))) for side in (-1, 1))
    return low, high


def _num_of_parts(inside: np.ndarray) -> float:
    """Return how many parts of one size would be as uneven as the connected ones; 1 or more."""
    parts, _ = cast("tuple[np.ndarray, int]", ndimage.label(inside))
    area = np.bincount(parts.ravel())[1:].astype(np.float64)
    return float(area.sum() ** 2 / (area**2).sum())


def _averaged(inside: np.ndarray, block: int) -> np.ndarray:
    """Return means of square blocks; what is left at the lower and right edge is padded by 0."""
    if block == 1:
        return inside.astype(np.float64)
    rows = np.add.reduceat(inside, np.arange(0, inside.shape[0], block), axis=0, dtype=np.int64)
    sums = np.add.reduceat(rows, np.arange(0, inside.shape[1], block), axis=1)
    return sums / block**2


def _by_distance(values: np.ndarray) -> np.ndarray:
    """Return the sums of products of all pairs, one for each whole number of pixels between."""
    size = [int(fft.next_fast_len(2 * side, real=True) or 0) for side in values.shape]
    spectrum = np.abs(cast(Any, fft.rfft2(values, size))) ** 2
    products = cast(Any, fft.irfft2(spectrum, size))
    return np.bincount(_distances(size[0], size[1]), products.ravel())


# Images of a series are of one shape: what hangs on it alone is not computed for each of them.
@lru_cache(maxsize=4)
def _distances(height: int, width: int) -> np.ndarray:
    """Return whole distances to the first pixel on a torus. Shapes: height · width numbers."""
    down, right = (np.minimum(np.arange(n), n - np.arange(n)) for n in (height, width))
    return np.hypot(down[:, None], right[None, :]).astype(np.int64).ravel()


@lru_cache(maxsize=4)
def _pairs_of_whole(shape: tuple[int, ...], block: int) -> np.ndarray:
    """Return the pairs of pixels at each distance where all of an image is labelled."""
    return _by_distance(_averaged(np.ones(shape, bool), block))
