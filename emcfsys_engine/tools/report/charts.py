"""Curves as SVG text: drawn here, coloured by the page's style sheet, readable on paper."""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from emcfsys_engine.colours import colours_for, readable
from emcfsys_engine.errors import RunFolderError, printable
from emcfsys_engine.files import remedy_of, write_whole
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import replace_own
from emcfsys_engine.text import day_clock, moment, told_apart

DASH = "–"


@dataclass(frozen=True, kw_only=True)
class Markup:
    """Text that is HTML already; everything else becomes text."""

    html: str
    kind: str = ""  # "n": a number, set to the right


Cell = str | float | int | Markup | None


def escaped(text: str) -> str:
    """Return text that is only text in HTML, with control characters made visible."""
    return html.escape(printable(text), quote=True)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number to so many decimals; a dash for none."""
    return DASH if value is None else f"{value:.{digits}f}"


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, kind: str = "") -> str:
    """Return a table; numbers stand to the right."""
    head = "".join(f"<th>{escaped(word)}</th>" for word in heads)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return f'<div class="wide"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def section(title: str, *parts: str) -> str:
    """Return a section of the page; nothing when it has no content."""
    body = "".join(parts)
    return f"<section><h2>{escaped(title)}</h2>{body}</section>" if body else ""


def folded(title: str, body: str) -> str:
    """Return something long that is unfolded by a click, and by printing."""
    return f"<details><summary>{escaped(title)}</summary>{body}</details>" if body else ""


def picture(content: bytes, kind: str, caption: str) -> str:
    """Return a picture that stands in the page itself; its caption alone where it is empty.

    kind is png, jpeg, webp or gif.
    """
    words = escaped(caption)
    if not content:
        return f'<figure class="picture none"><figcaption>{words}</figcaption></figure>'
    data = base64.b64encode(content).decode("ascii")
    return (
        f'<figure class="picture"><img alt="{words}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def save_page(file: Path, text: str, folder: Path) -> None:
    """Write a page of what a folder holds; a file that is not ours is kept.

    Raises: InputError for such a one; RunFolderError where it cannot be written.
    """
    content = text.encode("utf-8", "replace")
    try:
        replace_own(file, OutputBook(folder), lambda place: write_whole(place, content))
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise RunFolderError(file, what, remedy_of(error, "Name another file with --out")) from None


def page(title: str, body: str) -> str:
    """Return a whole page that loads nothing from anywhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escaped(title)}</title><style>{_STYLE}{_colour_rules()}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _colour_rules() -> str:
    """Return the rules that give class number n its colour, readable on white and on black."""
    bright: list[str] = ["polyline.ink{stroke:var(--ink)}circle.ink{fill:var(--ink)}"]
    dark: list[str] = []
    for number, colour in enumerate(colours_for(NUM_COLOURS)):
        for rules, paper in ((bright, (255, 255, 255)), (dark, (20, 24, 28))):
            shown = "#{:02x}{:02x}{:02x}".format(*readable(colour, paper))
            rules.append(
                f".c{number}{{stroke:{shown}}}circle.c{number}{{fill:{shown}}}"
                f"b.c{number}{{color:{shown}}}svg text.c{number}{{fill:{shown};stroke:none}}"
            )
    return f"{''.join(bright)}@media screen and (prefers-color-scheme:dark){{{''.join(dark)}}}"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Markup):
        return f'<td class="{cell.kind}">{cell.html}</td>'
    if cell is None:
        return f'<td class="n">{DASH}</td>'
    if isinstance(cell, str):
        return f"<td>{escaped(cell)}</td>"
    words = f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"
    return f'<td class="n">{words}</td>'


# Okabe and Ito's colours, darker where they stand on white: told apart without red and green.
_STYLE = """
:root{--paper:#fff;--ink:#1c2126;--soft:#5d6873;--line:#dfe3e8;--panel:#f5f7f9;--best:#b3470b;
--good:#00704f;--bad:#b3260b;--busy:#0072b2}
@media (prefers-color-scheme:dark){:root{--paper:#14181c;--ink:#e3e7eb;--soft:#98a3ae;
--line:#2e353c;--panel:#1c2227;--best:#f0a05a;--good:#2fc494;--bad:#ff8a70;--busy:#56b4e9}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:1.7em;margin:0;line-height:1.2;overflow-wrap:anywhere}
h2{font-size:1.15em;margin:38px 0 12px;padding-bottom:5px;border-bottom:1px solid var(--line)}
p{margin:6px 0}.soft{color:var(--soft)}
pre{font:13px/1.45 ui-monospace,Menlo,Consolas,monospace}
.badge{display:inline-block;border:1.5px solid currentColor;border-radius:99px;padding:0 11px;
font-size:.85em;font-weight:600;margin-right:8px}
.done{color:var(--good)}.failed,.lost{color:var(--bad)}.running{color:var(--busy)}
.cancelled,.interrupted,.new{color:var(--best)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0}
.tiles>div{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tiles b{display:block;font-size:1.45em;line-height:1.25;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere}.tiles span{color:var(--soft);font-size:.88em}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:22px}
figure{margin:0;min-width:0}figcaption{font-weight:600;margin-bottom:4px;overflow-wrap:anywhere}
figcaption .note{font-weight:400;color:var(--soft);margin-left:8px}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:11.5px}
svg .grid{stroke:var(--line)}svg .axis{stroke:var(--soft)}
svg .best{stroke:var(--best);stroke-dasharray:4 3}svg text.best{stroke:var(--paper);stroke-width:4;
paint-order:stroke;stroke-dasharray:none;fill:var(--best)}
polyline{fill:none;stroke-width:1.8;stroke-linejoin:round}polyline.strong{stroke-width:2.8}
polyline.faint{stroke-width:1;opacity:.45}polyline.dashed{stroke-dasharray:5 3}
.legend{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:.87em;padding-left:52px}
.legend svg{display:inline-block;width:24px;height:10px;margin-right:6px;vertical-align:1px}
.legend b{font-weight:600;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.92em;min-width:320px}
th{text-align:left;font-weight:600;color:var(--soft);white-space:nowrap}
th,td{padding:4px 18px 4px 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
table.numbers th:not(:first-child){text-align:right}
table.facts td:first-child{color:var(--soft);white-space:nowrap}
.bar{display:inline-block;width:110px;height:9px;background:var(--line);border-radius:3px;
overflow:hidden;margin-right:8px;print-color-adjust:exact}
.bar i{display:block;height:100%;background:var(--c0);print-color-adjust:exact}
ul.warnings{margin:0;padding:0;list-style:none}
ul.warnings li{border-left:3px solid var(--best);background:var(--panel);padding:6px 12px;
margin:0 0 6px;overflow-wrap:anywhere}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,360px),1fr));gap:16px}
.strips{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,520px),1fr));gap:14px}
.picture img{display:block;max-width:100%;border:1px solid var(--line);image-rendering:auto}
.picture.none{border:1px dashed var(--line);padding:8px 10px}
.picture figcaption{font-weight:400;font-size:.85em;color:var(--soft);margin-top:3px}
details{margin:10px 0}summary{cursor:pointer;font-weight:600}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px 12px;
overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
footer{margin-top:44px;color:var(--soft);font-size:.85em}
@page{size:A4;margin:14mm}
@media print{:root{--paper:#fff;--ink:#000;--soft:#444;--line:#ccc;--panel:#fff;--best:#b3470b;
--good:#00704f;--bad:#b3260b;--busy:#0072b2}
body{font-size:9pt}main{padding:0}
.charts{grid-template-columns:1fr 1fr}.charts.over-time{grid-template-columns:1fr}
.pictures{grid-template-columns:repeat(3,1fr)}
figure,tr,.tiles>div{break-inside:avoid}h2,h3,summary{break-after:avoid}
details::details-content{content-visibility:visible;height:auto}.wide{overflow:visible}}
"""


Point = tuple[float, float]
_WIDTH, _HEIGHT = 620, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 42
_MOST_POINTS = 600  # more cannot be told apart at this width
_MOST_MARKS = 5  # lines of words of marks
NUM_COLOURS = 24  # of the style sheet; from the next class on they repeat, dashed
_INK = -1  # a curve that is no class: drawn in the colour of text


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart; a point whose value is unknown interrupts nothing, it is left out."""

    name: str
    points: tuple[Point, ...]
    colour: int = 5  # of the class with this number; -1: no class, the colour of text
    manner: Literal["line", "faint", "strong"] = "line"
    letter: str = ""  # of a class: at the curve's end, and where it is named


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Several curves over the same steps. best is the step that was kept as best."""

    title: str
    curves: tuple[Curve, ...]
    best: float | None = None
    marks: tuple[tuple[float, str], ...] = ()  # upright lines in words: what began there
    limits: tuple[float, float] = (-math.inf, math.inf)  # that the axis never goes beyond
    x_words: str = "step"
    note: str = field(default="")
    has_legend: bool = True
    x_is_time: bool = False  # seconds since 1970


def figure_of(chart: Chart) -> str:
    """Return a figure with the chart and its legend; nothing where no curve has a point."""
    curves = [curve for curve in chart.curves if curve.points]
    if not curves:
        return ""
    axes = _Axes.around(curves, chart.limits)
    parts = [axes.grid(chart.x_words, is_time=chart.x_is_time)]
    marks = [*chart.marks, *([] if chart.best is None else [(chart.best, "best")])]
    parts += [
        axes.mark(x, words, line % _MOST_MARKS)
        for line, (x, words) in enumerate(marks)
        if axes.x_low <= x <= axes.x_high
    ]
    parts += [axes.curve(curve) for curve in curves]
    if chart.best is not None:
        parts += [axes.best_dot(curve, chart.best) for curve in curves]
    legend = "".join(_legend(curve) for curve in curves) if chart.has_legend else ""
    note = f'<span class="note">{escaped(chart.note)}</span>' if chart.note else ""
    return (
        f"<figure><figcaption>{escaped(chart.title)}{note}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escaped(chart.title)}">'
        f'{"".join(parts)}</svg><div class="legend">{legend}</div></figure>'
    )


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


def _time_ticks(low: float, high: float, about: int = 7) -> list[tuple[float, str]]:
    """Return whole hours or minutes between two moments, about so many; days are told once."""
    steps = (60, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
    step = next((one for one in steps if (high - low) / one <= about), 0) or (high - low) / about
    ticks = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    days = [moment(one, "%d %b") for one in ticks]
    return [
        (one, moment(one, "%H:%M") if day == before else day_clock(one))
        for one, day, before in zip(ticks, days, ["", *days], strict=False)
    ]


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most so many points; of each stretch the lowest and the highest stay."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(len(points) / (most // 2))
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """From steps and values to places in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    x_is_whole: bool  # steps, images: nothing lies between them

    @classmethod
    def around(cls, curves: Sequence[Curve], limits: tuple[float, float]) -> "_Axes":
        """Return axes that hold all curves with a little room."""
        xs = [x for curve in curves for x, _ in curve.points]
        ys = [y for curve in curves for _, y in curve.points]
        low, high = min(ys), max(ys)
        if high - low < 1e-9 * max(abs(low), abs(high)):
            low = high  # what differs by rounding alone is one value
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        x_low, x_high = min(xs), max(xs)
        if x_low == x_high:
            x_low, x_high = x_low - 1, x_high + 1
        return cls(
            x_low=x_low,
            x_high=x_high,
            y_low=max(low - room, min(limits[0], low)),
            y_high=min(high + room, max(limits[1], high)),
            x_is_whole=all(float(x).is_integer() for x in xs),
        )

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    def grid(self, x_words: str, *, is_time: bool = False) -> str:
        parts: list[str] = []
        floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        heights = nice_ticks(self.y_low, self.y_high, 5)
        for value, words in zip(heights, told_apart(heights, 4), strict=True):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{_LEFT - 7}" y="{y + 4}" text-anchor="end">{words}</text>')
        if is_time:
            ticks = _time_ticks(self.x_low, self.x_high)
        else:
            nice = nice_ticks(self.x_low, self.x_high, 7)
            ticks = [(at, f"{at:,.10g}") for at in nice if at.is_integer() or not self.x_is_whole]
        for value, words in ticks:
            x = self.x(value)
            parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{floor}" y2="{floor + 4}"/>')
            parts.append(f'<text x="{x}" y="{floor + 17}" text-anchor="middle">{words}</text>')
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{floor}" y2="{floor}"/>')
        middle = (_LEFT + right) / 2
        parts.append(
            f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escaped(x_words)}</text>'
        )
        return "".join(parts)

    def mark(self, at: float, words: str, line: int) -> str:
        """Return an upright line with its words on the given line, so that none hides another."""
        x = self.x(at)
        on_right = x < _WIDTH * 0.85
        place = f'x="{x + 5}"' if on_right else f'x="{x - 5}" text-anchor="end"'
        return (
            f'<line class="best" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text class="best" {place} y="{_TOP + 9 + 13 * line}">{escaped(words)}</text>'
        )

    def best_dot(self, curve: Curve, step: float) -> str:
        if curve.manner == "faint":
            return ""
        colour = _colour_class(curve)
        return "".join(
            f'<circle class="{colour}" cx="{self.x(x)}" cy="{self.y(y)}" r="4">'
            f"<title>{escaped(curve.name)}: {y:.4g} at step {x:,.10g}</title></circle>"
            for x, y in curve.points
            if x == step
        )

    def curve(self, curve: Curve) -> str:
        points = thinned(curve.points)
        if len(points) == 1:
            ((x, y),) = points
            place = f'cx="{self.x(x)}" cy="{self.y(y)}"'
            return f'<circle class="{_colour_class(curve)}" {place} r="3"/>'
        places = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        line = f'<polyline class="{_classes(curve)}" points="{places}"/>'
        end_x, end_y = self.x(points[-1][0]) + 3, self.y(points[-1][1]) + 4
        words = (
            f'<text class="{_colour_class(curve)}" x="{end_x}" y="{end_y}">{curve.letter}</text>'
        )
        return line + (words if curve.letter else "")


def _classes(curve: Curve) -> str:
    dashed = " dashed" if curve.colour >= NUM_COLOURS else ""
    return f"{_colour_class(curve)} {curve.manner}{dashed}"


def _colour_class(curve: Curve) -> str:
    return "ink" if curve.colour == _INK else f"c{curve.colour % NUM_COLOURS}"


def _legend(curve: Curve) -> str:
    line = f'<svg viewBox="0 0 24 10"><polyline class="{_classes(curve)}" points="1,5 23,5"/></svg>'
    last = f"{curve.points[-1][1]:.4g}"
    name = escaped(curve.name)
    if curve.letter:
        name = class_name(curve.name, curve.letter, curve.colour)
    return f"<span>{line}{name} <b>{last}</b></span>"


def class_name(name: str, letter: str, place: int) -> str:
    """Return the square, letter and name of the class at this place, as the interface has them."""
    return f'<b class="c{place % NUM_COLOURS}">■{escaped(letter)}</b> {escaped(name)}'
