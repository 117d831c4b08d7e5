"""What a measurement leaves behind: tables, histograms, and a summary of each class."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from emcfsys_engine.annotations.pairing import root_of, source_of
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import write_own
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.text import how_many
from emcfsys_engine.tools.measure.objects import Split
from emcfsys_engine.tools.measure.parts import PARTS_FILE, PartsWriter
from emcfsys_engine.tools.measure.standards.results import StandardReport, StandardSettings
from emcfsys_engine.tools.measure.summary import ClassOfTables, summary_and_sizes
from emcfsys_engine.tools.measure.tables import (
    MaskMeasured,
    TableFormat,
    Unit,
    images_table,
    objects_table,
    write_table,
)
from emcfsys_engine.tools.measure.watershed import NECK
from emcfsys_engine.tools.report.charts import Chart, Curve, escaped, figure_of, page
from emcfsys_engine.tools.report.sizes import distribution_charts, sizes_of_counts

HistogramOf = Literal["diameter", "area", "feret", "circularity", "neighbour", "none"]


class MeasureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How masks are measured. Units: pixel_nm is (y, x); min_px counts pixels."""

    classes: dict[str, int] | None = None  # name -> value; None: as the masks' values say
    labels: dict[str, str] = {}  # as in [data.labels]: ranges number objects of a class
    background: str | None = None  # the class without objects; None: the lowest value; "none"
    pixel_nm: tuple[float, float] | None = None  # goes before what the files say
    fallback_nm: float | None = None  # where the files say nothing
    split: Split = "none"
    neck: float = NECK
    min_px: int = 1
    exclude_border: bool = False
    table: TableFormat = "csv"
    histogram: HistogramOf = "diameter"
    standard: StandardSettings | None = None
    numbered: bool = False  # every value but 0 is one object
    calibrate: tuple[str, str] | None = None  # validation masks: as predicted, and as labelled


class ClassSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One class over all images. Units: diameters and areas in the measurement's unit."""

    name: str
    value: int
    num_objects: int
    area_fraction: float | None  # of all labelled area together
    area: float
    mean_diameter: float | None = None
    sd_diameter: float | None = None
    median_diameter: float | None = None
    mean_neighbour: float | None = None


class NotMeasured(msgspec.Struct, frozen=True, kw_only=True):
    """A mask that could not be measured."""

    file: str
    why: str


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured and where it was written."""

    unit: Unit
    num_masks: int
    num_objects: int
    objects_file: str  # empty when no mask could be measured
    images_file: str
    histograms: tuple[str, ...]
    classes: tuple[ClassSummary, ...]
    failed: tuple[NotMeasured, ...]
    notes: tuple[str, ...]
    standard: StandardReport | None = None

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What is to be said of it, a standard's notes last."""
        return (*self.notes, *(self.standard.notes if self.standard is not None else ()))

    @property
    def text(self) -> str:
        """A table of the classes for a terminal."""
        length = max([5, *(len(one.name) for one in self.classes)])
        head = f"{'class':<{length}}  {'objects':>8}  {'area %':>7}  "
        lines = [head + f"{'diameter mean ± SD, median':>30} ({self.unit})"]
        for one in self.classes:
            share = "–" if one.area_fraction is None else f"{100 * one.area_fraction:.2f}"
            spread = "–"
            if one.mean_diameter is not None:
                median = one.median_diameter or 0.0
                spread = f"{one.mean_diameter:.4g} ± {one.sd_diameter or 0.0:.3g}, {median:.4g}"
            lines.append(f"{one.name:<{length}}  {one.num_objects:>8,}  {share:>7}  {spread:>30}")
        lines.append(
            f"{how_many(self.num_objects, 'object')} in {how_many(self.num_masks, 'mask')}"
        )
        if self.standard is not None:
            lines.append(self.standard.text)
        return "\n".join(lines)


_LEVELS = 4  # predictions mirror the sub-folders of their input


@dataclass(frozen=True, kw_only=True)
class NamedClasses:
    """Class names with their values; None where nobody names them. Units: pixel_nm is a side."""

    classes: dict[str, int] | None = None
    pixel_nm: float | None = None  # of the project: for files that do not say theirs
    notes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)  # of the source, where these are its


def classes_for(masks: str, *, project: Path | None, model: Path | None) -> NamedClasses:
    """Return the classes of the project or model given, else of the model that made the masks.

    Raises: InputError when both are given, or one cannot be read.
    """
    if project is not None and model is not None:
        raise InputError("--model", "names classes, and so does --project", "Give one of the two")
    if project is not None:
        loaded = load_project(project)
        own = source_of(loaded, masks, Path.cwd())
        return NamedClasses(
            classes=loaded.classes,
            pixel_nm=loaded.project.pixel_nm,
            labels=own.labels if own is not None else {},
        )
    if model is not None:
        return NamedClasses(classes=_classes_of(model))
    maker = _model_of(masks)
    if maker is None:
        return NamedClasses()
    try:
        classes = _classes_of(maker)
    except InputError as fault:
        return NamedClasses(notes=(f"the model that made the masks cannot be asked: {fault}",))
    return NamedClasses(classes=classes, notes=(f"classes as {maker} names them",))


def _classes_of(model: Path) -> dict[str, int]:
    card = read_card(model)
    return dict(zip(card.classes, card.class_values, strict=True))


def _model_of(masks: str) -> Path | None:
    """Return the model of the newest prediction that wrote into this folder or one above it."""
    start = root_of(masks, Path.cwd())
    for folder in (start, *start.parents)[:_LEVELS]:
        try:
            names = sorted(os.listdir(folder / ".emcfsys"), reverse=True)
        except OSError:
            continue
        for name in names:
            try:
                request = Run(folder / ".emcfsys" / name).record().request
            except InputError:
                continue  # another thing that lies there, as a hot folder's ledger
            if isinstance(request, PredictRequest):
                return Path(request.model)
    return None


_HISTOGRAMS: Mapping[HistogramOf, tuple[str, str, str]] = {  # field, words, power of the unit
    "diameter": ("equivalent_diameter", "equivalent diameter", "1"),
    "area": ("area", "area", "2"),
    "feret": ("feret_max", "largest Feret diameter", "1"),
    "circularity": ("circularity", "circularity", ""),
    "neighbour": ("neighbour_distance", "distance to the nearest neighbour", "1"),
}
HISTOGRAMS_FILE = "histograms.html"
_MOST_BARS = 60
_LARGE_NM = 10_000.0  # from here on micrometres read better


def write_measurement(
    measured: Sequence[MaskMeasured],
    names: Sequence[tuple[int, str]],
    unit: Unit,
    out: Path,
    settings: MeasureSettings,
    *,
    failed: Sequence[NotMeasured],
    notes: Sequence[str],
) -> Measurement:
    """Write the tables and histograms of what was measured, and return the summary.

    Where nothing was, nothing is written: earlier tables stay.
    Raises: OSError when they cannot be written.
    """
    objects: Path | str = ""
    images: Path | str = ""
    drawn: list[Path] = []
    if measured:
        out.mkdir(parents=True, exist_ok=True)
        book = OutputBook(out)
        objects = write_table(book, "objects", objects_table(measured, names, unit), settings.table)
        images = write_table(book, "images", images_table(measured, unit), settings.table)
        drawn = _draw_histograms(measured, names, unit, book, settings.histogram)
    others = [file for file in (objects, images, *drawn) if re.search(r"\.v\d+\.\w+$", str(file))]
    notes = (*notes, *(f"{file}: the file beside it is not ours, and kept" for file in others))
    num_objects = sum(len(one.objects) for one in measured)
    if measured and not num_objects:
        notes = (*notes, "no objects were found: the table of objects has no rows")
    return Measurement(
        unit=unit,
        num_masks=len(measured),
        num_objects=num_objects,
        objects_file=str(objects),
        images_file=str(images),
        histograms=tuple(str(file) for file in drawn),
        classes=tuple(_summary(measured, value, name) for value, name in names),
        failed=tuple(failed),
        notes=tuple(notes),
    )


def finish_parts(
    writer: PartsWriter,
    out: Path,
    settings: MeasureSettings,
    *,
    failed: Sequence[NotMeasured],
    notes: Sequence[str],
) -> Measurement:
    """Finish tables in parts, draw their distributions, and return the summary.

    Where nothing was measured nothing is written: earlier tables stay.
    Raises: OSError when they cannot be written.
    """
    if not writer.num_masks:
        return write_measurement((), (), "px", out, settings, failed=failed, notes=notes)
    listed = writer.finish()
    found, counted = summary_and_sizes(out)
    drawn: list[Path] = []
    charts = distribution_charts(sizes_of_counts(counted))
    if settings.histogram not in ("diameter", "none"):
        told = f"--histogram {settings.histogram}: tables in parts have that of the diameter"
        notes = (*notes, told)
    if charts and settings.histogram != "none":
        title = "Distribution of equivalent diameter"
        body = f"<h1>{title}</h1>{charts}"
        content = page(title, body).encode()
        drawn = [write_own(out / HISTOGRAMS_FILE, content, OutputBook(out))]
    value_of = {name: value for value, name in writer.names}
    return Measurement(
        unit=listed.unit,
        num_masks=listed.num_masks,
        num_objects=listed.num_objects,
        objects_file=str(out / PARTS_FILE),
        images_file=str(out / PARTS_FILE),
        histograms=tuple(str(file) for file in drawn),
        classes=tuple(_summary_of_parts(one, value_of[one.name], writer) for one in found.classes),
        failed=tuple(failed),
        notes=tuple(notes),
    )


def _summary_of_parts(one: ClassOfTables, value: int, writer: PartsWriter) -> ClassSummary:
    area = writer.area_of[value]
    return ClassSummary(
        name=one.name,
        value=value,
        num_objects=one.num_objects,
        area_fraction=area / writer.labelled_area if writer.labelled_area else None,
        area=area,
        mean_diameter=one.mean_diameter,
        sd_diameter=one.sd_diameter,
        median_diameter=one.median_diameter,
    )


def _draw_histograms(
    measured: Sequence[MaskMeasured],
    names: Sequence[tuple[int, str]],
    unit: Unit,
    book: OutputBook,
    which: HistogramOf,
) -> list[Path]:
    """Write one page with a histogram a class; nothing where no class has an object."""
    if which == "none":
        return []
    column, words, power = _HISTOGRAMS[which]
    stored_unit = f"{unit}{power}".removesuffix("1") if power else ""
    figures = [
        _histogram(values, name, words, stored_unit)
        for value, name in names
        if np.isfinite(values := _of_class(measured, value, column)).any()
    ]
    if not figures:
        return []
    file = book.out / HISTOGRAMS_FILE
    title = f"Distribution of {words}"
    body = f'<h1>{escaped(title)}</h1><div class="charts">{"".join(figures)}</div>'
    return [write_own(file, page(title, body).encode(), book)]


def _histogram(values: np.ndarray, title: str, words: str, unit: str) -> str:
    """Return a figure of how often each size occurs, with count, mean, deviation and median."""
    values, unit = _in_readable_unit(values[np.isfinite(values)], unit)
    counts, edges = np.histogram(values, _edges(values))
    corners = [(float(edges[0]), 0.0)]
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        corners += [(float(low), float(count)), (float(high), float(count))]
    corners.append((float(edges[-1]), 0.0))
    deviation = values.std(ddof=1) if values.size > 1 else 0.0  # as the summary has it
    numbers = (
        f"n = {values.size:,}, mean {values.mean():.4g}, SD {deviation:.4g}, "
        f"median {np.median(values):.4g} {unit}"
    )
    chart = Chart(
        title=title,
        curves=(Curve(name="objects", points=tuple(corners)),),
        limits=(0, math.inf),
        x_words=f"{words} ({unit})" if unit else words,
        note=numbers.rstrip(),
        has_legend=False,
    )
    return figure_of(chart)


def _in_readable_unit(values: np.ndarray, unit: str) -> tuple[np.ndarray, str]:
    if unit == "nm" and np.median(values) >= _LARGE_NM:
        return values / 1e3, "µm"
    if unit == "nm2" and np.median(values) >= 1e6:
        return values / 1e6, "µm²"
    return values, unit.replace("2", "²")


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(1.0, abs(high)):
        return np.linspace(low - 0.5, high + 0.5, 4)
    # Twice the interquartile range over the cube root of n: Freedman & Diaconis 1981.
    lower, upper = np.percentile(values, (25, 75))
    width = 2 * (upper - lower) / values.size ** (1 / 3)
    bars = math.ceil((high - low) / width) if width > 0 else 1 + math.ceil(math.log2(values.size))
    return np.linspace(low, high, 1 + min(_MOST_BARS, max(5, bars)))


def _of_class(measured: Sequence[MaskMeasured], value: int, column: str) -> np.ndarray:
    parts = [getattr(one.objects, column)[one.objects.class_value == value] for one in measured]
    return np.concatenate(parts) if parts else np.zeros(0)


def _summary(measured: Sequence[MaskMeasured], value: int, name: str) -> ClassSummary:
    area = total = 0.0
    for one in measured:
        pixel_area = one.pixel[0] * one.pixel[1]
        area += pixel_area * sum(s.area_px for s in one.shares if s.value == value)
        total += pixel_area * one.labelled_px
    diameters = _of_class(measured, value, "equivalent_diameter")
    gaps = _of_class(measured, value, "neighbour_distance")
    gaps = gaps[np.isfinite(gaps)]
    return ClassSummary(
        name=name,
        value=value,
        num_objects=len(diameters),
        area_fraction=area / total if total else None,
        area=area,
        mean_diameter=float(diameters.mean()) if diameters.size else None,
        sd_diameter=float(diameters.std(ddof=1)) if diameters.size > 1 else None,
        median_diameter=float(np.median(diameters)) if diameters.size else None,
        mean_neighbour=float(gaps.mean()) if gaps.size else None,
    )
