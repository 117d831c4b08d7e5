"""What a mask says now: painted over, or by the outlines that a person saved beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.annotations.numbered import write_numbers
from emcfsys_engine.dataset.corrected import (
    moved_classes,
    moved_from,
    numbered_anew,
    read_mask_now,
    size_of,
)
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import instances_of
from emcfsys_engine.images.own_files import digest_of_output

CLASSES = {"resin": 2, "grain": 7}  # no class has the value 0
SIZE = (20, 30)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """A mask as this program wrote it."""
    file = tmp_path / "a.png"
    Image.fromarray(np.full(SIZE, 2, np.uint8)).save(file)
    OutputBook(tmp_path).note({file: digest_of_output(file)})
    return file


def draw(mask: Path, *boxes: tuple[int, int, int, int], label: str = "grain") -> Path:
    """Save outlines as Labelme does: left, top, right and bottom pixel."""
    shapes = [
        {"label": label, "shape_type": "rectangle", "points": [[x, y], [r, b]], "flags": {}}
        for x, y, r, b in boxes
    ]
    told = {"version": "5.7.0", "flags": {}, "imagePath": "a.png", "imageData": None}
    file = mask.with_suffix(".json")
    file.write_text(json.dumps({**told, "shapes": shapes, "imageHeight": 20, "imageWidth": 30}))
    return file


def now(mask: Path) -> tuple[dict[int, int], int | None]:
    """Return value -> pixels, and how many objects are numbered."""
    found = read_mask_now(mask, CLASSES, OutputBook(mask.parent), SIZE)
    values, counts = np.unique(found.ids, return_counts=True)
    numbers = None if found.numbers is None else int((np.unique(found.numbers) > 0).sum())
    return dict(zip(values.tolist(), counts.tolist(), strict=True)), numbers


def test_a_mask_that_nobody_changed_and_one_painted_over_say_what_they_hold(mask: Path) -> None:
    assert now(mask) == ({2: 600}, None)
    ids = np.full(SIZE, 2, np.uint8)
    ids[:2], ids[2] = 7, 255
    Image.fromarray(ids).save(mask)
    assert now(mask) == ({2: 510, 7: 60, 255: 30}, None)


def test_outlines_of_a_person_count_with_an_object_a_shape_and_the_ground_around(
    mask: Path,
) -> None:
    outlines = draw(mask, (0, 0, 4, 4), (5, 0, 9, 4))
    assert now(mask) == ({2: 550, 7: 50}, 2)
    book = OutputBook(mask.parent)
    book.note({outlines: digest_of_output(outlines)})  # our own say nothing new
    assert now(mask) == ({2: 600}, None)


def test_numbers_of_objects_beside_a_mask_count_while_they_are_of_it(mask: Path) -> None:
    ids = np.full(SIZE, 2, np.uint8)
    ids[:, :4] = 7
    Image.fromarray(ids).save(mask)
    numbers = np.zeros(SIZE, np.uint32)
    numbers[:, :2], numbers[:, 2:4] = 1, 2
    write_numbers(instances_of(mask), ids, numbers)
    assert now(mask) == ({2: 520, 7: 80}, 2)
    instances_of(mask).write_bytes(b"II*\0 torn")
    with pytest.raises(AnnotationError, match="numbers that cannot be read"):
        now(mask)  # its objects are others without them
    write_numbers(instances_of(mask), ids, numbers)
    ids[0] = 7
    Image.fromarray(ids).save(mask)
    assert now(mask)[1] is None


def test_mask_and_outlines_that_were_both_changed_have_to_agree(mask: Path) -> None:
    draw(mask, (0, 0, 29, 1))
    ids = np.full(SIZE, 2, np.uint8)
    ids[:2] = 7
    Image.fromarray(ids).save(mask)
    assert now(mask) == ({2: 540, 7: 60}, 1)
    ids[3] = 7
    Image.fromarray(ids).save(mask)
    with pytest.raises(AnnotationError, match=r"a\.json were both changed"):
        now(mask)


def test_another_size_value_or_label_and_several_images_are_refused(mask: Path) -> None:
    Image.fromarray(np.zeros((20, 29), np.uint8)).save(mask)
    with pytest.raises(AnnotationError, match="is 29 × 20 pixels, its image 30 × 20"):
        now(mask)
    Image.fromarray(np.full(SIZE, 3, np.uint8)).save(mask)
    with pytest.raises(AnnotationError, match="3"):
        now(mask)
    Image.fromarray(np.full(SIZE, 2, np.uint8)).save(mask)
    outlines = draw(mask, (0, 0, 4, 4), label="crack")
    with pytest.raises(AnnotationError, match='label "crack" is no class'):
        now(mask)
    outlines.write_text(json.dumps({**json.loads(outlines.read_text()), "imageHeight": 40}))
    with pytest.raises(AnnotationError, match=r"a\.json: is 30 × 40 pixels"):
        now(mask)


def test_the_size_of_an_image_that_is_away_is_not_known(mask: Path) -> None:
    assert size_of(mask) == SIZE
    assert size_of(mask.with_name("gone.tif")) is None


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
