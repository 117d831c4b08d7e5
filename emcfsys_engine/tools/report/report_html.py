"""Pieces of a page: every word from outside is escaped here, for HTML and for terminals alike."""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emcfsys_engine.errors import printable

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
    """Return a picture that stands in the page itself. kind is png, jpeg, webp or gif."""
    data = base64.b64encode(content).decode("ascii")
    words = escaped(caption)
    return (
        f'<figure class="picture"><img alt="{words}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def page(title: str, body: str) -> str:
    """Return a whole page that loads nothing from anywhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


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
--c0:#0072b2;--c1:#d55e00;--c2:#00845f;--c3:#b0568c;--c4:#9a6a00;--c5:#2f8fc4;--c6:#55595e;
--good:#00704f;--bad:#b3260b;--busy:#0072b2}
@media (prefers-color-scheme:dark){:root{--paper:#14181c;--ink:#e3e7eb;--soft:#98a3ae;
--line:#2e353c;--panel:#1c2227;--best:#f0a05a;--c0:#56b4e9;--c1:#f28a3c;--c2:#2fc494;--c3:#e39cc4;
--c4:#e6b93a;--c5:#8fd0f5;--c6:#b4bac1;--good:#2fc494;--bad:#ff8a70;--busy:#56b4e9}}
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
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}
.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}.c6{stroke:var(--c6)}
circle.c0{fill:var(--c0)}circle.c1{fill:var(--c1)}circle.c2{fill:var(--c2)}circle.c3{fill:var(--c3)}
circle.c4{fill:var(--c4)}circle.c5{fill:var(--c5)}circle.c6{fill:var(--c6)}
.legend{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:.87em;padding-left:52px}
.legend svg{display:inline-block;width:24px;height:10px;margin-right:6px;vertical-align:1px}
.legend b{font-weight:600;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.92em;min-width:320px}
th{text-align:left;font-weight:600;color:var(--soft)}
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
.picture figcaption{font-weight:400;font-size:.85em;color:var(--soft);margin-top:3px}
details{margin:10px 0}summary{cursor:pointer;font-weight:600}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px 12px;
overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
footer{margin-top:44px;color:var(--soft);font-size:.85em}
@media print{:root{--paper:#fff;--ink:#000;--soft:#444;--line:#ccc;--panel:#fff;--best:#b3470b;
--c0:#0072b2;--c1:#d55e00;--c2:#00845f;--c3:#b0568c;--c4:#9a6a00;--c5:#2f8fc4;--c6:#55595e;
--good:#00704f;--bad:#b3260b;--busy:#0072b2}
body{font-size:9pt}main{padding:0}
.charts{grid-template-columns:1fr 1fr}figure,tr,.tiles>div{break-inside:avoid}h2{break-after:avoid}
details::details-content{content-visibility:visible;height:auto}.wide{overflow:visible}}
"""
