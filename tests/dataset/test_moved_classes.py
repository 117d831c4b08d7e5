"""Masks that were saved by new numbers, told from masks that a person mended."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.dataset.moved_classes import moved_classes, moved_from, numbered_anew


def _mask() -> np.ndarray:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:9, 3:20] = 1
    mask[12:18, 5:25] = 2
    mask[0, :] = 255
    return mask


@given(st.permutations([0, 1, 2]))
def test_whatever_numbers_change_places_is_found_and_nothing_else(numbers: list[int]) -> None:
    before = _mask()
    table = np.arange(256, dtype=np.uint8)
    table[:3] = numbers
    now = table[before]
    now[3, 3:7] = 0  # and corrected besides
    expected = {old: new for old, new in enumerate(numbers) if old != new}
    assert moved_classes(before, now) == expected


def test_corrections_are_no_new_numbers() -> None:
    before = _mask()
    now = before.copy()
    now[2:9, 3:20] = 0  # an object that was none: what is background now was so before
    now[12:15, 5:25] = 1
    assert moved_classes(before, now) == {}
    assert moved_classes(before, before[:10]) == {}
    unlabelled = np.where(before == 1, 255, before).astype(np.uint8)
    assert moved_classes(before, unlabelled) == {}


def test_what_a_good_model_finds_by_other_numbers_as_a_whole_is_told() -> None:
    guess = _mask()
    labels = np.array([0, 2, 1, *range(3, 256)], np.uint8)[guess]
    labels[8:13, 3:9] = 255  # what nobody labelled says nothing
    guess[2:3] = 0  # models are never wholly right
    assert moved_from(guess, labels) == {1: 2, 2: 1}
    assert moved_from(np.where(guess == 2, 255, guess).astype(np.uint8), labels) == {}
    assert moved_from(guess, np.where(labels == 2, 1, labels).astype(np.uint8)) == {}


def test_one_class_of_one_mask_may_have_been_named_wrongly_several_alike_may_not() -> None:
    assert numbered_anew({"a": {1: 2}, "b": {2: 1}, "c": {}}) == {}
    assert numbered_anew({"a": {0: 1, 1: 0}, "b": {2: 1}}) == {"a": {0: 1, 1: 0}}
    assert numbered_anew({"a": {1: 2}, "b": {1: 2}}) == {"a": {1: 2}, "b": {1: 2}}
