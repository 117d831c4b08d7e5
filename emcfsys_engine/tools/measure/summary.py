"""What the tables of a measurement amount to, of any number of rows: counts, sizes, fractions.

DuckDB reads CSV and Parquet in blocks on all cores and within a limit of memory. Sizes are counted
in narrow steps of their logarithm: of 10⁸ objects no list is ever made, and a percentile is exact
to a thousandth.
"""

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from emcfsys_engine.errors import InputError, printable
from emcfsys_engine.text import how_many, text_of_cell
from emcfsys_engine.tools.measure.newest import REMEDY, Tables, newest_tables
from emcfsys_engine.tools.measure.standards.interval import t_95
from emcfsys_engine.tools.measure.standards.particle_sizes import POWERS
from emcfsys_engine.tools.measure.tables import Unit

_STEPS = 1000  # of the natural logarithm: each is 0.1 % wide
_MEMORY = "1500MB"
_UNITS: tuple[Unit, ...] = ("nm", "px")
_DIAMETER = "equivalent_diameter_"
_PIXEL_SIDES = ("pixel_height_nm", "pixel_width_nm")
_NEEDED = {
    "class",
    "touches_border",
    "mask",
    "class_value",
    "labelled_px",
    "area_px",
    "area_fraction",
    "num_objects",
    *_PIXEL_SIDES,
}
_PERCENTILES = (0.1, 0.5, 0.9)
_Sizes = Literal["number", "area", "volume"]


class SizeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Diameters of whole objects, each counted once, by its area or by its volume."""

    weighting: _Sizes
    d10: float
    d50: float
    d90: float


class ClassOfTables(msgspec.Struct, frozen=True, kw_only=True):
    """One class of all tables. Units: diameters in that of the tables; fractions of 1.

    Mean, SD and median are of all objects, sizes of those that no edge cuts. The interval is that
    of the mean over images, with Student's t (ASTM E1245).
    """

    name: str
    num_objects: int
    num_whole: int
    mean_diameter: float | None
    sd_diameter: float | None
    median_diameter: float | None
    sizes: tuple[SizeSummary, ...]
    area_fraction: float | None  # of all labelled area together
    mean_fraction: float | None  # over images of which something is labelled
    mean_fraction_ci95: tuple[float, float] | None


class TablesSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All classes of a measurement's tables."""

    unit: Unit
    num_masks: int
    num_objects: int
    classes: tuple[ClassOfTables, ...]
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """A table for a terminal."""
        length = max([5, *(len(one.name) for one in self.classes)])
        head = f"{'class':<{length}}  {'objects':>11}  {'area % (mean, 95 %)':>26}"
        lines = [f"{head}  {'mean ± SD':>20}  D10, D50, D90 ({self.unit})"]
        for one in self.classes:
            lines.append(f"{one.name:<{length}}  {_cells(one)}".rstrip())
        lines.append(
            f"{how_many(self.num_objects, 'object')} in {how_many(self.num_masks, 'mask')}"
        )
        lines.append("D10, D50, D90 by number, of objects that no edge cuts; --json has all")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class CountedSizes:
    """Whole objects of a class in steps of size. Shapes: one float64 a step, twice."""

    name: str
    size: np.ndarray  # the middle of each step
    count: np.ndarray
    unit: Unit


def summarise(folder: Path) -> TablesSummary:
    """Return what the tables in a folder amount to.

    Raises: InputError without DuckDB, without tables, or where one is not as measure writes it.
    """
    return summary_and_sizes(folder)[0]


def summary_and_sizes(folder: Path) -> tuple[TablesSummary, list[CountedSizes]]:
    """Return the same with how many whole objects of each class have which size.

    Raises: InputError as `summarise`.
    """
    tables = newest_tables(folder)
    with _database() as database:
        unit, rows = _counted(database, tables)
        fractions = _fractions(database, tables)
    names = [*fractions, *(name for name in rows if name not in fractions)]
    num_masks = max((found.num_masks for found in fractions.values()), default=0)
    classes = tuple(_class_of(name, rows.get(name), fractions.get(name)) for name in names)
    summary = TablesSummary(
        unit=unit,
        num_masks=num_masks,
        num_objects=sum(one.num_objects for one in classes),
        classes=classes,
        notes=tuple(_other_numbers(classes, fractions)),
    )
    return summary, [_sizes_of(name, one, unit) for name, one in rows.items()]


def _other_numbers(
    classes: Sequence[ClassOfTables], fractions: Mapping[str, "_Fraction"]
) -> Iterator[str]:
    """Say where one table was cut, copied in part or changed, and the other was not."""
    for one in classes:
        counted = fractions[one.name].num_objects if one.name in fractions else None
        if counted not in (None, one.num_objects):
            there = f"the table of objects has {one.num_objects} of {printable(one.name)}"
            yield f"{there}, that of images counts {counted}: one of them was changed or cut"


def _sizes_of(name: str, rows: np.ndarray, unit: Unit) -> CountedSizes:
    whole = rows[rows[:, 0] == 0]
    size = np.exp((whole[:, 1] + 0.5) / _STEPS)
    return CountedSizes(name=name, size=size, count=whole[:, 2], unit=unit)


def need_duckdb() -> Any:
    """Return DuckDB. Raises: InputError where it, or pyarrow, is not installed."""
    try:
        import_module("pyarrow.csv")
        return import_module("duckdb")
    except ModuleNotFoundError:
        remedy = "Install it with: pip install 'emcfsys-tui[parquet]'"
        raise InputError("measure --summary", "needs duckdb and pyarrow", remedy) from None


def _database() -> Any:
    """Return an empty database in memory that fetches nothing and leaves no file behind."""
    return need_duckdb().connect(
        config={
            "memory_limit": _MEMORY,
            "threads": len(os.sched_getaffinity(0)),
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )


def _ask(database: Any, tables: Tables, files: Sequence[Path], query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query over files; it names them as `rows`.

    Raises: InputError naming the first file where they cannot be read or are not ours.
    """
    source, words = "read_parquet($files)", {"files": [_without_wildcards(one) for one in files]}
    try:
        if tables.is_csv:
            database.register("lines", _csv_lines(files[0]))
            database.execute("CREATE OR REPLACE TEMP TABLE source AS FROM lines")
            source, words = "source", {}
        return database.execute(f"WITH rows AS (FROM {source}) {query}", words).fetchall()
    except (
        need_duckdb().Error,
        ValueError,
        OSError,
        csv.Error,
    ) as error:  # Arrow's errors are ValueErrors
        why = str(error).strip().split("\n")[0]
        raise InputError(files[0], f"is no table as measure writes it: {why}", REMEDY) from None


def _csv_lines(file: Path) -> Any:
    """Return what reads a CSV file block by block, the columns that are needed alone.

    Names stay bytes: those of files need not be text.
    """
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        there = next(csv.reader(stream), [])
    arrow_csv = import_module("pyarrow.csv")
    as_bytes = dict.fromkeys(("class", "mask"), import_module("pyarrow").binary())
    options = arrow_csv.ConvertOptions(
        include_columns=[one for one in there if one in _NEEDED or one.startswith(_DIAMETER)],
        column_types=as_bytes,
        true_values=["yes"],
        false_values=["no"],
        check_utf8=False,
    )
    parsing = arrow_csv.ParseOptions(newlines_in_values=True)  # of files
    return arrow_csv.open_csv(file, parse_options=parsing, convert_options=options)


def _without_wildcards(file: Path) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in str(file))


def _name_of(name: str | bytes) -> str:
    if isinstance(name, str):
        return name
    return text_of_cell(name.decode("utf-8", "surrogateescape"))


def _counted(database: Any, tables: Tables) -> tuple[Unit, dict[str, np.ndarray]]:
    """Return the unit, and for each class rows of: cut by an edge, step, number, sum, squares."""
    if not tables.objects:
        return "px", {}
    columns = [name for name, *_ in _ask(database, tables, tables.objects[:1], _COLUMNS)]
    unit: Unit | None = next((one for one in _UNITS if _DIAMETER + one in columns), None)
    if unit is None:
        raise InputError(tables.objects[0], f"has no column {_DIAMETER}…", REMEDY)
    query = f"""
        SELECT class, touches_border, floor(ln(size) * {_STEPS}),
               count(*), sum(size), sum(size * size)
        FROM (SELECT class, touches_border, CAST({_DIAMETER}{unit} AS DOUBLE) AS size FROM rows)
        WHERE size > 0 GROUP BY ALL ORDER BY ALL"""
    found: dict[str, list[tuple[float, ...]]] = {}
    for name, *numbers in _ask(database, tables, tables.objects, query):
        found.setdefault(_name_of(name), []).append(tuple(map(float, numbers)))
    return unit, {name: np.array(rows) for name, rows in found.items()}


_COLUMNS = "SELECT column_name FROM (DESCRIBE FROM rows)"


@dataclass(frozen=True, kw_only=True)
class _Fraction:
    num_masks: int
    num_objects: int | None  # as the table of images counts them; None: it does not
    num_labelled: int  # masks: the others say nothing of what there is
    area: float  # nm² where the table has pixel sizes, else pixels
    labelled_area: float
    sum: float
    squares: float


def _fractions(database: Any, tables: Tables) -> dict[str, _Fraction]:
    """Return what each class covers; a mask without a row of it has none of it."""
    if not tables.images:
        return {}
    columns = [name for name, *_ in _ask(database, tables, tables.images[:1], _COLUMNS)]
    objects = "CAST(num_objects AS BIGINT)" if "num_objects" in columns else "NULL"
    is_in_nm = set(_PIXEL_SIDES) <= set(columns)
    pixel = " * ".join(f"CAST({side} AS DOUBLE)" for side in _PIXEL_SIDES) if is_in_nm else "1"
    query = f"""
        SELECT class, sum(area), sum(fraction), sum(fraction * fraction), sum(objects),
               (SELECT count(*) FROM masks), (SELECT count(*) FROM masks WHERE labelled > 0),
               (SELECT sum(labelled) FROM masks)
        FROM (SELECT class, class_value, CAST(area_px AS BIGINT) * {pixel} AS area,
                     {objects} AS objects,
                     CASE WHEN CAST(labelled_px AS BIGINT) > 0
                          THEN CAST(area_fraction AS DOUBLE) END AS fraction FROM rows)
        GROUP BY class ORDER BY min(CAST(class_value AS INT))"""
    masks = f""", masks AS (SELECT mask, max(CAST(labelled_px AS BIGINT) * {pixel}) AS labelled
               FROM rows GROUP BY mask)"""
    found: dict[str, _Fraction] = {}
    for name, area, total, squares, counted, num_masks, num_labelled, labelled in _ask(
        database, tables, tables.images, masks + query
    ):
        found[_name_of(name)] = _Fraction(
            num_masks=num_masks,
            num_objects=None if counted is None else int(counted),
            num_labelled=num_labelled,
            area=float(area or 0),
            labelled_area=float(labelled or 0),
            sum=total or 0.0,
            squares=squares or 0.0,
        )
    return found


def _class_of(name: str, rows: np.ndarray | None, covered: _Fraction | None) -> ClassOfTables:
    rows = np.zeros((0, 5)) if rows is None else rows
    number = float(rows[:, 2].sum())
    mean = float(rows[:, 3].sum()) / number if number else None
    sd = None
    if mean is not None and number > 1:
        sd = math.sqrt(max(0.0, float(rows[:, 4].sum()) - number * mean * mean) / (number - 1))
    whole = rows[rows[:, 0] == 0]
    fraction = interval = None
    if covered is not None and covered.num_labelled:
        fraction = covered.sum / covered.num_labelled
        interval = _interval(fraction, covered.squares, covered.num_labelled)
    return ClassOfTables(
        name=name,
        num_objects=int(number),
        num_whole=int(whole[:, 2].sum()),
        mean_diameter=mean,
        sd_diameter=sd,
        median_diameter=_median(rows) if number else None,
        sizes=tuple(_sizes(whole[:, 1], whole[:, 2])) if len(whole) else (),
        area_fraction=covered.area / covered.labelled_area
        if covered is not None and covered.labelled_area
        else None,
        mean_fraction=fraction,
        mean_fraction_ci95=interval,
    )


def _median(rows: np.ndarray) -> float:
    """Return the middle size, or the mean of the two in the middle, as everybody's median is."""
    steps, places = np.unique(rows[:, 1], return_inverse=True)  # cut or whole, in one
    reached = np.cumsum(np.bincount(places, rows[:, 2]))
    middle = ((reached[-1] - 1) // 2, reached[-1] // 2)  # the same one where the number is odd
    return sum(_size_at(steps, reached, place + 0.5) for place in middle) / 2


def _interval(mean: float, squares: float, number: int) -> tuple[float, float] | None:
    if number < 2 or mean in (0.0, 1.0):  # none in any image does not say how rare it is
        return None
    variance = max(0.0, squares - number * mean * mean) / (number - 1)
    half = t_95(number - 1) * math.sqrt(variance / number)
    return max(0.0, mean - half), min(1.0, mean + half)


def _sizes(step: np.ndarray, count: np.ndarray) -> list[SizeSummary]:
    found: list[SizeSummary] = []
    for weighting, power in POWERS.items():
        weight = count * np.exp((step + 0.5) / _STEPS * power)
        reached = np.cumsum(weight)
        d10, d50, d90 = (_size_at(step, reached, share * reached[-1]) for share in _PERCENTILES)
        found.append(SizeSummary(weighting=weighting, d10=d10, d50=d50, d90=d90))
    return found


def _size_at(step: np.ndarray, reached: np.ndarray, goal: float) -> float:
    """Return the size up to which so much lies, between the ends of its step."""
    place = int(np.searchsorted(reached, goal))
    before = reached[place - 1] if place else 0.0
    share = (goal - before) / (reached[place] - before)
    return float(np.exp((step[place] + share) / _STEPS))


def _cells(one: ClassOfTables) -> str:
    area = spread = size = "–"
    if one.mean_fraction is not None:
        area = f"{100 * (one.area_fraction or 0):.2f}"
        if one.mean_fraction_ci95 is not None:
            low, high = (100 * end for end in one.mean_fraction_ci95)
            area += f" ({100 * one.mean_fraction:.2f}, {low:.2f}–{high:.2f})"
    if one.mean_diameter is not None:
        spread = f"{one.mean_diameter:.4g} ± {one.sd_diameter or 0:.3g}"
    if one.sizes:
        number = one.sizes[0]
        size = f"{number.d10:.4g}, {number.d50:.4g}, {number.d90:.4g}"
    return f"{one.num_objects:>11,}  {area:>26}  {spread:>20}  {size}"
