"""A histogram as a picture to look at or to print: bars, axes, and the numbers under the title."""

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emcfsys_engine.errors import printable

_SIZE = (1200, 800)
_FINER = 2  # drawn so many times larger, then made smaller: smooth edges
_LEFT, _RIGHT, _TOP, _BOTTOM = 110, 40, 120, 100
_INK, _FAINT, _BAR, _LINE = (34, 34, 34), (222, 222, 222), (86, 140, 190), (213, 94, 0)
_MOST_BARS = 60
_LARGE_NM = 10_000.0  # from here on micrometres read better


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What a histogram counts: its words, and its unit as it stands in a column's name."""

    words: str
    unit: str  # "nm", "px", "nm2", "px2" or "" for a plain number


def histogram_png(values: np.ndarray, title: str, quantity: Quantity) -> bytes:
    """Return a PNG of how often each size occurs, with count, mean, deviation and median.

    Shapes: values are one-dimensional, at least one of them finite.
    """
    values, unit = _in_readable_unit(values[np.isfinite(values)], quantity.unit)
    counts, edges = np.histogram(values, _edges(values))
    picture = Image.new("RGB", (_SIZE[0] * _FINER, _SIZE[1] * _FINER), (255, 255, 255))
    canvas = _Canvas(
        draw=ImageDraw.Draw(picture),
        x_range=(float(edges[0]), float(edges[-1])),
        y_top=float(counts.max()) * 1.05,
    )
    canvas.grid()
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        canvas.bar(float(low), float(high), float(count))
    canvas.median_line(float(np.median(values)))
    numbers = (
        f"n = {values.size:,}    mean = {values.mean():.4g}    SD = {values.std():.4g}    "
        f"median = {np.median(values):.4g}"
    )
    canvas.words((_LEFT, 28), title, 34)
    canvas.words((_LEFT, 76), f"{numbers} {unit}".rstrip(), 22)
    label = f"{quantity.words} ({unit})" if unit else quantity.words
    canvas.words(((_LEFT + _SIZE[0] - _RIGHT) / 2, _SIZE[1] - 34), label, 24, "mm")
    canvas.sideways("objects", picture)
    packed = io.BytesIO()
    picture.resize(_SIZE, Image.Resampling.LANCZOS).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def nice_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return round numbers between low and high, about so many."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """Places on the picture, in its final pixels."""

    draw: ImageDraw.ImageDraw
    x_range: tuple[float, float]
    y_top: float

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (_SIZE[0] - _LEFT - _RIGHT)

    def y(self, count: float) -> float:
        return _SIZE[1] - _BOTTOM - count / self.y_top * (_SIZE[1] - _TOP - _BOTTOM)

    def grid(self) -> None:
        floor = self.y(0)
        for count in nice_ticks(0, self.y_top):
            if count == int(count):
                self.line((_LEFT, self.y(count)), (_SIZE[0] - _RIGHT, self.y(count)), _FAINT, 1)
                self.words((_LEFT - 12, self.y(count)), f"{count:,.0f}", 20, "rm")
        for value in nice_ticks(*self.x_range, 8):
            self.line((self.x(value), floor), (self.x(value), floor + 8), _INK, 2)
            self.words((self.x(value), floor + 24), f"{value:.10g}", 20, "mm")
        self.line((_LEFT, floor), (_SIZE[0] - _RIGHT, floor), _INK, 2)

    def bar(self, low: float, high: float, count: float) -> None:
        if count:
            floor, left = self.y(0) - 1, self.x(low) + 1
            top = min(self.y(count), floor - 1)  # a single object beside thousands is still seen
            right = max(self.x(high) - 1, left + 1)
            corners = (left, top, right, floor)
            self.draw.rectangle([corner * _FINER for corner in corners], fill=_BAR)

    def median_line(self, median: float) -> None:
        self.line((self.x(median), self.y(0)), (self.x(median), _TOP), _LINE, 3)
        self.words((self.x(median) + 8, _TOP + 2), "median", 18, "lt", _LINE)

    def line(
        self,
        begin: tuple[float, float],
        end: tuple[float, float],
        colour: tuple[int, int, int],
        width: int,
    ) -> None:
        places = [place * _FINER for place in (*begin, *end)]
        self.draw.line(places, fill=colour, width=width * _FINER)

    def words(
        self,
        place: tuple[float, float],
        text: str,
        size: int,
        anchor: str = "lm",
        colour: tuple[int, int, int] = _INK,
    ) -> None:
        where = (place[0] * _FINER, place[1] * _FINER)
        self.draw.text(where, _drawable(text), fill=colour, font=_font(size), anchor=anchor)

    def sideways(self, text: str, picture: Image.Image) -> None:
        """Write the name of the upward axis along it."""
        strip = Image.new("RGB", (300 * _FINER, 32 * _FINER), (255, 255, 255))
        middle = (150 * _FINER, 16 * _FINER)
        ImageDraw.Draw(strip).text(middle, text, fill=_INK, font=_font(24), anchor="mm")
        turned = strip.rotate(90, expand=True)
        top = (_TOP + _SIZE[1] - _BOTTOM) // 2 - 150
        picture.paste(turned, (4 * _FINER, top * _FINER))


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


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _FINER)


def _drawable(text: str) -> str:
    """Return text that the built-in font knows: Latin letters."""
    return printable(text).encode("latin-1", "replace").decode("latin-1")
