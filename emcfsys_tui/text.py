"""Times, spans, sizes and names in few characters."""

import time

from rich.cells import cell_len, set_cell_size


def clock(seconds: float) -> str:
    """Return a time of today as 12:41:07."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def day_clock(seconds: float) -> str:
    """Return a time as 24 Nov 12:41."""
    return time.strftime("%d %b %H:%M", time.localtime(seconds))


def span(seconds: float) -> str:
    """Return a duration as 41 s, 12 min, 3 h 20, 2 d 4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02}"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def size(num_bytes: int) -> str:
    """Return a file's size as 17 MB."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


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
