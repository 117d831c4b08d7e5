"""Text in a given number of cells."""

from rich.cells import cell_len, set_cell_size


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


def _tail(text: str, width: int) -> str:
    start = len(text)
    used = 0
    while start > 0 and used + cell_len(text[start - 1]) <= width:
        start -= 1
        used += cell_len(text[start])
    return " " * (width - used) + text[start:]
