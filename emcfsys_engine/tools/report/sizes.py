"""Sizes to look at: cumulative and density distributions, and maps of grains coloured by size."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from emcfsys_engine.errors import InputError
from emcfsys_engine.text import text_of_cell
from emcfsys_engine.tools.measure.newest import is_earlier, newest_of, newest_tables
from emcfsys_engine.tools.measure.summary import CountedSizes, summary_and_sizes
from emcfsys_engine.tools.report.charts import (
    Chart,
    Curve,
    Point,
    figure_of,
    picture,
    section,
    table,
)
from emcfsys_engine.tools.report.pictures import embedded

_WEIGHTINGS = (("number", 0), ("area", 2), ("volume", 3))
_MOST_BARS = 40
_MOST_STEPS = 400
_MAP_PX = 700
# Smith and van der Walt's viridis at nine places: even in lightness, read without red and green.
_SCALE = np.array(
    [
        (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
        (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37),
    ],
    np.float64,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ObjectSizes:
    """Sizes of one kind of objects. Shapes: one number an object, twice."""

    name: str
    size: np.ndarray
    weight: np.ndarray
    unit: str = "nm"
    num_objects: int | None = None  # where a size stands for many of them


@dataclass(frozen=True, kw_only=True)
class SizeMap:
    """How large the grain of each pixel is. Shapes: H×W float32, NaN outside. Units: nm."""

    name: str
    size_HW: np.ndarray


def small_map(name: str, grains: np.ndarray, size_of: np.ndarray) -> SizeMap:
    """Return a map of sizes that fits a page.

    Shapes: grains are H×W integers, 0 or less outside; size_of has the size of grain n at n, in
    nm, of any float type.
    """
    stride = math.ceil(max(grains.shape) / _MAP_PX)
    few = grains[::stride, ::stride]
    sizes = np.where(few > 0, size_of[np.maximum(few, 0)], np.nan)
    return SizeMap(name=name, size_HW=sizes.astype(np.float32))


def distribution_charts(found: Sequence[ObjectSizes]) -> str:
    """Return figures of the cumulative and the density distribution of each kind of objects."""
    figures = [figure_of(chart) for chart in _charts_of(found)]
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def size_charts(folder: Path) -> list[Chart]:
    """Return the cumulative and the density distribution of each class that `measure` wrote.

    Raises: InputError when the folder holds no table of objects, or one that is not ours.
    """
    return _charts_of(_sizes_in(folder))


def _charts_of(found: Sequence[ObjectSizes]) -> list[Chart]:
    return [draw(one) for one in found if one.size.size for draw in (_cumulative, _density)]


def map_files(maps: Sequence[SizeMap]) -> tuple[str, list[bytes]]:
    """Return what the colours of the maps mean, and each as PNG in one scale: dark is small."""
    known = [one.size_HW[np.isfinite(one.size_HW)] for one in maps]
    every = np.concatenate(known) if known else np.zeros(0)
    if not every.size:
        return "", []
    low, high = (float(end) for end in np.percentile(every, (1, 99)))
    words = f"Dark: {low:.4g} nm and less, bright: {high:.4g} nm and more; boundaries are white."
    return words, [_png_of(one, low, high, words) for one in maps]


def map_pictures(words: str, maps: Sequence[SizeMap], files: Sequence[bytes]) -> str:
    """Return the maps with what their colours mean."""
    shown = "".join(
        picture(content, "png", one.name) for one, content in zip(maps, files, strict=False)
    )
    return f'<p class="soft">{words}</p><div class="pictures">{shown}</div>' if shown else ""


@dataclass(frozen=True, kw_only=True)
class SmallMap:
    """A map of sizes as a picture for a terminal. Shapes: H×W×3 uint8, row after row."""

    name: str
    words: str  # what its colours mean
    size_HW: tuple[int, int]
    colours: bytes


def small_maps(folder: Path, most_px: int) -> list[SmallMap]:
    """Return the maps that a measurement of grains left in a folder, none larger than `most_px`.

    Raises: InputError when one cannot be read.
    """
    return [_small(file, most_px) for file in sorted(folder.glob("grain-map-*.png"))]


def _small(file: Path, most_px: int) -> SmallMap:
    try:
        with Image.open(file) as opened:
            told = {key: str(value) for key, value in opened.info.items()}
            colours = np.asarray(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(file, f"cannot be read: {error}", "Measure again") from None
    stride = math.ceil(max(colours.shape) / most_px)
    few = colours[::stride, ::stride]
    return SmallMap(
        name=told.get("Title", file.stem),
        words=told.get("Description", ""),
        size_HW=(few.shape[0], few.shape[1]),
        colours=few.tobytes(),
    )


_STANDARDS = ("e112", "e562", "e1245", "iso13322")
_DIAMETER = "equivalent_diameter_"


def numbers_section(folder: Path) -> str:
    """Return what `measure` wrote into a folder: distributions, standards' numbers, grain maps.

    Raises: InputError when it holds no table of objects, or one that measure did not write.
    """
    charts = distribution_charts(_sizes_in(folder))
    newest = newest_tables(folder).told_by

    def titled(name: str, file: Path) -> str:
        return f"{name} (of an earlier measurement)" if is_earlier(file, newest) else name

    tables = "".join(
        _standard_table(file, titled(name.upper(), file))
        for name in _STANDARDS
        if (file := newest_of(folder, name, ".csv")) is not None
    )
    maps = [
        embedded(file, titled(file.stem, file)) for file in sorted(folder.glob("grain-map-*.png"))
    ]
    pictures = f'<div class="pictures">{"".join(maps)}</div>' if maps else ""
    return section("Sizes", tables, charts, pictures)


def sizes_of_counts(counted: Sequence[CountedSizes]) -> list[ObjectSizes]:
    """Return diameters of whole objects that were counted in narrow steps."""
    return [
        ObjectSizes(
            name=one.name,
            size=one.size,
            weight=one.count,
            unit=one.unit,
            num_objects=int(one.count.sum()),
        )
        for one in counted
    ]


def _sizes_in(folder: Path) -> list[ObjectSizes]:
    tables = newest_tables(folder)
    if tables.is_csv:
        return _read_sizes(tables.objects[0])
    return sizes_of_counts(summary_and_sizes(folder)[1])


def _read_sizes(file: Path) -> list[ObjectSizes]:
    """Return the diameters of whole objects, class by class."""
    rows = _rows_of(file)
    column = next((name for name in rows[0] if name.startswith(_DIAMETER)), None) if rows else ""
    if column is None:
        raise InputError(file, f"has no column {_DIAMETER}…", "Name a folder that measure wrote")
    found: dict[str, list[float]] = {}
    try:
        for row in rows:
            if row["touches_border"] != "yes":
                found.setdefault(text_of_cell(row["class"]), []).append(float(row[column or ""]))
    except (KeyError, TypeError, ValueError):
        what = "is no table of objects as measure writes it"
        raise InputError(file, what, "Name a folder that measure wrote") from None
    return [
        ObjectSizes(
            name=name,
            size=np.array(sizes),
            weight=np.ones(len(sizes)),
            unit=(column or "").removeprefix(_DIAMETER),
        )
        for name, sizes in found.items()
    ]


def _standard_table(file: Path, title: str) -> str:
    """Return the rows of a standard that hold for all fields."""
    rows = [row for row in _rows_of(file) if not row.get("mask")]
    if not rows:
        return ""
    heads = [head for head in rows[0] if head != "mask"]
    cells = [[text_of_cell(row[head] or "") for head in heads] for row in rows]
    return f"<h3>{title}</h3>" + table([h.replace("_", " ") for h in heads], cells)


def _rows_of(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8", errors="replace") as stream:
            return list(csv.DictReader(stream, restkey=""))
    except (OSError, csv.Error) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise InputError(file, what, "Name a folder that measure wrote, as CSV") from None


def _cumulative(one: ObjectSizes) -> Chart:
    order = np.argsort(one.size)
    sizes = one.size[order]
    curves: list[Curve] = []
    for place, (word, power) in enumerate(_WEIGHTINGS):
        reached = np.cumsum(one.weight[order] * sizes**power)
        steps = np.unique(np.linspace(0, sizes.size - 1, _MOST_STEPS).astype(int))
        points: list[Point] = [(float(sizes[0]), 0.0)]
        points += [(float(sizes[at]), float(100 * reached[at] / reached[-1])) for at in steps]
        curves.append(Curve(name=f"by {word}", points=tuple(points), colour=5 + place))
    return Chart(
        title=f"{one.name}: cumulative distribution",
        curves=tuple(curves),
        limits=(0, 100),
        x_words=f"equivalent diameter ({one.unit})",
        note="% up to this size",
    )


def _density(one: ObjectSizes) -> Chart:
    num = one.size.size if one.num_objects is None else one.num_objects
    bars = min(_MOST_BARS, max(5, math.ceil(2 * num ** (1 / 3))))  # Rice's rule
    curves: list[Curve] = []
    for place, (word, power) in enumerate(_WEIGHTINGS):
        low, high = float(one.size.min()), float(one.size.max())
        if high <= low:
            low, high = low * 0.5, high * 1.5
        heights, edges = np.histogram(
            one.size, np.linspace(low, high, bars + 1), density=True,
            weights=one.weight * one.size**power,
        )  # fmt: skip
        corners: list[Point] = [(low, 0.0)]
        for height, left, right in zip(heights, edges[:-1], edges[1:], strict=True):
            corners += [(float(left), 100 * float(height)), (float(right), 100 * float(height))]
        corners.append((high, 0.0))
        curves.append(Curve(name=f"by {word}", points=tuple(corners), colour=5 + place))
    return Chart(
        title=f"{one.name}: density",
        curves=tuple(curves),
        limits=(0, math.inf),
        x_words=f"equivalent diameter ({one.unit})",
        note=f"% per {one.unit}, n = {num:,}",
        has_legend=False,
    )


def _png_of(one: SizeMap, low: float, high: float, words: str) -> bytes:
    share = np.log(one.size_HW / low) / max(math.log(high / low), 1e-9)
    place = np.clip(np.nan_to_num(share), 0, 1) * (len(_SCALE) - 1)
    below = np.minimum(place.astype(int), len(_SCALE) - 2)
    part = (place - below)[..., None]
    colours = _SCALE[below] * (1 - part) + _SCALE[below + 1] * part
    colours[np.isnan(one.size_HW)] = 255
    packed, told = io.BytesIO(), PngInfo()
    told.add_itxt("Title", one.name.encode("utf-8", "replace").decode())
    told.add_itxt("Description", words)
    picture = Image.fromarray(colours.round().astype(np.uint8))
    picture.save(packed, "PNG", optimize=True, pnginfo=told)
    return packed.getvalue()
