"""Sizes of particles after ISO 13322-1 and ISO 9276, corrected for what the frame cuts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from emcfsys_engine.tools.measure.objects import Objects
from emcfsys_engine.tools.measure.standards.interval import t_95
from emcfsys_engine.tools.measure.standards.results import Size, SizeDistribution, Weighting

POWERS: Mapping[Weighting, int] = {"number": 0, "area": 2, "volume": 3}
SIZES: tuple[Size, ...] = ("equivalent_diameter", "feret_max")
_PERCENTILES = (0.1, 0.5, 0.9)
_RESAMPLES = 1000
_AT_ONCE = 20_000  # particles: what stays in a processor's cache
ENOUGH_FIELDS = 5  # from here on whole fields are drawn, with their differences
_FEWEST_BEYOND = 10  # particles beyond a percentile, else that end of its interval is open
_TWO_SIDED_Z = 1.959964


def border_weights(
    extent_y_px: np.ndarray, extent_x_px: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Return what each whole particle counts: 1 over the share of places where it would be whole.

    weight = Z₁ Z₂ / ((Z₁ - x_F1) (Z₂ - x_F2)), with the extents of the particle along the frame's
    sides. Z is one pixel less than the frame: a particle that only touches the edge is left out.
    Shapes: int64 in, float64 out, one a particle. Units: pixels; shape is the frame's (H, W).
    Source: Miles 1974 and Lantuéjoul 1980, as ISO 13322-1 takes them over.
    """
    height, width = shape[0] - 1, shape[1] - 1
    return height * width / ((height - extent_y_px) * (width - extent_x_px))


@dataclass(kw_only=True)
class Particles:
    """Whole particles of one phase.

    Shapes: lists of one array a field, each of one float64 a particle. Units: sizes in nm.
    """

    sizes: dict[Size, list[np.ndarray]] = field(default_factory=lambda: {n: [] for n in SIZES})
    weights: list[np.ndarray] = field(default_factory=list)
    num_cut: int = 0

    def take(self, objects: Objects, chosen: np.ndarray, shape: tuple[int, int]) -> None:
        """Add the particles of one field. Shapes: chosen is one bool an object."""
        whole = chosen & ~objects.touches_border
        self.num_cut += int((chosen & objects.touches_border).sum())
        for name in SIZES:
            self.sizes[name].append(getattr(objects, name)[whole])
        self.weights.append(
            border_weights(objects.extent_y_px[whole], objects.extent_x_px[whole], shape)
        )


def percentiles(size: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return D10, D50 and D90: the smallest size up to which 10, 50 and 90 % of the weight lie.

    Shapes: one float64 a particle, twice; three float64 out. Units: as size.
    """
    order = np.argsort(size)
    reached = np.cumsum(weight[order])
    places = np.searchsorted(reached, np.array(_PERCENTILES) * reached[-1] * (1 - 1e-12))
    return size[order][places]


def particles_needed(sd_of_ln: float, relative_error: float, *, alpha: int = 1, beta: int) -> int:
    """Return how many particles give a mean with this relative error, 95 times of 100.

    n = u² α² s² (2 c² s² + 1) / δ² with c = β + α / 2, u = 1.96, s the standard deviation of ln x,
    δ the error; β is the power of the weighting (0 number, 2 area, 3 volume), α that of the mean.
    For sizes whose logarithms are normal.
    Source: Masuda & Iinoya 1971, as in ISO 13322-1, annex A; with α = 3, β = 0, δ = 0.05 and a
            geometric deviation of 1.6 it gives the "over 6 000" of the standard's scope.
    """
    variance, c = sd_of_ln**2, beta + alpha / 2
    wanted = _TWO_SIDED_Z**2 * alpha**2 * variance * (2 * c**2 * variance + 1) / relative_error**2
    return max(1, math.ceil(wanted))


def size_distributions(
    phase: str, particles: Particles, *, relative_error: float, rng: np.random.Generator
) -> list[SizeDistribution]:
    """Return the distribution of both sizes by number, area and volume; none without particles."""
    weight = np.concatenate(particles.weights) if particles.weights else np.zeros(0)
    if not weight.size:
        return []
    kinds: list[tuple[Size, Weighting]] = [(name, of) for name in SIZES for of in POWERS]
    sizes = {name: np.concatenate(particles.sizes[name]) for name in SIZES}
    weighted = [(sizes[name], weight * sizes[name] ** POWERS[of]) for name, of in kinds]
    intervals = resampled_intervals(weighted, [len(one) for one in particles.weights], rng)
    rows: list[SizeDistribution] = []
    for (name, of), (size, share), (low, high) in zip(kinds, weighted, intervals, strict=True):
        d10, d50, d90 = percentiles(size, share).tolist()
        (l10, h10), (l50, h50), (l90, h90) = (
            _ends(size, *one) for one in zip((d10, d50, d90), low, high, strict=True)
        )
        needed = particles_needed(_sd_of_ln(size, weight), relative_error, beta=POWERS[of])
        rows.append(
            SizeDistribution(
                phase=phase,
                size=name,
                weighting=of,
                num_particles=weight.size,
                num_cut_by_frame=particles.num_cut,
                d10_nm=d10,
                d10_nm_ci95_low=l10,
                d10_nm_ci95_high=h10,
                d50_nm=d50,
                d50_nm_ci95_low=l50,
                d50_nm_ci95_high=h50,
                d90_nm=d90,
                d90_nm_ci95_low=l90,
                d90_nm_ci95_high=h90,
                mean_nm=float(np.average(size, weights=share)),
                particles_needed=needed,
                particles_missing=max(0, needed - weight.size),
            )
        )
    return rows


def _sd_of_ln(size: np.ndarray, weight: np.ndarray) -> float:
    logs = np.log(size)
    middle = np.average(logs, weights=weight)
    return math.sqrt(np.average((logs - middle) ** 2, weights=weight))


def _ends(
    size: np.ndarray, found: float, low: float, high: float
) -> tuple[float | None, float | None]:
    """Return the ends of an interval that enough particles lie beyond to know them."""
    below, above = int((size < found).sum()), int((size > found).sum())
    return (
        float(low) if below >= _FEWEST_BEYOND else None,
        float(high) if above >= _FEWEST_BEYOND else None,
    )


def resampled_intervals(
    weighted: Sequence[tuple[np.ndarray, np.ndarray]],
    num_of_field: Sequence[int],
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the ends of the 95 % intervals of D10, D50 and D90 of several weighted sizes.

    Particles are drawn anew 1,000 times: whole fields where there are five or more, with their
    differences, else one by one.
    Shapes: sizes and weights have one float64 a particle, field after field; low and high ends are
    three float64 each. Units: as the sizes.
    Source: Efron's percentiles (1979), wider by Student's t for what few are drawn from.
    """
    num_particles, num_fields = sum(num_of_field), len(num_of_field)
    by_field = num_fields >= ENOUGH_FIELDS
    field_of = np.repeat(np.arange(num_fields), num_of_field) if by_field else None
    num = num_fields if by_field else num_particles
    drawn: list[list[np.ndarray]] = [[] for _ in weighted]
    orders = [np.argsort(size) for size, _ in weighted]
    rising = [weight[order] for (_, weight), order in zip(weighted, orders, strict=True)]
    at_once = max(1, _AT_ONCE // max(1, num, num_particles))
    for first in range(0, _RESAMPLES, at_once):
        counts = _draw_counts(min(at_once, _RESAMPLES - first), num, rng)
        counts = counts if field_of is None else counts.take(field_of, axis=1)
        counts = counts[counts.any(axis=1)]  # not those of fields without particles only
        for (size, _), order, weight, found in zip(weighted, orders, rising, drawn, strict=True):
            reached = np.cumsum(counts.take(order, axis=1) * weight, axis=1)
            goals = np.array(_PERCENTILES) * reached[:, -1:] * (1 - 1e-12)
            places = [one.searchsorted(goal) for one, goal in zip(reached, goals, strict=True)]
            found.extend(size[order[places]])
    # Of fields half the degrees of freedom: tails of few fields vary more than their means, and 930
    # of 1,000 simulated intervals are to hold.
    freedom = (num - 1) / 2 if by_field else num - 1
    wider = t_95(max(1, freedom)) / _TWO_SIDED_Z * math.sqrt(num / max(1, num - 1))
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    for (size, weight), many in zip(weighted, drawn, strict=True):
        middle = percentiles(size, weight)
        low = np.percentile(many, 2.5, axis=0, method="lower")
        high = np.percentile(many, 97.5, axis=0, method="higher")
        sizes = np.sort(size)  # up to the next larger size a percentile is as good
        high = sizes[np.minimum(np.searchsorted(sizes, high, "right"), size.size - 1)]
        ends.append((middle - wider * (middle - low), middle + wider * (high - middle)))
    return ends


def _draw_counts(times: int, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draw num of num with replacement so many times. Shapes: times×num, how often each came."""
    drawn = rng.integers(num, size=(times, num)) + num * np.arange(times)[:, None]
    return np.bincount(drawn.ravel(), minlength=times * num).reshape(times, num)
