"""Masks that contradict each other, or their classes: unlike palettes, 255 beside 1, white as 0."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import tifffile
from PIL import Image

from emcfsys_engine.annotations.masks import LabelTable, MaskFacts
from emcfsys_engine.annotations.pair_masks import Masks
from emcfsys_engine.errors import ImageError, MaskNumbersError
from emcfsys_engine.images.damaged_files import fenced, quiet_libraries
from emcfsys_engine.images.formats.tiff import is_array_of_bools
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import format_of
from emcfsys_engine.project import UNLABELLED


def contradictions(
    masks: Sequence[tuple[ImageRef, MaskFacts]], table: LabelTable, class_values: Sequence[int]
) -> list[MaskNumbersError]:
    """Return the errors for masks of one source that mean others by the same values.

    By their palettes, where no colours are named, or since 255 is a class for some of them only.
    """
    palettes = None if table.colours else numbered_differently(masks, table.numbers)
    white = white_beside_numbers(masks, table, class_values)
    return [fault for fault in (palettes, white) if fault is not None]


def may_contradict(masks: Masks, num_classes: int) -> bool:
    """Tell whether masks have to be looked at: those that models made of them never contradict."""
    if all(map(masks.is_of_model, masks.refs)):
        return False
    return num_classes == 2 or has_several(masks.refs)


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


_WHITE = {0, UNLABELLED}


def white_beside_numbers(
    masks: Iterable[tuple[ImageRef, MaskFacts]], table: LabelTable, class_values: Sequence[int]
) -> MaskNumbersError | None:
    """Return the error for masks of 0 and 255 beside masks of class values; None: there are none.

    Alone, those are the two classes. Beside the others 255 would be unlabelled, and what is white
    would be learned from no more. One mask that has both says that 255 is unlabelled indeed.
    """
    in_range = any(low <= UNLABELLED <= high for low, high in table.ranges)
    if len(class_values) != 2 or in_range or UNLABELLED in table.numbers:
        return None
    white: list[ImageRef] = []
    numbered: list[ImageRef] = []
    for ref, facts in masks:
        values = {value for value, _ in facts.values}
        others = values - _WHITE
        if facts.in_colour or (others and UNLABELLED in values):
            return None
        if values == _WHITE:  # 255 alone may be an image without labels
            white.append(ref)
        elif any(table.of_value(value) in class_values for value in others):
            numbered.append(ref)
    if not white or not numbered:
        return None
    more = f", as {len(white) - 1} more do," if len(white) > 1 else ""
    what = f"holds only 0 and 255{more} while {numbered[0]} holds the values of classes"
    remedy = (
        'Say what 255 is under [data.labels], as in "255" = "…" or "255" = "ignore", or save all '
        "alike"
    )
    return MaskNumbersError(str(white[0]), what, remedy)


def notes_of_masks(masks: Mapping[ImageRef, MaskFacts], table: LabelTable) -> Iterator[str]:
    """Yield what a person should hear of how masks are read."""
    if clear := [mask.name for mask, facts in masks.items() if facts.transparent]:
        what = f"{len(clear)} masks have transparent pixels ({clear[0]} …)"
        yield f"{what}: those are unlabelled"
    one_bit = [ref for ref, facts in masks.items() if {v for v, _ in facts.values} <= {0, 1}]
    if not table.numbers & {0, 1}:  # else a person has said which is which
        yield from notes_of_bools(one_bit)


def notes_of_bools(masks: Iterable[ImageRef]) -> Iterator[str]:
    """Yield what a person should hear of masks that were true and false in Python."""
    if turned := [ref.name for ref in masks if _is_array_of_bools(ref)]:
        what = f"{len(turned)} masks say that 0 is white ({turned[0]} …), and are read as shown"
        python = "tifffile writes so what is false in Python, which is 1 here, and true 0"
        remedy = 'save mask.astype("uint8"), or swap 0 and 1 under [data.labels]'
        yield f"{what}: {python}. If true was meant as 1, {remedy}"


def _is_array_of_bools(ref: ImageRef) -> bool:
    try:
        return format_of(ref.path) == "tiff" and is_array_of_bools(ref.path)
    except (ImageError, OSError):
        return False  # told where its pixels are read
