"""A picture in the terminal's own pixels, laid over the half-blocks of the same picture.

The half-blocks stay beneath: a terminal without sixel or kitty's protocol, and a tmux that lets
neither through, shows them; so does a line that is too slow, until the sharp picture came.
"""

import base64
import fcntl
import os
import struct
import termios
from collections.abc import Collection
from itertools import count

from textual.geometry import Region

from emcfsys_tui.settings import GRAPHICS

_CELL_PX = (10, 20)  # of a VT340, where the terminal does not tell
_CHUNK = 4096  # bytes of base64 in one of kitty's commands
_ids = count(os.getpid() % 100_000 * 1000 + 1)  # other programs of this terminal have images too

_SAVE, _RESTORE = "\x1b7", "\x1b8"
_INK = "\x1b[0;1;30;107m┼\x1b[m"
_CROSS_PX = 9


def cell_px() -> tuple[int, int]:
    """Return width and height of the terminal's cells in pixels."""
    for stream in (0, 1, 2):
        try:
            answer = fcntl.ioctl(stream, termios.TIOCGWINSZ, b"\0" * 8)
        except OSError:  # no terminal
            continue
        lines, columns, width, height = struct.unpack("HHHH", answer)
        if lines and columns and width >= columns and height >= lines:
            return width // columns, height // lines
    return _CELL_PX


def kind_of(pictures: str) -> str:
    """Return sixel or kitty where the person asked for one of them, else nothing.

    tmux 3.4 and newer draws sixels itself where it was built so; kitty's protocol it swallows.
    """
    if pictures == "kitty" and os.environ.get("TMUX"):
        return ""
    return pictures if pictures in GRAPHICS else ""


def written_lines(update: object, cells: Region) -> set[int]:
    """Return the lines in which an update of the screen wrote into these cells."""
    spans: list[tuple[int, int, int]] | None = getattr(update, "spans", None)
    if spans is None:  # everything was drawn
        return set(range(cells.y, cells.bottom))
    return {
        y
        for y, left, right in spans
        if cells.y <= y < cells.bottom and left < cells.right and right > cells.x
    }


class Graphic:
    """One picture on the terminal: tells what to write so that it is there, or no longer is."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.data = b""
        self._number = next(_ids)
        self._pointer_number = next(_ids)
        self._placed: Region | None = None
        self._pointer: tuple[int, int] | None = None  # as it is on the terminal; kitty only

    def update(self, data: bytes) -> str:
        """Take another picture; return what removes the one before."""
        gone = self.remove()
        self.data = data
        return gone

    def remove(self) -> str:
        """Return what takes it from the terminal; sixels go when their cells are written."""
        was, self._placed = self._placed, None
        if was is None or self.kind != "kitty":
            return ""
        self._pointer = None
        return _kitty(f"a=d,d=I,i={self._number}") + _kitty(f"a=d,d=I,i={self._pointer_number}")

    def place(
        self, cells: Region, overwritten: Collection[int], pointer: tuple[int, int] | None
    ) -> str:
        """Return what puts it on these cells of the terminal.

        `overwritten`: the lines whose cells were written meanwhile. `pointer`: a cell of the
        picture, which shall be seen over it.
        """
        is_new, self._placed = self._placed != cells, cells
        if self.kind == "kitty":
            return self._placed_kitty(cells, pointer, is_new=is_new)
        lines = range(cells.y, cells.bottom) if is_new else sorted(overwritten)
        if not lines:  # most updates of a screen are elsewhere
            return ""
        rows = self.data.split(b"\x1b\\")[:-1]
        words = [
            f"{_at(cells.x, y)}{rows[y - cells.y].decode()}\x1b\\"
            for y in lines
            if 0 <= y - cells.y < len(rows)
        ]
        if pointer is not None and cells.y + pointer[1] in lines:
            words.append(_at(cells.x + pointer[0], cells.y + pointer[1]) + _INK)
        return _SAVE + "".join(words) + _RESTORE if words else ""

    def _placed_kitty(self, cells: Region, pointer: tuple[int, int] | None, *, is_new: bool) -> str:
        words = ""
        if is_new:
            keys = f"a=T,f=100,i={self._number},p=1,c={cells.width},r={cells.height},C=1,q=2,z=1"
            words += _at(cells.x, cells.y) + _chunks(keys, self.data.decode())
        if pointer is None and self._pointer is not None:
            words += _kitty(f"a=d,d=I,i={self._pointer_number}")
        elif pointer is not None and (is_new or pointer != self._pointer):
            keys = f"i={self._pointer_number},p=1,c=1,r=1,C=1,q=2,z=2"
            size = f"f=32,s={_CROSS_PX},v={_CROSS_PX}"
            is_there = self._pointer is not None and not is_new
            words += _at(cells.x + pointer[0], cells.y + pointer[1])
            words += _kitty(f"a=p,{keys}") if is_there else _kitty(f"a=T,{size},{keys}", _cross())
        self._pointer = pointer
        return _SAVE + words + _RESTORE if words else ""


def _cross() -> str:
    """Return a white cross with a black rim, red, green, blue, opacity: the pointer of kitty."""
    pixels = bytearray()
    for place in range(_CROSS_PX**2):
        off = min(abs(place % _CROSS_PX - _CROSS_PX // 2), abs(place // _CROSS_PX - _CROSS_PX // 2))
        pixels += bytes((255, 255, 255, 255) if off == 0 else (0, 0, 0, 255 if off == 1 else 0))
    return base64.standard_b64encode(pixels).decode()


def _at(x: int, y: int) -> str:
    return f"\x1b[{y + 1};{x + 1}H"


def _kitty(keys: str, payload: str = "") -> str:
    return f"\x1b_G{keys}{';' + payload if payload else ''}\x1b\\"


def _chunks(keys: str, payload: str) -> str:
    parts = [payload[start : start + _CHUNK] for start in range(0, len(payload), _CHUNK)]
    words = [_kitty(f"{keys},m={int(len(parts) > 1)}", parts[0])]
    for place, part in enumerate(parts[1:], 2):
        words.append(_kitty(f"m={int(place < len(parts))},q=2", part))
    return "".join(words)
