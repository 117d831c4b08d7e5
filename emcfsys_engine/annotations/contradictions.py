"""Masks that contradict each other: what one calls a class is another one in the next."""

from collections.abc import Sequence

from emcfsys_engine.annotations.masks import LabelTable, MaskFacts
from emcfsys_engine.annotations.pair_masks import Masks
from emcfsys_engine.annotations.palettes import has_several, numbered_differently
from emcfsys_engine.annotations.white_masks import white_beside_numbers
from emcfsys_engine.errors import MaskNumbersError
from emcfsys_engine.images.micrograph import ImageRef


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
    if all(one in masks.origins and masks.origins[one].is_of_model for one in masks.refs):
        return False
    return num_classes == 2 or has_several(masks.refs)
