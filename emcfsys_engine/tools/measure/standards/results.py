"""What a standard is asked and what it answers: rows of a table, the same in CSV, JSON and text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np

from emcfsys_engine.text import how_many
from emcfsys_engine.tools.measure.standards.interval import FieldValue
from emcfsys_engine.tools.measure.tables import Column, Table

Standard = Literal["e112", "e562", "e1245", "iso13322"]
Weighting = Literal["number", "area", "volume"]
Size = Literal["equivalent_diameter", "feret_max"]


class StandardSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a standard is applied. Units: lines and points are for one field."""

    standard: Standard
    lines: int = 90
    points: int = 100
    relative_error: float = 0.05  # that the number of particles is to be enough for
    seed: int = 0


class GrainSize(msgspec.Struct, frozen=True, kw_only=True):
    """Grain size of one field, or of all (mask is empty). None: cannot be told.

    grain_size is the mean intercept 1 / N_L, or √(mean area) = 1 / √N_A.
    """

    mask: str
    method: str
    num_fields: int
    crossings_per_mm: float | None
    grains_per_mm2: float | None
    relative_accuracy_percent: float | None
    grain_size_nm: float | None
    grain_size_nm_ci95_low: float | None
    grain_size_nm_ci95_high: float | None
    g: float | None
    g_ci95_low: float | None
    g_ci95_high: float | None


class PhaseFraction(msgspec.Struct, frozen=True, kw_only=True):
    """Fraction of a phase in one field, or in all (mask is empty)."""

    mask: str
    phase: str
    method: str
    num_fields: int
    fraction: float
    sd: float | None
    fraction_ci95_low: float | None
    fraction_ci95_high: float | None
    relative_accuracy_percent: float | None


class SizeDistribution(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of the sizes of a phase's particles, all fields together.

    An end of an interval is None where fewer than ten particles lie beyond the percentile.
    """

    phase: str
    size: Size
    weighting: Weighting
    num_particles: int
    num_cut_by_frame: int
    d10_nm: float
    d10_nm_ci95_low: float | None
    d10_nm_ci95_high: float | None
    d50_nm: float
    d50_nm_ci95_low: float | None
    d50_nm_ci95_high: float | None
    d90_nm: float
    d90_nm_ci95_low: float | None
    d90_nm_ci95_high: float | None
    mean_nm: float
    particles_needed: int  # for the mean to have the relative error that was asked for
    particles_missing: int


class StandardReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that one standard says about a folder of masks, and the files that hold it."""

    standard: Standard
    grain_sizes: tuple[GrainSize, ...] = ()
    phase_fractions: tuple[PhaseFraction, ...] = ()
    size_distributions: tuple[SizeDistribution, ...] = ()
    num_validation_images: int = 0  # whose errors are in the intervals
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> Sequence[GrainSize | PhaseFraction | SizeDistribution]:
        """The rows of its table: only one kind is not empty."""
        return (*self.grain_sizes, *self.phase_fractions, *self.size_distributions)

    @property
    def text(self) -> str:
        """A table for a terminal: what holds for all fields together."""
        lines = [_TITLES[self.standard]]
        lines += [_grain_line(row) for row in self.grain_sizes if not row.mask]
        lines += [_phase_line(row) for row in self.phase_fractions if not row.mask]
        lines += [_size_line(row) for row in self.size_distributions]
        if self.num_validation_images:
            words = f"{self.num_validation_images:,} validation images"
            lines.append(f"corrected by the model's errors on {words}, which are in the intervals")
        return "\n".join(lines)


@dataclass(kw_only=True)
class Gathered:
    """What was found in each field, by phase or method, before it becomes rows."""

    settings: StandardSettings
    fields: list[tuple[str, Mapping[str, FieldValue]]] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return the phases that occur, in the order they were met."""
        return list(dict.fromkeys(name for _, found in self.fields for name in found))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What validation images say, as the model and as people labelled them, one by one."""

    predicted: Sequence[Mapping[str, FieldValue]]
    true: Sequence[Mapping[str, FieldValue]]
    notes: Sequence[str] = ()

    def of(self, name: str, *, absent: float | None = None) -> tuple[list[float], list[float]]:
        """Return one phase or method of all images; where it is missing it is `absent`."""
        pairs = [
            (
                mine[name].value if name in mine else absent,
                theirs[name].value if name in theirs else absent,
            )
            for mine, theirs in zip(self.predicted, self.true, strict=True)
        ]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        return [a for a, _ in both], [b for _, b in both]


def table_of_rows(rows: Sequence[msgspec.Struct]) -> Table:
    """Return rows of one kind as a table whose columns carry the names of the fields."""
    columns: list[Column] = []
    for name in rows[0].__struct_fields__ if rows else ():
        values = [getattr(row, name) for row in rows]
        if any(isinstance(value, str) for value in values):
            columns.append(Column(name=name, values=np.array(values, object)))
        elif all(isinstance(value, int) for value in values):
            columns.append(Column(name=name, values=np.array(values, np.int64)))
        else:
            numbers = [math.nan if value is None else value for value in values]
            columns.append(Column(name=name, values=np.array(numbers, np.float64)))
    return tuple(columns)


_TITLES: Mapping[Standard, str] = {
    "e112": "ASTM E112, grain size",
    "e562": "ASTM E562, volume fraction by point count",
    "e1245": "ASTM E1245, area fraction",
    "iso13322": "ISO 13322-1 and ISO 9276, particle sizes",
}
_UNKNOWN = "–"


def _fixed(value: float | None, form: str) -> str:
    return _UNKNOWN if value is None else format(value, form)


def _between(low: float | None, high: float | None, form: str) -> str:
    return f"[{_fixed(low, form)}, {_fixed(high, form)}]"


def _fields(number: int) -> str:
    return how_many(number, "field")


def _accuracy(percent: float | None) -> str:
    return f"RA {_fixed(percent, '.1f')} %"


def _grain_line(row: GrainSize) -> str:
    return (
        f"{row.method:<12}G = {_fixed(row.g, '.2f')} "
        f"{_between(row.g_ci95_low, row.g_ci95_high, '.2f')}, "
        f"{_fixed(row.grain_size_nm, '.4g')} nm "
        f"{_between(row.grain_size_nm_ci95_low, row.grain_size_nm_ci95_high, '.4g')}, "
        f"{_accuracy(row.relative_accuracy_percent)}, {_fields(row.num_fields)}"
    )


def _phase_line(row: PhaseFraction) -> str:
    low, high = (
        None if end is None else 100 * end
        for end in (row.fraction_ci95_low, row.fraction_ci95_high)
    )
    sd = None if row.sd is None else 100 * row.sd
    return (
        f"{row.phase:<12}{100 * row.fraction:.2f} % {_between(low, high, '.2f')}, "
        f"SD {_fixed(sd, '.2f')}, {_accuracy(row.relative_accuracy_percent)}, "
        f"{_fields(row.num_fields)}"
    )


def _size_line(row: SizeDistribution) -> str:
    percentiles = ", ".join(
        f"D{at} {_fixed(value, '.4g')} {_between(low, high, '.4g')}"
        for at, value, low, high in (
            (10, row.d10_nm, row.d10_nm_ci95_low, row.d10_nm_ci95_high),
            (50, row.d50_nm, row.d50_nm_ci95_low, row.d50_nm_ci95_high),
            (90, row.d90_nm, row.d90_nm_ci95_low, row.d90_nm_ci95_high),
        )
    )
    missing = f", {row.particles_missing:,} missing" if row.particles_missing else ""
    return (
        f"{row.phase}, {row.size.replace('_', ' ')} by {row.weighting}: {percentiles} nm; "
        f"{how_many(row.num_particles, 'particle')}{missing}"
    )
