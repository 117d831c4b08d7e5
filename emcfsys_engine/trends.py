"""Control charts of a number over time, and when it began to be another one.

Source: NIST/SEMATECH e-Handbook of Statistical Methods, 6.3.2 (individuals chart, EWMA);
rules: Western Electric 1956, and 3, 5 and 6 of Nelson 1984 (J. Quality Technology 16:237).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

_D2 = 1.128  # mean of the range of two, in deviations of a normal distribution
_D4_OF_MEDIAN = 0.954  # the same of the median of such ranges
_BASELINE = 25  # first points that limits are taken from, where nobody gives any
_LEAST = 5  # points of a stretch that may be a shift: less is a run of outliers
_SHIFT = 1.5  # deviations between the means of two stretches, at least
_LEAST_SHARE = 1e-3  # of the values: less is nothing that a person would call a change
_PENALTY = 6.0  # of a further stretch, in units of log(points): chance seldom saves so much


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where a number is expected. Units: its own."""

    centre: float
    sigma: float

    @property
    def low(self) -> float:
        """Return the lower limit: three deviations below."""
        return self.centre - 3 * self.sigma

    @property
    def high(self) -> float:
        """Return the upper limit."""
        return self.centre + 3 * self.sigma


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A rule that a point breaks, together with those before it."""

    place: int
    rule: str


@dataclass(frozen=True, kw_only=True)
class Ewma:
    """Exponentially weighted means, one a point, and the limits that they go to."""

    means: tuple[float, ...]
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A number is another one from a point on."""

    place: int  # of the first point that is otherwise
    before: float  # means of the stretches before and after
    after: float


def individual_limits(values: Sequence[float]) -> Limits:
    """Return the limits of single values: their mean, and the mean range of neighbours."""
    ranges = [abs(b - a) for a, b in pairwise(values)]
    centre = min(max(fmean(values), min(values)), max(values))  # rounding must not leave them
    return Limits(centre=centre, sigma=fmean(ranges) / _D2 if ranges else 0.0)


def baseline_limits(values: Sequence[float]) -> Limits:
    """Return limits by the first points, the state that is known as good; by all of a few."""
    return individual_limits(values[:_BASELINE])


_Rule = tuple[str, int, Callable[[Sequence[float]], bool]]


def _some_beyond(number: int, deviations: float) -> Callable[[Sequence[float]], bool]:
    """Return whether so many of some points lie beyond, on the side where the last one does."""

    def found(zs: Sequence[float]) -> bool:
        side = math.copysign(1, zs[-1])
        far = [side * z > deviations for z in zs]
        return far[-1] and sum(far) >= number

    return found


def _is_one_sided(zs: Sequence[float]) -> bool:
    return all(z > 0 for z in zs) or all(z < 0 for z in zs)


def _is_drift(zs: Sequence[float]) -> bool:
    steps = [b - a for a, b in pairwise(zs)]
    return all(step > 0 for step in steps) or all(step < 0 for step in steps)


_RULES: tuple[_Rule, ...] = (
    ("beyond 3 deviations", 1, _some_beyond(1, 3)),
    ("2 of 3 beyond 2 deviations", 3, _some_beyond(2, 2)),
    ("4 of 5 beyond 1 deviation", 5, _some_beyond(4, 1)),
    ("8 on one side", 8, _is_one_sided),
    ("6 rising or falling", 6, _is_drift),
)


def signals(values: Sequence[float], limits: Limits) -> list[Signal]:
    """Return where values break a rule, in their order; the first of the rules that is broken.

    The last rule is that of the weighted mean, which a small shift breaks first.
    """
    if not limits.sigma > 0:
        return [
            Signal(place=place, rule="not the value that never changed")
            for place, value in enumerate(values)
            if value != limits.centre
        ]
    zs = [(value - limits.centre) / limits.sigma for value in values]
    smooth = ewma(values, limits)
    found: list[Signal] = []
    for place in range(len(zs)):
        for rule, number, is_broken in _RULES:
            if place + 1 >= number and is_broken(zs[place + 1 - number : place + 1]):
                found.append(Signal(place=place, rule=rule))
                break
        else:
            if not smooth.low <= smooth.means[place] <= smooth.high:
                found.append(Signal(place=place, rule="weighted mean beyond its limits"))
    return found


def ewma(values: Sequence[float], limits: Limits, weight: float = 0.2) -> Ewma:
    """Return weighted means that begin at the centre; a small shift shows in them first."""
    mean, means = limits.centre, list[float]()
    for value in values:
        mean += weight * (value - mean)  # of equal values exactly that
        means.append(mean)
    room = 3 * limits.sigma * math.sqrt(weight / (2 - weight))
    return Ewma(means=tuple(means), low=limits.centre - room, high=limits.centre + room)


def shifts(values: Sequence[float]) -> list[Shift]:
    """Return where a number became another one for good or for a while, oldest first.

    The series is cut where two means explain it best, and each part again, while that saves more
    than chance does; single outliers are smoothed away by the median of three before.
    """
    if len(values) < 2 * _LEAST:
        return []
    calm = [median(values[max(0, n - 1) : n + 2]) for n in range(1, len(values) - 1)]
    calm = [calm[0], *calm, calm[-1]]
    ranges = [abs(b - a) for a, b in pairwise(values)]
    sigma = median(ranges) / _D4_OF_MEDIAN or fmean(ranges) / _D2
    if not sigma > 0:
        return []
    cuts = sorted(_cuts([value / sigma for value in calm]))
    edges = [0, *cuts, len(values)]
    means = [fmean(calm[a:b]) for a, b in pairwise(edges)]
    return [
        Shift(place=place, before=before, after=after)
        for place, (before, after) in zip(cuts, pairwise(means), strict=True)
        if abs(after - before) >= max(_SHIFT * sigma, _LEAST_SHARE * max(abs(before), abs(after)))
    ]


def _cuts(values: Sequence[float]) -> list[int]:
    least = _PENALTY * math.log(len(values))
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    cuts: list[int] = []
    open_parts = [(0, len(values))]
    while open_parts:
        first, last = open_parts.pop()
        best, place = 0.0, 0
        for cut in range(first + _LEAST, last - _LEAST + 1):
            left, right = cut - first, last - cut
            apart = (sums[last] - sums[cut]) / right - (sums[cut] - sums[first]) / left
            saved = apart * apart * left * right / (left + right)
            if saved > best:
                best, place = saved, cut
        if best > least:
            cuts.append(place)
            open_parts += [(first, place), (place, last)]
    return cuts
