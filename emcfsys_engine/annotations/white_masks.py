"""What is white in masks: 255 beside 1, what is transparent, and TIFFs that say 0 is white."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from emcfsys_engine.annotations.masks import LabelTable, MaskFacts
from emcfsys_engine.errors import ImageError, MaskNumbersError
from emcfsys_engine.images.formats.tiff import is_array_of_bools
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import format_of
from emcfsys_engine.project import UNLABELLED

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
