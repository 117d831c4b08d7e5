"""Measurements as tables with the unit in every column's name, written as CSV or Parquet."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import write_own
from emcfsys_engine.text import cell_of
from emcfsys_engine.tools.measure.objects import Objects

Unit = Literal["nm", "px"]
TableFormat = Literal["csv", "parquet", "parts"]


@dataclass(frozen=True, kw_only=True)
class ClassShare:
    """How much of one image a class covers. Units: pixels."""

    name: str
    value: int
    area_px: int


@dataclass(frozen=True, kw_only=True)
class MaskMeasured:
    """One mask: its objects, and what each class covers.

    Units: pixel is (y, x) in the table's unit; labelled_px leaves out unlabelled pixels.
    """

    mask: str
    image: str
    pixel: tuple[float, float]
    size_HW: tuple[int, int]
    labelled_px: int
    shares: tuple[ClassShare, ...]
    objects: Objects


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Shapes: as long as its table's other columns: text (as objects), bool, integers or floats, of
            which NaN is written as nothing.
    """

    name: str
    values: np.ndarray


Table = tuple[Column, ...]


def objects_table(
    measured: Sequence[MaskMeasured], names: Sequence[tuple[int, str]], unit: Unit
) -> Table:
    """Return one row an object; names are (class value, class name)."""
    sizes = [len(one.objects) for one in measured]
    class_of = dict(names)
    values = _joined(measured, "class_value", np.uint8)
    columns = [
        Column(name="mask", values=np.repeat(_texts(one.mask for one in measured), sizes)),
        Column(name="image", values=np.repeat(_texts(one.image for one in measured), sizes)),
        Column(name="object", values=_counted(sizes)),
        Column(name="class", values=_texts(class_of[value] for value in values.tolist())),
        Column(name="class_value", values=values),
        Column(name="area_px", values=_joined(measured, "area_px", np.int64)),
    ]
    columns += [
        Column(name=name.format(unit=unit), values=_joined(measured, field, np.float64))
        for field, name in _OBJECT_COLUMNS
        if unit == "nm" or field not in _ONLY_WITH_NM
    ]
    columns.append(
        Column(name="touches_border", values=_joined(measured, "touches_border", np.bool_))
    )
    return tuple(columns)


def images_table(measured: Sequence[MaskMeasured], unit: Unit) -> Table:
    """Return one row for each class of each image."""
    rows = [(one, share) for one in measured for share in one.shares]
    size = np.array([one.pixel[0] * one.pixel[1] for one, _ in rows], np.float64)
    labelled = np.array([one.labelled_px for one, _ in rows], np.int64)
    area_px = np.array([share.area_px for _, share in rows], np.int64)
    picked = [one.objects.class_value == share.value for one, share in rows]
    number = np.array([int(chosen.sum()) for chosen in picked], np.int64)
    columns = [
        Column(name="mask", values=_texts(one.mask for one, _ in rows)),
        Column(name="image", values=_texts(one.image for one, _ in rows)),
        Column(name="height_px", values=np.array([one.size_HW[0] for one, _ in rows], np.int64)),
        Column(name="width_px", values=np.array([one.size_HW[1] for one, _ in rows], np.int64)),
        Column(name="labelled_px", values=labelled),
        Column(name="class", values=_texts(share.name for _, share in rows)),
        Column(name="class_value", values=np.array([share.value for _, share in rows], np.uint8)),
        Column(name="area_px", values=area_px),
        Column(name="area_fraction", values=_ratio(area_px, labelled)),
        Column(name="num_objects", values=number),
    ]
    if unit == "nm":
        heights = np.array([one.pixel[0] for one, _ in rows], np.float64)
        widths = np.array([one.pixel[1] for one, _ in rows], np.float64)
        columns[4:4] = [
            Column(name="pixel_height_nm", values=heights),
            Column(name="pixel_width_nm", values=widths),
        ]
        columns.insert(-2, Column(name="area_nm2", values=area_px * size))
        # 1 µm² is 10⁶ nm²
        columns.append(Column(name="objects_per_um2", values=_ratio(number * 1e6, labelled * size)))
    else:
        columns.append(Column(name="objects_per_Mpx", values=_ratio(number * 1e6, labelled)))
    columns += [
        Column(
            name=f"{word}_{name.format(unit=unit)}",
            values=_of_objects(rows, picked, field, word),
        )
        for field, name in _IMAGE_COLUMNS
        for word in ("mean", "median")
    ]
    return tuple(columns)


def write_table(book: OutputBook, stem: str, table: Table, kind: TableFormat) -> Path:
    """Write a table whole or not at all, and return its file: over one of ours only.

    Raises: InputError when Parquet is asked for and pyarrow is not installed.
    """
    content = csv_of(table) if kind == "csv" else parquet_of(table)
    return write_own(book.out / f"{stem}.{kind}", content, book)


def need_parquet() -> None:
    """Check that Parquet can be written.

    Raises: InputError if not.
    """
    try:
        import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        remedy = "Install it with: pip install 'emcfsys-tui[parquet]', or write CSV"
        raise InputError("--format parquet", "needs pyarrow", remedy) from None


def csv_of(table: Table) -> bytes:
    """Return a table as CSV in UTF-8: ten significant digits, empty where there is no value."""
    lines = _Lines()
    writer = csv.writer(lines)
    writer.writerow([cell_of(column.name) for column in table])
    rows = zip(*(_cells(column.values) for column in table), strict=True)
    writer.writerows(rows)
    # A file's name may hold bytes that are no text: they are written as they are.
    return lines.text.getvalue().encode("utf-8", "surrogateescape")


class _Lines:
    """Takes rows as csv ends them: it quotes only signs of its own end, and names can hold CR."""

    def __init__(self) -> None:
        self.text = io.StringIO(newline="")

    def write(self, row: str) -> None:
        """Write a row that ends with CR and LF; only the LF is kept."""
        self.text.write(row.removesuffix("\r\n") + "\n")


_OBJECT_COLUMNS: tuple[tuple[str, str], ...] = (
    ("area", "area_{unit}2"),
    ("equivalent_diameter", "equivalent_diameter_{unit}"),
    ("perimeter", "perimeter_{unit}"),
    ("feret_max", "feret_max_{unit}"),
    ("feret_min", "feret_min_{unit}"),
    ("major_axis", "major_axis_{unit}"),
    ("minor_axis", "minor_axis_{unit}"),
    ("orientation_deg", "orientation_deg"),
    ("eccentricity", "eccentricity"),
    ("circularity", "circularity"),
    ("solidity", "solidity"),
    ("mean_intensity", "mean_intensity"),
    ("integrated_intensity", "integrated_intensity"),
    ("neighbour_distance", "nearest_neighbour_{unit}"),
    ("centroid_x", "centroid_x_{unit}"),
    ("centroid_y", "centroid_y_{unit}"),
    ("centroid_x_px", "centroid_x_px"),
    ("centroid_y_px", "centroid_y_px"),
)
_ONLY_WITH_NM = ("area", "centroid_x", "centroid_y")  # without, they repeat the columns in pixels
_IMAGE_COLUMNS: tuple[tuple[str, str], ...] = (
    ("equivalent_diameter", "equivalent_diameter_{unit}"),
    ("neighbour_distance", "nearest_neighbour_{unit}"),
)


def _joined(measured: Sequence[MaskMeasured], field: str, kind: type[np.generic]) -> np.ndarray:
    """Return one field of all objects; NaN where a mask had no image."""
    parts: list[np.ndarray] = []
    for one in measured:
        values = getattr(one.objects, field)
        parts.append(np.full(len(one.objects), np.nan) if values is None else values)
    return np.concatenate(parts).astype(kind) if parts else np.zeros(0, kind)


def _of_objects(
    rows: Sequence[tuple[MaskMeasured, ClassShare]],
    picked: Sequence[np.ndarray],
    field: str,
    word: str,
) -> np.ndarray:
    values = np.full(len(rows), np.nan)
    for place, ((one, _), chosen) in enumerate(zip(rows, picked, strict=True)):
        mine = getattr(one.objects, field)[chosen]
        mine = mine[np.isfinite(mine)]
        if mine.size:
            values[place] = mine.mean() if word == "mean" else np.median(mine)
    return values


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(len(over), np.nan), where=under > 0)


def _texts(words: Iterable[str]) -> np.ndarray:
    return np.array(list(words), object)


def _counted(sizes: Sequence[int]) -> np.ndarray:
    """Return 1, 2, … anew for each mask."""
    parts = [np.arange(1, size + 1) for size in sizes]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _cells(values: np.ndarray) -> list[object]:
    if values.dtype.kind == "f":
        return ["" if value != value else f"{value:.10g}" for value in values.tolist()]
    if values.dtype.kind == "b":
        return ["yes" if value else "no" for value in values.tolist()]
    if values.dtype.kind in "iu":
        return values.tolist()
    return [cell_of(value) for value in values.tolist()]


def parquet_of(table: Table) -> bytes:
    """Return a table as Parquet; bytes of names that are no text stand as \\xff.

    Raises: InputError without pyarrow.
    """
    need_parquet()
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    columns = {
        column.name: arrow.array(
            list(map(_as_text, column.values)) if column.values.dtype == object else column.values,
            type=arrow.string() if column.values.dtype == object else None,
            from_pandas=True,  # NaN is "no value"
        )
        for column in table
    }
    stream = io.BytesIO()
    parquet.write_table(arrow.table(columns), stream)
    return stream.getvalue()


def _as_text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
