"""Masks of two classes that are white for one person and numbered by another: 255 beside 1."""

from collections.abc import Iterable, Sequence

from emcfsys_engine.annotations.masks import LabelTable, MaskFacts
from emcfsys_engine.errors import MaskNumbersError
from emcfsys_engine.images.micrograph import ImageRef
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
