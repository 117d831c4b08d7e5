"""Masks with palettes: where files number the same colours differently, numbers are no classes."""

from collections import Counter
from collections.abc import Container, Iterable
from contextlib import suppress

import numpy as np
import tifffile
from PIL import Image

from emcfsys_engine.annotations.masks import MaskFacts
from emcfsys_engine.errors import ImageError, MaskNumbersError
from emcfsys_engine.images.bounds import fenced, quiet_libraries
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import format_of

_PNG_KIND = 25  # where in a PNG its colour type stands
_PNG_PALETTE = 3


def numbered_differently(
    masks: Iterable[tuple[ImageRef, MaskFacts]], right: Container[int] = ()
) -> MaskNumbersError | None:
    """Return the error for masks in which one colour has different numbers; None: there are none.

    Programs that make a palette for each picture number its colours as they come: by its numbers
    one class would be learned as another. `right`: numbers whose meaning a person said, as for
    palettes that only colour them by how many there are.
    """
    known: dict[int, tuple[int, ImageRef]] = {}
    for ref, facts in masks:
        palette = None if facts.in_colour else _palette_of(ref)
        if palette is None:
            continue
        colours = (palette.astype(np.uint32) @ np.array((1 << 16, 1 << 8, 1), np.uint32)).tolist()
        only_once = {colour for colour, times in Counter(colours).items() if times == 1}
        for value, _ in facts.values:
            if value in right or value >= len(colours):
                continue
            if (colour := colours[value]) not in only_once:
                continue  # a palette is filled up with black
            number, other = known.setdefault(colour, (value, ref))
            if number != value:
                named = f"#{colour:06x}"
                what = f"has the colour {named} as {value}, {other} has it as {number}"
                remedy = (
                    f'Name their colours under [data.labels], as in "{named}" = "…", or their '
                    f'numbers where those are right, as in "{value}" = "…"'
                )
                return MaskNumbersError(str(ref), what, remedy)
    return None


def has_several(masks: Iterable[ImageRef]) -> bool:
    """Tell whether masks have different palettes: only then their values need be looked at."""
    palettes = (palette for ref in masks if (palette := _palette_of(ref)) is not None)
    return len({palette.tobytes() for palette in palettes}) > 1


def _palette_of(ref: ImageRef) -> np.ndarray | None:
    """Return the colours that a mask's values stand for; None where it has no palette.

    Shapes: K×3.
    """
    kind = format_of(ref.path)
    with suppress(ImageError, OSError, ValueError), quiet_libraries(), fenced(ref.path):
        if kind in ("picture", "frames"):
            with ref.path.open("rb") as file:
                start = file.read(_PNG_KIND + 1)
            if start[1:4] == b"PNG" and start[_PNG_KIND] != _PNG_PALETTE:
                return None  # most are such: nothing more is read of them
            with Image.open(ref.path) as picture:
                flat = picture.getpalette("RGB") if picture.mode == "P" else None
            return None if flat is None else np.array(flat, np.uint8).reshape(-1, 3)
        if kind == "tiff":
            with tifffile.TiffFile(ref.path, _multifile=False) as tiff:
                colormap = tiff.pages.first.keyframe.colormap
            return None if colormap is None else (np.asarray(colormap).T >> 8).astype(np.uint8)
    return None
