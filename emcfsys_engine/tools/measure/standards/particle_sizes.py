"""Sizes of particles after ISO 13322-1 and ISO 9276, corrected for what the frame cuts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from emcfsys_engine.tools.measure.objects import Objects
from emcfsys_engine.tools.measure.standards.results import Size, SizeDistribution, Weighting

POWERS: Mapping[Weighting, int] = {"number": 0, "area": 2, "volume": 3}
SIZES: tuple[Size, ...] = ("equivalent_diameter", "feret_max")
_PERCENTILES = (0.1, 0.5, 0.9)
_RESAMPLES = 1000
_ENOUGH_FIELDS = 10  # from here on whole fields are drawn, with their differences
_AT_ONCE = 1 << 22  # counts held in memory together
_TWO_SIDED_Z = 1.959964


def border_weights(
    extent_y_px: np.ndarray, extent_x_px: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Return what each whole particle counts: 1 over the share of places where it would be whole.

    weight = Z₁ Z₂ / ((Z₁ - x_F1) (Z₂ - x_F2)), with the extents of the particle along the frame's
    sides. Z is one pixel less than the frame: a particle that only touches the edge is left out.
    Shapes: one number a particle, thrice. Units: pixels; shape is (height, width) of the frame.
    Source: Miles 1974 and Lantuéjoul 1980, as ISO 13322-1 takes them over.
    """
    height, width = shape[0] - 1, shape[1] - 1
    return height * width / ((height - extent_y_px) * (width - extent_x_px))


@dataclass(kw_only=True)
class Particles:
    """Whole particles of one phase. Shapes: lists of one array a field. Units: nm."""

    sizes: dict[Size, list[np.ndarray]] = field(default_factory=lambda: {n: [] for n in SIZES})
    weights: list[np.ndarray] = field(default_factory=list)
    num_cut: int = 0

    def take(self, objects: Objects, chosen: np.ndarray, shape: tuple[int, int]) -> None:
        """Add the particles of one field. Shapes: chosen is one truth an object."""
        whole = chosen & ~objects.touches_border
        self.num_cut += int((chosen & objects.touches_border).sum())
        for name in SIZES:
            self.sizes[name].append(getattr(objects, name)[whole])
        self.weights.append(
            border_weights(objects.extent_y_px[whole], objects.extent_x_px[whole], shape)
        )


def percentiles(size: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return D10, D50 and D90: the smallest size up to which 10, 50 and 90 % of the weight lie.

    Shapes: one number a particle, twice; three numbers.
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
    counts_of = _Resampled(particles.weights, rng)
    rows: list[SizeDistribution] = []
    for name in SIZES:
        size = np.concatenate(particles.sizes[name])
        logs = np.log(size)
        middle = np.average(logs, weights=weight)
        sd_of_ln = math.sqrt(np.average((logs - middle) ** 2, weights=weight))
        for weighting, power in POWERS.items():
            weighted = weight * size**power
            found = percentiles(size, weighted)
            low, high = counts_of.interval(size, weighted)
            needed = particles_needed(sd_of_ln, relative_error, beta=power)
            (d10, d50, d90), (l10, l50, l90), (h10, h50, h90) = (
                ends.tolist() for ends in (found, low, high)
            )
            rows.append(
                SizeDistribution(
                    phase=phase,
                    size=name,
                    weighting=weighting,
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
                    mean_nm=float(np.average(size, weights=weighted)),
                    particles_needed=needed,
                    particles_missing=max(0, needed - weight.size),
                )
            )
    return rows


class _Resampled:
    """Particles drawn anew, 1,000 times: whole fields where there are many, else one by one."""

    def __init__(self, weights: list[np.ndarray], rng: np.random.Generator) -> None:
        self.field = np.repeat(np.arange(len(weights)), [len(one) for one in weights])
        self.num_fields = len(weights)
        self.by_field = len(weights) >= _ENOUGH_FIELDS
        self.seed = int(rng.integers(1 << 62))

    def interval(self, size: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the 95 % intervals of the percentiles (Efron 1979)."""
        order = np.argsort(size)
        sorted_size, sorted_weight = size[order], weight[order]
        rng = np.random.default_rng(self.seed)
        at_once = max(1, _AT_ONCE // size.size)
        drawn: list[np.ndarray] = []
        while len(drawn) < _RESAMPLES:
            for counts in self._counts(min(at_once, _RESAMPLES - len(drawn)), rng):
                reached = np.cumsum(counts[order] * sorted_weight)
                if reached[-1] > 0:
                    goal = np.array(_PERCENTILES) * reached[-1] * (1 - 1e-12)
                    drawn.append(sorted_size[np.searchsorted(reached, goal)])
        ends = np.percentile(drawn, (2.5, 97.5), axis=0)
        return ends[0], ends[1]

    def _counts(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Return how often each particle is drawn. Shapes: num×K."""
        if not self.by_field:
            total = self.field.size
            picks = rng.integers(total, size=(num, total)) + np.arange(num)[:, None] * total
            return np.bincount(picks.ravel(), minlength=num * total).reshape(num, total)
        fields = self.num_fields
        picks = rng.integers(fields, size=(num, fields)) + np.arange(num)[:, None] * fields
        times = np.bincount(picks.ravel(), minlength=num * fields).reshape(num, fields)
        return times[:, self.field]
