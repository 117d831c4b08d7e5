"""What the check found: faults of one kind are one row with their count, which opens to its files.

"2 outlines without area" and "20 outlines without area" are of one kind: they differ in numbers.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from textual.reactive import reactive

from emcfsys_tui.view_models import FindingRow, Tone
from emcfsys_tui.widgets.list import Column, Row, Rows

_COLUMNS = (
    Column(title="", width=1),
    Column(title="file", width=14, wide=22, cut="start"),
    Column(title="what", scrolls=True),
)
_NAMES = re.compile(r'"[^"]*"|\'[^\']*\'|\S*/\S+')
_NUMBERS = re.compile(r"\d[\d,]*(?:\.\d+)?")


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """Faults that differ only in files, names and numbers."""

    what: str
    level: str
    name: str  # the same while one of them comes or goes
    members: tuple[int, ...]  # places of the findings


def kinds_of(findings: Sequence[FindingRow]) -> list[Kind]:
    """Return the kinds of fault, errors first, each where its first one stood."""
    found: dict[tuple[str, str], list[int]] = {}
    for place, one in enumerate(findings):
        plain = _NUMBERS.sub("#", _NAMES.sub('"', one.what))
        found.setdefault((one.level, plain), []).append(place)
    ordered = sorted(found.items(), key=lambda item: item[0][0] != "error")
    return [
        Kind(
            what=_together([findings[n].what for n in places]),
            level=level,
            name=f"{level} {name}",
            members=tuple(places),
        )
        for (level, name), places in ordered
    ]


def _together(sentences: Sequence[str]) -> str:
    """Return one sentence for several of a kind: numbers as ranges, names that differ as …."""
    if len(set(sentences)) == 1:
        return sentences[0]
    for pattern, join in ((_NAMES, _names), (_NUMBERS, _range)):
        parts = [pattern.split(one) for one in sentences]
        words = [pattern.findall(one) for one in sentences]
        if len({tuple(one) for one in parts}) == 1 and len({len(one) for one in words}) == 1:
            held = [join(column) for column in zip(*words, strict=True)]
            texts = parts[0]
            sentences = ["".join(a + b for a, b in zip(texts, [*held, ""], strict=True))]
        elif pattern is _NAMES:
            sentences = [_NAMES.sub("…", one) for one in sentences]
    return sentences[0]


def _names(words: Sequence[str]) -> str:
    return words[0] if len(set(words)) == 1 else "…"


def _range(words: Sequence[str]) -> str:
    numbers = sorted(set(words), key=lambda word: float(word.replace(",", "")))
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"


def image_of(one: FindingRow, by_stem: Mapping[str, str]) -> str:
    """Return the key of the image that a fault speaks of; empty: of none that is known."""
    return by_stem.get(Path(one.file.partition("#")[0]).stem, "")


class Findings(Rows):
    """One row a kind of fault; enter opens a kind to its files, and a file to its message."""

    findings: reactive[tuple[FindingRow, ...]] = reactive((), repaint=False)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(_COLUMNS, id=id, titles=False)
        self._kinds: list[Kind] = []
        self._open: set[str] = set()  # kinds whose files are shown, by their names

    @property
    def chosen(self) -> FindingRow | None:
        """The fault under the cursor; of a kind its first."""
        row = self.current
        if row is None:
            return None
        sort, _, number = row.key.partition(":")
        place = self._kinds[int(number)].members[0] if sort == "kind" else int(number)
        return self.findings[place]

    def watch_findings(self) -> None:
        """Sort them anew; what was open stays open."""
        self._kinds = kinds_of(self.findings)
        self._show()

    def action_open(self) -> None:
        """Open a kind to its files, or close it; a single fault is read."""
        row = self.current
        if row is not None and row.key.startswith("kind:"):
            kind = self._kinds[int(row.key.partition(":")[2])]
            self._open ^= {kind.name}
            self._show()
        else:
            super().action_open()

    def _show(self) -> None:
        rows: list[Row] = []
        for number, kind in enumerate(self._kinds):
            if len(kind.members) == 1:
                rows.append(self._row(kind.members[0], ""))
                continue
            is_open = kind.name in self._open
            count = f"{'▾' if is_open else '▸'} {len(kind.members):,} files"
            cells = (_glyph(kind.level), count, kind.what)
            rows.append(Row(key=f"kind:{number}", cells=cells, tone=_tone(kind.level)))
            if is_open:
                rows += [self._row(place, "  ") for place in kind.members]
        self.rows = rows

    def _row(self, place: int, indent: str) -> Row:
        one = self.findings[place]
        what = f"{one.what}. {one.remedy}" if one.remedy else one.what
        cells = (_glyph(one.level), f"{indent}{Path(one.file).name}", what)
        return Row(key=f"one:{place}", cells=cells, tone=_tone(one.level))


def _glyph(level: str) -> str:
    return "✗" if level == "error" else "!"


def _tone(level: str) -> Tone:
    return "bad" if level == "error" else "warn"
