"""What goes to the terminal, said in the fewest bytes: cells that changed, colours that changed.

Textual writes whole lines of a widget, and Rich gives every stretch all of its colours and a reset
behind it: 22 kB for a micrograph of 44 × 22 cells. Here the cells that the terminal shows are kept.
A frame is read into cells; only other ones go out, with only the colours that differ from those of
the cell before. A half-block is written as the upper or the lower one, whichever needs less.
"""

import re
from functools import lru_cache
from typing import Any, NamedTuple

from rich.cells import get_character_cell_size
from textual._compositor import Compositor, CompositorMap
from textual.driver import Driver

_FRAME = re.compile(r"\x1b\[\d+;\d+H")
_TOKENS = re.compile(r"\x1b\[(\d+);(\d+)H|\x1b\[([\d;]*)m|(\n)|([^\x1b\n]+)")
_STEP = 3  # so many cells between two changed ones are rather written than stepped over


class CellStyle(NamedTuple):
    """How a cell is drawn; empty is the terminal's own.

    A colour is what stands behind the 3 or 4 of its SGR parameters: "1" for 31 and 41, "8;5;240"
    for 38;5;240 and 48;5;240; with a "b" before it what stands behind 9 and 10: "b1" is 91 and 101.
    """

    fore: str = ""
    back: str = ""
    rest: str = ""  # bold, underlined …: SGR parameters


Cell = tuple[str, CellStyle]  # a sign with what combines with it; "" ends a wide one
_PLAIN = CellStyle()
_UNKNOWN: Cell = ("\0", _PLAIN)  # equal to no cell that a program draws


class ShownCells:
    """The cells that a terminal shows, as far as they are known."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Cell]] = {}  # both count from 0
        self._at: tuple[int, int] | None = None  # of the cursor: row, column
        self._look = _PLAIN

    def forget(self) -> None:
        """Know nothing: what is drawn next goes out whole."""
        self._rows.clear()
        self._at = None

    def lean(self, data: str) -> str:
        """Return what makes of the terminal what `data` would; empty where it is so already."""
        if not _FRAME.match(data):
            if "\x1b[?1049" in data:  # the terminal's other screen
                self.forget()
            return data
        tokens = list(_TOKENS.finditer(data))
        if sum(len(token[0]) for token in tokens) != len(data):
            self.forget()  # more than cells and colours: a link, a picture
            return data
        rows, rest = self._drawn(tokens)
        out: list[str] = []
        for row, new in sorted(rows.items()):
            self._write_row(row, self._rows.get(row, []), new, out)
        self._rows.update(rows)
        if self._look != _PLAIN:
            out.append("\x1b[m")
            self._look = _PLAIN
        if rest is not None and rest != self._at:  # an input method shows its words at the cursor
            out.append(f"\x1b[{rest[0] + 1};{rest[1] + 1}H")
            self._at = rest
        return "".join(out)

    def _drawn(
        self, tokens: list[re.Match[str]]
    ) -> tuple[dict[int, list[Cell]], tuple[int, int] | None]:
        """Return the rows that a frame draws on, as they will be, and where it leaves the cursor.

        None: behind its last sign.
        """
        rows: dict[int, list[Cell]] = {}
        row, column, look, rest = 0, 0, _PLAIN, None
        for token in tokens:
            down, across, style, new_line, text = token.groups()
            if text is not None:
                if row not in rows:
                    rows[row] = list(self._rows.get(row, ()))
                column, rest = _draw(rows[row], column, _cells(text, look)), None
            elif style is not None:
                look = _look_after(look, style)
            elif new_line is not None:
                row, rest = row + 1, None
            else:
                row, column = rest = int(down) - 1, int(across) - 1
        return rows, rest

    def _write_row(self, row: int, old: list[Cell], new: list[Cell], out: list[str]) -> None:
        if old == new:
            return
        old = old + [_UNKNOWN] * (len(new) - len(old))
        place = 0
        while place < len(new):
            if new[place] == old[place] or new[place] == _UNKNOWN:
                place += 1
                continue
            start = place if new[place][0] else place - 1  # the halves of a wide sign go together
            cell, place = new[start], start + 1
            while place < len(new) and new[place] == cell != old[place]:
                place += 1
            count = place - start
            place += place < len(new) and not new[place][0]
            following = new[place] if place < len(new) and new[place] != old[place] else None
            self._go_to(row, start, new, out)
            sign, look = _leanest(self._look, cell, count, following)
            out.append(_change(self._look, look) + sign * count)
            self._look, self._at = look, (row, place)

    def _go_to(self, row: int, column: int, new: list[Cell], out: list[str]) -> None:
        """Move the cursor, or write the few cells between."""
        if self._at == (row, column):
            return
        if self._at is not None and self._at[0] == row and self._at[1] < column:
            between = new[self._at[1] : column]
            if len(between) <= _STEP and all(_fits(cell, self._look) for cell in between):
                out.extend(sign for sign, _ in between)
            else:
                out.append(f"\x1b[{len(between)}C" if len(between) > 1 else "\x1b[C")
        else:
            out.append(f"\x1b[{row + 1};{column + 1}H")
        self._at = row, column


def _fits(cell: Cell, now: CellStyle) -> bool:
    """Tell whether a cell can be written as it is, without another look."""
    sign, look = cell
    if sign == " " and not look.rest and not now.rest:
        return look.back == now.back
    return look == now and sign not in ("", "\0")


def _draw(cells: list[Cell], column: int, new: list[Cell]) -> int:
    """Draw cells into a row; return the column behind them."""
    end = column + len(new)
    if len(cells) < end:
        cells += [_UNKNOWN] * (end - len(cells))
    if new and column and not cells[column][0]:  # the left half of a wide sign is cut off
        cells[column - 1] = _UNKNOWN
    if end < len(cells) and not cells[end][0]:
        cells[end] = _UNKNOWN
    cells[column:end] = new
    return end


def _cells(text: str, look: CellStyle) -> list[Cell]:
    if text.isascii():
        return [(sign, look) for sign in text]
    found: list[Cell] = []
    for sign in text:
        width = get_character_cell_size(sign)
        if width == 0 and found:
            place = -1 if found[-1][0] or len(found) < 2 else -2
            found[place] = (found[place][0] + sign, look)
        elif width:
            found += [(sign, look), ("", look)][:width]
    return found


@lru_cache(4096)
def _look_after(look: CellStyle, style: str) -> CellStyle:
    """Return the look after SGR parameters."""
    numbers = (style or "0").split(";")
    fore, back, rest = look
    while numbers:
        one = numbers.pop(0) or "0"
        if one in ("38", "48"):
            count = 2 if numbers[:1] == ["5"] else 4
            colour = ";".join(["8", *numbers[:count]])
            del numbers[:count]
            fore, back = (colour, back) if one == "38" else (fore, colour)
        elif one == "0":
            fore, back, rest = _PLAIN
        elif one[:-1] in ("3", "9"):
            fore = _colour_of(one)
        elif one[:-1] in ("4", "10"):
            back = _colour_of(one)
        else:
            rest = f"{rest};{one}" if rest else one
    return CellStyle(fore, back, rest)


def _colour_of(parameter: str) -> str:
    if parameter[-1] == "9" and len(parameter) == 2 and parameter[0] in "34":
        return ""  # 39 and 49: the terminal's own
    return ("b" if parameter[:-1] in ("9", "10") else "") + parameter[-1]


@lru_cache(8192)
def _change(before: CellStyle, after: CellStyle) -> str:
    """Return what makes one look of another."""
    if before == after:
        return ""
    parts: list[str] = []
    if before.rest != after.rest:
        if before.rest:
            parts, before = ["0"], _PLAIN
        parts += [after.rest] if after.rest else []
    if before.fore != after.fore:
        parts.append(_parameter(after.fore, "3", "9"))
    if before.back != after.back:
        parts.append(_parameter(after.back, "4", "10"))
    words = ";".join(parts)
    return f"\x1b[{'' if words == '0' or after == _PLAIN else words}m"


def _parameter(colour: str, normal: str, bright: str) -> str:
    if colour.startswith("b"):
        return bright + colour[1:]
    return normal + (colour or "9")


def _leanest(now: CellStyle, cell: Cell, count: int, following: Cell | None) -> Cell:
    """Return the cell, or one that looks the same, by what so many of it and the next one cost."""
    options = _twins(cell, now)
    if len(options) == 1:
        return options[0]

    def cost(one: Cell) -> int:
        bytes_here = len(_change(now, one[1])) + count * len(one[0].encode())
        if following is None:
            return bytes_here
        return bytes_here + min(len(_change(one[1], two[1])) for two in _twins(following, one[1]))

    return min(options, key=cost)


def _twins(cell: Cell, now: CellStyle) -> tuple[Cell, ...]:
    """Return cells that look the same as this one."""
    sign, (fore, back, rest) = cell
    if rest or now.rest or sign not in (" ", "▀"):
        return (cell,)
    if sign == " ":
        empty = (" ", CellStyle(now.fore, back))
        return (empty, ("█", CellStyle(back, now.back))) if back else (empty,)
    return (cell, ("▄", CellStyle(back, fore))) if fore and back else (cell,)


class LeanDriver(Driver):
    """A driver that writes only what changes the terminal; mixed into Textual's own."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.cells: ShownCells | None = ShownCells()  # None: everything is written as it comes

    def forget(self) -> None:
        """Write whole what is drawn next."""
        if self.cells is not None:
            self.cells.forget()

    def write(self, data: str) -> None:
        """Write what the terminal does not show yet."""
        lean = self.cells.lean(data) if self.cells is not None else data
        if lean:
            super().write(lean)


class WholeMaps(Compositor):
    """Textual's compositor, which forgets a widget that went while it looked.

    It draws what differs between its map before and after a layout. Where the map is asked for
    between the going of a widget and the layout, both are alike, and a message that has gone stays
    on the terminal: its place is noted here.
    """

    @property
    def full_map(self) -> CompositorMap:
        """Return the map of all widgets; the places of those that went since are drawn anew."""
        before = self._full_map
        found = super().full_map
        if found is not before:
            gone = (before[widget] for widget in before.keys() - found.keys())
            places = (one.clip.intersection(one.region) for one in gone)
            self._dirty_regions.update(place for place in places if place)
        return found
