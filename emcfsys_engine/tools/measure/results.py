"""What a measurement leaves behind: tables, histograms, and a summary of each class."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from emcfsys_engine.run.folder import write_whole
from emcfsys_engine.tools.measure.histogram import Quantity, histogram_png
from emcfsys_engine.tools.measure.measurement import (
    ClassSummary,
    HistogramOf,
    Measurement,
    MeasureSettings,
    NotMeasured,
)
from emcfsys_engine.tools.measure.tables import (
    MaskMeasured,
    Unit,
    images_table,
    objects_table,
    write_table,
)

_HISTOGRAMS: Mapping[HistogramOf, tuple[str, str, str]] = {  # field, words, power of the unit
    "diameter": ("equivalent_diameter", "equivalent diameter", "1"),
    "area": ("area", "area", "2"),
    "feret": ("feret_max", "largest Feret diameter", "1"),
    "circularity": ("circularity", "circularity", ""),
    "neighbour": ("neighbour_distance", "distance to the nearest neighbour", "1"),
}
_UNFIT = re.compile(r"[^\w.+-]+")  # for the name of a file
_LONGEST_NAME = 60


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
        objects = write_table(out, "objects", objects_table(measured, names, unit), settings.table)
        images = write_table(out, "images", images_table(measured, unit), settings.table)
        drawn = _draw_histograms(measured, names, unit, out, settings.histogram)
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


def _draw_histograms(
    measured: Sequence[MaskMeasured],
    names: Sequence[tuple[int, str]],
    unit: Unit,
    out: Path,
    which: HistogramOf,
) -> list[Path]:
    if which == "none":
        return []
    column, words, power = _HISTOGRAMS[which]
    quantity = Quantity(words=words, unit=f"{unit}{power}".removesuffix("1") if power else "")
    files: list[Path] = []
    for value, name in names:
        values = _of_class(measured, value, column)
        if np.isfinite(values).any():
            file = out / f"histogram-{_stem_of(name, value)}.png"
            write_whole(file, histogram_png(values, name, quantity))
            files.append(file)
    return files


def _stem_of(name: str, value: int) -> str:
    """Return a class's name as part of a file's; with its value where the name had to change."""
    plain = _UNFIT.sub("_", name)[:_LONGEST_NAME]
    return plain if plain == name else f"{plain}-{value}"


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
