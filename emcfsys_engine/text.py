"""Times, durations, sizes and nested settings as text: the same words in commands and screens."""

import re
import shlex
import time
from collections.abc import Sequence
from typing import Any


def clock(seconds: float) -> str:
    """Return a time of today as 12:41:07."""
    return moment(seconds, "%H:%M:%S")


def day_clock(seconds: float) -> str:
    """Return a time as 24 Nov 12:41."""
    return moment(seconds, "%d %b %H:%M")


def moment(seconds: float, form: str) -> str:
    """Return a time as strftime writes it; "?" for a number that is no time, as files may hold."""
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"


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


def how_many(number: int, one: str, many: str = "") -> str:
    """Return a number of things: 1 image, 2,000 images; `many` where an s is not all."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def few(names: Sequence[str], most: int = 6, *, between: str = ", ") -> str:
    """Return the first of some names, and how many more there are: a, b and 3 more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def for_shell(path: object) -> str:
    """Return a path as a person can paste it into a command: quoted, and never an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def how_to_read(path: object) -> str:
    """Return what helps where a file may not be read."""
    return f"Try: chmod +r {for_shell(path)}"


def size(num_bytes: int) -> str:
    """Return a size as 812 B, 45.2 MB (of 10⁶ bytes, as disks are sold)."""
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def told_apart(values: Sequence[float], digits: int) -> list[str]:
    """Return numbers with so many digits, or as many more as tell those apart that differ."""
    different = len(set(values))
    for more in range(digits, 13):
        told = [f"{value:.{more}g}" for value in values]
        if len(set(told)) == different:
            return told
    return [f"{value:.{digits}g}" for value in values]


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    """Return a nested document as dotted keys: training.steps, data.0.images.

    A list of plain values is one value; empty tables and lists are values, too.
    """
    if isinstance(value, dict) and value:
        items = list(value.items())
    elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        items = list(enumerate(value))
    else:
        return {name: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= flattened(inner, f"{name}.{key}" if name else str(key))
    return flat


# A spreadsheet runs what begins with one of these, whatever blanks stand before it; it may part
# cells at semicolons and tabs as well, and some take the wide signs of East Asian keyboards.
_RUN_BY_SPREADSHEETS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
_PARTING, _BLANK = r";\t\r\n", r"\s\u00ad\u200b-\u200f\u2060\ufeff'"
_IS_RUN = rf"(?=[{_BLANK}]*[{_RUN_BY_SPREADSHEETS}])"
_AS_TEXT = rf"(?:(?:^|(?<=[{_PARTING}])){{}}{_IS_RUN}|^{{}}(?='*[\t\r\n]))"
_TO_QUOTE = re.compile(_AS_TEXT.format("", ""))
_QUOTED = re.compile(_AS_TEXT.format("'", "'"))
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def cell_of(value: Any) -> Any:
    """Return a value for a CSV cell: a text that a spreadsheet would execute is quoted as text.

    A file may be called "=HYPERLINK(...)"; an apostrophe in front makes it a name again. Numbers
    stay numbers.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _TO_QUOTE.sub("'", value)


def text_of_cell(cell: str) -> str:
    """Return what `cell_of` was given."""
    return _QUOTED.sub("", cell)
