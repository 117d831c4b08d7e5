"""Times, spans and sizes in few characters."""

import time


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
