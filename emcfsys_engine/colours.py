"""One colour and one letter a class: the same in overlays, previews, curves, tables and reports."""

import colorsys
from collections.abc import Sequence

Rgb = tuple[int, int, int]

# Okabe and Ito 2008: told apart also by people who do not see red and green. The first class is
# mostly background: it stays grey. The last is bluer than theirs: 256 colours keep its hue.
_PALETTE: tuple[Rgb, ...] = (
    (128, 128, 128),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (190, 90, 160),
)
_READABLE = 4.5  # contrast of text, WCAG 2.1


def colours_for(num_classes: int) -> tuple[Rgb, ...]:
    """Return one colour a class: safe for the colour-blind up to eight, then golden-ratio hues."""
    extra = range(len(_PALETTE), num_classes)
    return (_PALETTE + tuple(_hue(i * 0.618034 % 1) for i in extra))[:num_classes]


def class_letters(names: Sequence[str]) -> tuple[str, ...]:
    """Return one letter a class, in their order: its first one that no class before it has."""
    taken: set[str] = set()
    letters: list[str] = []
    for name in names:
        wanted = f"{name.lower()}abcdefghijklmnopqrstuvwxyz"
        letter = next((c for c in wanted if c.isascii() and c.isalpha() and c not in taken), "·")
        taken.add(letter)
        letters.append(letter)
    return tuple(letters)


def readable(colour: Rgb, background: Rgb) -> Rgb:
    """Return the colour, lighter or darker by as much as text on this background needs.

    Source: contrast of WCAG 2.1, at least 4.5.
    """
    towards = 255 if _luminance(background) < 0.18 else 0
    for share in range(21):
        red, green, blue = (round(c + (towards - c) * share / 20) for c in colour)
        if contrast((red, green, blue), background) >= _READABLE:
            return red, green, blue
    return towards, towards, towards


def contrast(one: Rgb, other: Rgb) -> float:
    """Return how well two colours stand apart: 1 is not at all, 21 is black on white."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Rgb) -> float:
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _hue(hue: float) -> Rgb:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)
