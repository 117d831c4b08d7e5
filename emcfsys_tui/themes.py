"""Colours: dark, light, colour-blind-safe, and the terminal's own sixteen."""

from textual.theme import Theme

from emcfsys_tui.widgets.canvas import Colour

DARK, LIGHT, SAFE_DARK, SAFE_LIGHT = (
    "emcfsys-dark",
    "emcfsys-light",
    "colour-blind-dark",
    "colour-blind-light",
)

THEMES = (
    Theme(
        name=DARK,
        primary="#6cb6ff",
        secondary="#8ddb8c",
        accent="#f69d50",
        foreground="#d7dde5",
        background="#14181d",
        surface="#14181d",
        panel="#20262e",
        success="#8ddb8c",
        warning="#f0c674",
        error="#ff8080",
        dark=True,
    ),
    Theme(
        name=LIGHT,
        primary="#0b5cad",
        secondary="#1a7f37",
        accent="#b35900",
        foreground="#1f2328",
        background="#fbfbfa",
        surface="#fbfbfa",
        panel="#e8eaed",
        success="#1a7f37",
        warning="#8a5a00",
        error="#c02026",
        dark=False,
    ),
    Theme(
        name=SAFE_DARK,
        primary="#56b4e9",
        secondary="#f0e442",
        accent="#e69f00",
        foreground="#dddddd",
        background="#121212",
        surface="#121212",
        panel="#262626",
        success="#56b4e9",
        warning="#f0e442",
        error="#e69f00",
        dark=True,
    ),
    Theme(
        name=SAFE_LIGHT,
        primary="#0072b2",
        secondary="#7a4f00",
        accent="#a84300",
        foreground="#111111",
        background="#ffffff",
        surface="#ffffff",
        panel="#e6e6e6",
        success="#0072b2",
        warning="#7a4f00",
        error="#a84300",
        dark=False,
    ),
)

# Curves and classes, in the order in which they are handed out. Safe: Okabe and Ito 2008.
_SAFE: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
)
_SAFE_ON_WHITE: tuple[Colour, ...] = (
    (0, 114, 178),
    (190, 110, 0),
    (0, 130, 95),
    (170, 80, 130),
    (130, 120, 0),
    (190, 75, 0),
)
_CURVES: dict[str, tuple[Colour, ...]] = {
    DARK: (
        (108, 182, 255),
        (246, 157, 80),
        (141, 219, 140),
        (220, 150, 240),
        (240, 198, 116),
        (100, 215, 215),
    ),
    LIGHT: (
        (11, 92, 173),
        (179, 89, 0),
        (26, 127, 55),
        (130, 50, 160),
        (138, 90, 0),
        (0, 120, 125),
    ),
    SAFE_DARK: _SAFE,
    SAFE_LIGHT: _SAFE_ON_WHITE,
    "ansi-dark": (12, 11, 10, 13, 14, 9),
    "ansi-light": (4, 3, 2, 5, 6, 1),
}


def curve_colours(theme: str, *, dark: bool) -> tuple[Colour, ...]:
    """Return six colours that stand apart on this theme's background."""
    return _CURVES.get(theme, _SAFE if dark else _SAFE_ON_WHITE)


def class_colours(theme: str, *, dark: bool) -> tuple[tuple[int, int, int], ...]:
    """Return the colours of an overlay, as red, green, blue."""
    found = [colour for colour in curve_colours(theme, dark=dark) if isinstance(colour, tuple)]
    return tuple(found) or tuple(colour for colour in _SAFE if isinstance(colour, tuple))
