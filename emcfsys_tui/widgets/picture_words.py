"""What is said around a picture: its scale bar, how far it is zoomed, and what its colours mean."""

import math
from collections.abc import Sequence

from rich.text import Text

from emcfsys_engine.colours import class_letters
from emcfsys_engine.errors import printable
from emcfsys_tui.text import shortened
from emcfsys_tui.view_models import Picture
from emcfsys_tui.widgets.canvas import Colour, style_of

_LEAST_BAR, _SHARE = 5, 4  # cells; at most a fourth of the picture


def scale_words(picture: Picture) -> str:
    """Return the zoom, where it is one, and a bar that is exactly as long as it says."""
    if not picture.grey or not picture.width or picture.channels != 1:
        return ""
    zoom = picture.image_px[0] / picture.view_px[2]
    words = f"×{zoom:.2g} " if zoom > 1.01 else ""
    return words + _bar(picture.view_px[2] / picture.width, picture.width, picture.pixel_nm)


def _bar(px_in_cell: float, width: int, pixel_nm: float | None) -> str:
    in_cell = px_in_cell * (pixel_nm or 1.0)
    most = in_cell * max(_LEAST_BAR, width // _SHARE)
    power = 10.0 ** math.floor(math.log10(most))
    # The half is for a logarithm that was rounded up: 99999.99999999999 is less than its power.
    length = max(step * power for step in (0.5, 1, 2, 5) if step * power <= most)
    label = _length(length) if pixel_nm else f"{length:g} px"
    cells = max(2, round(length / in_cell))
    if cells >= len(label) + 4:
        return f"├{f' {label} '.center(cells - 2, '─')}┤"
    return f"├{'─' * (cells - 2)}┤ {label}"


def _length(nm: float) -> str:
    if nm >= 1e6:
        return f"{nm / 1e6:g} mm"
    return f"{nm / 1e3:g} µm" if nm >= 1e3 else f"{nm:g} nm"


def class_legend(
    names: Sequence[str],
    colours: Sequence[Colour],
    width: int,
    *,
    lead: str = "",
    only: int | None = None,
    first: int = 0,
) -> Text:
    """Return one square, letter and name a class; the longest names give way where it is narrow.

    `only`: the place of the one class that is drawn; the squares of the others are empty.
    `first`: the place of the first class that is named.
    """
    letters = class_letters(names)
    shown = range(first, min(len(names), len(colours)))
    plain = [printable(names[n]) for n in shown]
    taken = 5 * len(shown) + 1
    has_lead = bool(lead) and taken + len(lead) + 1 + sum(map(len, plain)) <= width
    text = Text(f" {lead} " if has_lead else " ", no_wrap=True, overflow="ellipsis")
    for n, name in zip(shown, shortened(plain, width - taken), strict=True):
        text.append(f"{'■' if only in (None, n) else '□'}{letters[n]}", style_of(colours[n]))
        text.append(f" {name}  " if name else "  ")
    return text
