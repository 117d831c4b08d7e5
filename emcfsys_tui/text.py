"""Text in a given number of cells, and text from files made safe for a terminal."""

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from emcfsys_engine.errors import printable

_TAB = 4  # columns; the terminal's own eight would waste a narrow window


def safe_lines(text: str) -> str:
    """Return a text of several lines with every other control character escaped."""
    lines = text.expandtabs(_TAB).split("\n")
    return "\n".join(printable(line.rstrip("\r")) for line in lines)


def one_line(text: str) -> str:
    """Return a text safe for a terminal in one line: its line breaks become spaces."""
    if text.isprintable():  # nearly every cell; a lone surrogate or an override is not
        return text
    return safe_lines(text).strip("\n").replace("\n", " ")


def reason_words(reason: str) -> str:
    """Return why something ended: a word of ours as words; of a sentence the file's path last."""
    if reason.isidentifier():
        return reason.replace("_", " ")
    return "\n".join(path_last(line) for line in reason.split("\n"))


def path_last(sentence: str) -> str:
    """Return "path: what. Remedy." with the path at its end: a narrow row shows what first."""
    path, colon, rest = sentence.partition(": ")
    return f"{rest}  {path}" if colon and path.startswith("/") and rest else sentence


def fitted(text: str, width: int, *, right: bool = False, cut: str = "end") -> str:
    """Return text in exactly `width` cells, with … where something was left out."""
    if cell_len(text) > width:
        if width <= 1:
            return set_cell_size("…", width)
        if cut == "middle":
            tail = (width - 1) // 2
            return f"{set_cell_size(text, width - 1 - tail)}…{_tail(text, tail)}"
        if cut == "start":
            return f"…{_tail(text, width - 1)}"
        return f"{set_cell_size(text, width - 1)}…"
    return " " * (width - cell_len(text)) + text if right else set_cell_size(text, width)


def shortened(names: Sequence[str], room: int) -> list[str]:
    """Return names that together take at most `room` characters: the longest are cut first.

    Where not even three letters are left of a name, none is: half a word says nothing.
    """
    longest = max(map(len, names), default=0)
    if sum(map(len, names)) <= room:
        return list(names)
    most = next(
        (n for n in range(longest, 2, -1) if sum(min(len(name), n) for name in names) <= room), 0
    )
    return [name if len(name) <= most else name[:most] for name in names]


def _tail(text: str, width: int) -> str:
    start = len(text)
    used = 0
    while start > 0 and used + cell_len(text[start - 1]) <= width:
        start -= 1
        used += cell_len(text[start])
    return " " * (width - used) + text[start:]
