"""Pictures in the terminal's own pixels: sixel and kitty, never more bytes than a slow line bears.

Only the decoder's child imports this. The library textual-image does the same, but encodes on the
interface's thread, imports Pillow there, asks the terminal questions at import (which eats keys),
and writes past Textual's driver: none of it fits pictures that come from a child over SSH.
"""

import base64
import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

from emcfsys_tui.view_models import Drawing

MOST_BYTES = 250_000  # of one picture: a fifth of a second on a line of 10 Mbit/s
# Tried one after the other until the picture fits: its pixels' size, and how many colours. What
# would have to be coarser yet is no sharper than half-blocks.
_QUALITIES = ((1, 64), (1, 24), (2, 64), (2, 24), (3, 24), (4, 16), (6, 12), (8, 8))
_BITS = np.array([1, 2, 4, 8, 16, 32], np.uint8)
_BAND_PX = 6
_NEARLY_GREY = 12  # between the strongest and the weakest of red, green, blue
_RUN = re.compile(rb"(.)\1{3,255}", re.DOTALL)
_END = b"\x1b\\"


def encoded(picture: Image.Image, drawing: Drawing) -> bytes:
    """Return a picture in colour as the terminal takes it; nothing where it cannot be small enough.

    A sixel picture is made of one image a line of cells, a kitty one is a PNG in base64.
    """
    if drawing.kind == "kitty":
        return png_of(picture)
    return sixel_of(picture, drawing.cell_px[1])


def sixel_of(picture: Image.Image, row_px: int, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Return a picture as one sixel image a line of cells, so that a line can be drawn again alone.

    Units:  `row_px` is the height of a cell; the last line may be lower.
    Source: DEC, VT330/VT340 Programmer Reference Manual, volume 2, chapter 14.
    """
    for block_px, num_colours in _QUALITIES:
        small, palette = _indexed(_reduced(picture, block_px), num_colours)
        ids = small.repeat(block_px, 0).repeat(block_px, 1)
        ids = ids[: picture.height, : picture.width]
        found = b""
        for row in _sixel_rows(ids, palette, row_px):
            found += row
            if len(found) > most_bytes:
                break
        else:
            return found
    return b""


def png_of(picture: Image.Image, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Return a picture as a PNG in base64, as kitty takes it; the terminal scales it to its cells.

    Source: kitty's terminal graphics protocol, f=100.
    """
    for block_px, num_colours in _QUALITIES:
        ids, palette = _indexed(_reduced(picture, block_px), num_colours)
        small = Image.fromarray(ids).convert("P")
        small.putpalette(palette.tobytes())
        stream = io.BytesIO()
        small.save(stream, "PNG", optimize=True)
        if (found := base64.standard_b64encode(stream.getvalue())) and len(found) <= most_bytes:
            return found
    return b""


def _reduced(picture: Image.Image, block_px: int) -> Image.Image:
    width, height = picture.size
    small = (-(-width // block_px), -(-height // block_px))
    return picture if block_px == 1 else picture.resize(small, Image.Resampling.BOX)


def _indexed(picture: Image.Image, num_colours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture in few colours; greys stay grey, so that no class is seen where none is.

    Shapes: H×W indices into N×3 red, green, blue; both uint8.
    """
    rgb = np.asarray(picture)
    is_coloured = rgb.max(axis=2) - rgb.min(axis=2) > _NEARLY_GREY
    num_greys = -(-num_colours // 2) if is_coloured.any() else num_colours
    greys = rgb.mean(axis=2)
    low, high = float(greys.min()), float(greys.max())
    steps = np.linspace(low, high, num_greys).round().astype(np.uint8)
    ids = np.rint((greys - low) * (num_greys - 1) / max(high - low, 1.0)).astype(np.uint8)
    palette = np.repeat(steps[:, None], 3, axis=1)
    if is_coloured.any():
        line = Image.fromarray(rgb[is_coloured][None])
        few = line.quantize(num_colours - num_greys, dither=Image.Dither.NONE)
        ids[is_coloured] = np.asarray(few)[0] + num_greys
        colours = np.array(few.getpalette(), np.uint8).reshape(-1, 3)
        palette = np.concatenate([palette, colours])
    return ids, palette


def _sixel_rows(ids_HW: np.ndarray, palette: np.ndarray, row_px: int) -> Iterator[bytes]:
    for top in range(0, ids_HW.shape[0], row_px):
        row = ids_HW[top : top + row_px]
        height, width = row.shape
        used = np.unique(row)
        percents = np.rint(palette[used] * (100 / 255)).astype(int)
        # 1: pixels that are not drawn keep what they show. A pixel is as high as wide.
        head = b'\x1bP0;1;0q"1;1;%d;%d' % (width, height)
        colours = (
            b"#%d;2;%d;%d;%d" % (number, *rgb)
            for number, rgb in zip(used, percents.tolist(), strict=True)
        )
        bands = (_band(row[y : y + _BAND_PX]) for y in range(0, height, _BAND_PX))
        yield head + b"".join(colours) + b"-".join(bands) + _END


def _band(band_HW: np.ndarray) -> bytes:
    """Return six lines of pixels: for each colour, which of the six it has in each column."""
    weights = _BITS[: band_HW.shape[0], None]
    lines: list[bytes] = []
    for number in np.unique(band_HW):
        bits = ((band_HW == number) * weights).sum(axis=0, dtype=np.uint8)
        text = (bits + 63).tobytes().rstrip(b"?")
        lines.append(b"#%d%s" % (number, _RUN.sub(_run, text)))
    return b"$".join(lines)


def _run(match: "re.Match[bytes]") -> bytes:
    return b"!%d%s" % (len(match[0]), match[1])
