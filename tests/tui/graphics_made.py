"""Sixels decoded again."""

import re

import numpy as np

SIXEL = re.compile(r'\x1bP0;1;0q"1;1;(\d+);(\d+)([^\x1b]*)\x1b\\')


def _sixel_pixels(width: int, height: int, body: str) -> np.ndarray:
    """Decode one sixel image as DEC's manual tells; what is not drawn stays black.

    Shapes: H×W×3 uint8.
    """
    pixels = np.zeros((height, width, 3), np.uint8)
    palette: dict[int, tuple[int, ...]] = {}
    x = y = 0
    colour: tuple[int, ...] = (0, 0, 0)
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)(.)|([$-])|([?-~])", body):
        number, red, green, blue, repeat, repeated, move, single = token.groups()
        if number is not None:
            if red is not None:
                percents = (int(red), int(green), int(blue))
                palette[int(number)] = tuple(round(part * 255 / 100) for part in percents)
            else:
                colour = palette[int(number)]
        elif move is not None:
            x, y = 0, y + (6 if move == "-" else 0)
        else:
            num, bits = (int(repeat), ord(repeated)) if repeat else (1, ord(single))
            for bit in range(6):
                if (bits - 63) >> bit & 1:
                    assert y + bit < height and x + num <= width, "a pixel outside of the picture"
                    pixels[y + bit, x : x + num] = colour
            x += num
    return pixels


def sixel_picture(text: str) -> np.ndarray:
    """Decode the sixel images of one picture, which stand below each other."""
    return np.concatenate([_sixel_pixels(int(w), int(h), b) for w, h, b in SIXEL.findall(text)])
