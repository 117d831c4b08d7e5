"""What an object is, whatever file says so, and what a network learns of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.annotations.numbered import write_numbers
from emcfsys_engine.dataset.objects import (
    FULL,
    ObjectTruth,
    read_objects,
    targets_of,
    told,
    told_apart,
)
from emcfsys_engine.dataset.samples import list_samples, read_labels
from emcfsys_engine.errors import ProjectFaults
from emcfsys_engine.project import load_project

SIZE = (40, 50)
Read = Callable[..., ObjectTruth]
NUMBERED = '[data.labels]\n"1-4294967295" = "particle"'


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return the objects of one image whose labels were saved."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, SIZE, np.uint8)).save(
        tmp_path / "images" / "a.png"
    )

    def read(labels: str, *, more: str = "", instances: str = "true") -> ObjectTruth:
        text = '[project]\nname = "t"\n[classes]\nbackground = 0\n'
        text += f"particle = {{ value = 1, instances = {instances} }}\nfilm = 2\n"
        text += f'[[data]]\nimages = "images"\n{labels}\n{more}\n'
        (tmp_path / "project.toml").write_text(text)
        project = load_project(tmp_path)
        (sample,) = list_samples(project, for_training=False).samples
        return read_objects(sample, project, read_labels(sample, project, SIZE))

    return read


def numbered(tmp_path: Path, *boxes: tuple[int, int, int, int, int], kind: Any) -> str:
    """Save a mask of rectangles (number, top, left, bottom, right)."""
    mask = np.zeros(SIZE, kind)
    for number, top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = number
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "a.tif", mask, photometric="minisblack")
    return 'masks = "masks"'


def drawn(tmp_path: Path, *shapes: tuple[str, int | None, int, int, int, int]) -> str:
    """Save a Labelme file of rectangles (label, group, left, top, right, bottom)."""
    said = [
        {
            "label": label,
            "group_id": group,
            "shape_type": "rectangle",
            "points": [[left, top], [right, bottom]],
        }
        for label, group, left, top, right, bottom in shapes
    ]
    document = {"version": "5.5.0", "imagePath": "a.png", "shapes": said, "imageData": None}
    document |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1], "flags": {}}
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.json").write_text(json.dumps(document))
    return 'annotations = "labels"'


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_touching_numbers_are_objects_of_their_own(tmp_path: Path, read: Read, kind: Any) -> None:
    most = np.iinfo(kind).max - 1
    mask = numbered(tmp_path, (most, 2, 2, 9, 9), (7, 2, 9, 9, 20), kind=kind)
    truth = read(mask, more=NUMBERED)
    assert truth.known == "numbers"
    assert truth.ids[3, 3] == 1
    assert truth.ids[3, 12] == 2
    assert truth.ids.max() == 2


@pytest.mark.parametrize(("instances", "number"), [("true", 2), ('"parts"', 3)])
def test_one_number_in_two_places_is_joined_or_parted_as_asked(
    tmp_path: Path, read: Read, instances: str, number: int
) -> None:
    mask = numbered(tmp_path, (3, 2, 2, 9, 9), (3, 20, 20, 30, 30), (5, 2, 9, 9, 20), kind="u2")
    truth = read(mask, more=NUMBERED, instances=instances)
    assert truth.ids.max() == number
    assert (truth.ids[3, 3] == truth.ids[25, 25]) == (number == 2)
    assert ("1 parts that do not touch were joined" in told({"a": truth}, ("p",))) == (number == 2)


def test_a_mask_of_classes_has_an_object_for_each_connected_part_and_says_so(
    tmp_path: Path, read: Read
) -> None:
    mask = numbered(tmp_path, (1, 2, 2, 9, 9), (1, 20, 20, 30, 30), (2, 2, 9, 9, 20), kind="u1")
    truth = read(mask)
    assert truth.ids.max() == 2
    assert not truth.ids[3, 12]  # a class whose objects nobody tells apart
    assert told({"a": truth}, ("particle",)) == "objects of particle: 2 by connected parts"


def test_shapes_are_objects_one_by_one_and_a_group_is_one(tmp_path: Path, read: Read) -> None:
    shapes = [("particle", None, 2, 2, 10, 10), ("particle", None, 8, 2, 20, 10)]  # they overlap
    shapes += [("particle", 4, 30, 2, 35, 8), ("particle", 4, 30, 20, 35, 28)]
    shapes += [("film", 4, 2, 30, 20, 38), ("particle", 5, 22, 30, 30, 38)]
    truth = read(drawn(tmp_path, *shapes))
    assert truth.known == "shapes"
    assert truth.ids[5, 5] != truth.ids[5, 9] == truth.ids[5, 15]  # the later lies over the earlier
    assert truth.ids[5, 32] == truth.ids[24, 32] > 0
    assert truth.ids[34, 10] == 0
    assert truth.ids.max() == 4


def test_a_group_joins_shapes_of_one_label_whatever_class_two_labels_are(
    tmp_path: Path, read: Read
) -> None:
    shapes = [("dark", 1, 2, 2, 8, 8), ("dark", 1, 20, 2, 26, 8), ("pale", 1, 2, 20, 8, 26)]
    labels = drawn(tmp_path, *shapes)
    truth = read(labels, more='[data.labels]\ndark = "particle"\npale = "particle"')
    assert truth.ids[4, 4] == truth.ids[4, 22]
    assert truth.ids[22, 4] not in (0, truth.ids[4, 4])


def test_what_a_prediction_gave_no_number_is_no_object(tmp_path: Path, read: Read) -> None:
    numbers = np.zeros(SIZE, np.uint32)
    numbers[2:9, 2:9], numbers[2:9, 9:20] = 1, 2
    mask = (numbers > 0).astype(np.uint8)
    mask[20, 3] = mask[30, 40] = 1  # two pixels, too few for objects
    mask[20:30, 20:30] = 2
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    write_numbers(tmp_path / "masks" / "a.instances.tif", mask, numbers)
    truth = read('masks = "masks"')
    assert truth.known == "numbers"
    np.testing.assert_array_equal(truth.ids, numbers)
    assert not truth.in_parts


def test_a_class_that_no_number_is_of_has_an_object_for_each_part(
    tmp_path: Path, read: Read
) -> None:
    mask, numbers = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint32)
    mask[2:9, 2:9] = mask[20:30, 20:30] = 1  # of a model that told objects of film apart only
    mask[35:, 2:9], numbers[35:, 2:9] = 2, 1
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    write_numbers(tmp_path / "masks" / "a.instances.tif", mask, numbers)
    assert read('masks = "masks"').ids.max() == 2


def test_polygons_of_one_coco_object_are_one(tmp_path: Path, read: Read) -> None:
    def ring(left: int, top: int) -> list[int]:
        return [left, top, left + 6, top, left + 6, top + 6, left, top + 6]

    objects = [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [ring(2, 2), ring(20, 20)]},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [ring(8, 2)]},
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "particle"}],
        "annotations": objects,
    }
    (tmp_path / "coco.json").write_text(json.dumps(document))
    truth = read('annotations = "coco.json"')
    assert truth.ids[4, 4] == truth.ids[22, 22]
    assert truth.ids[4, 10] not in (0, truth.ids[4, 4])


def test_a_mask_that_used_up_its_numbers_is_named(tmp_path: Path, read: Read) -> None:
    ids = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 256
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "a.tif", ids.astype(np.uint8), photometric="minisblack")
    truth = read('masks = "masks"', more='[data.labels]\n"1-255" = "particle"')
    assert truth.ids.max() == 255
    assert "a has all numbers that its mask can hold" in told({"a": truth}, ("particle",))


def test_a_mask_of_16_bits_with_65535_objects_keeps_them_all_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "t"\n[classes]\nbackground = 0\n'
        'particle = { value = 1, instances = true }\n[[data]]\nimages = "i"\nmasks = "m"\n'
    )
    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    given = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    labels = (given > 0).astype(np.uint8)
    truth = told_apart(labels, given, load_project(tmp_path), "numbers")
    assert truth.ids.max() == 65_535
    assert "a has all numbers that its mask can hold" in told({"a": truth}, ("particle",))
    wide = told_apart(labels, given.astype(np.uint32) + 1, load_project(tmp_path), "numbers")
    assert wide.ids.max() == 65_535  # the pixel of another class has a number, and is no object
    assert not wide.is_full


def test_a_number_of_two_slices_is_an_object_in_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    masks = np.zeros((2, *SIZE), np.uint16)
    masks[0, 2:9, 2:9], masks[0, 20:30, 20:30] = 7, 9
    masks[1, 20:30, 20:30] = 7
    pixels = np.random.default_rng(0).integers(0, 255, masks.shape, np.uint8)
    for folder, planes in (("images", pixels), ("masks", masks)):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", planes, photometric="minisblack")
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "t"\n[classes]\nbackground = 0\n'
        "particle = { value = 1, instances = true }\n"
        '[[data]]\nimages = "images"\nmasks = "masks"\n[data.labels]\n"1-65535" = "particle"\n'
    )
    project = load_project(tmp_path)
    samples = list_samples(project, for_training=False).samples
    truths = [read_objects(one, project, read_labels(one, project, SIZE)) for one in samples]
    assert [int(one.ids.max()) for one in truths] == [2, 1]
    assert truths[1].ids[25, 25] == 1


def test_more_objects_than_16_bits_count(tmp_path: Path) -> None:
    ids = np.arange(1, 70_001, dtype=np.int32).reshape(200, 350)
    planes = targets_of(ids, np.ones_like(ids, dtype=np.uint8))
    assert (planes[0] == FULL).all()  # of one pixel each: all middle, no border
    assert not planes[1].any()


def test_the_lowest_class_is_what_lies_between_objects(tmp_path: Path, read: Read) -> None:
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "t"\n[classes]\na = { value = 0, instances = true }\nb = 1\n'
        'c = { value = 2, instances = "yes", vlaue = 3 }\n[[data]]\nimages = "i"\nmasks = "m"\n'
    )
    with pytest.raises(ProjectFaults) as found:
        load_project(tmp_path)
    said = str(found.value)
    assert "classes.a.instances: has the lowest value" in said
    assert "classes.c.instances: 'yes' is neither true, false nor" in said
    assert "classes.c.vlaue" in said


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Objects of any shape, some cut by the edge, and labels of which some are missing."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = rng.integers(0, 5, (draw(st.integers(1, 6)), draw(st.integers(1, 6))))
    ids = np.kron(coarse, np.ones((4, 3), int)).astype(np.int32)
    labels = (ids > 0).astype(np.uint8)
    bare = rng.random(ids.shape) < draw(st.sampled_from([0.0, 0.1]))
    return np.where(bare, 0, ids), np.where(bare, 255, labels).astype(np.uint8)


@given(images(), st.permutations([1, 2, 3, 4]))
def test_other_numbers_change_no_target(image: tuple[np.ndarray, np.ndarray], to: Any) -> None:
    ids, labels = image
    renamed = np.array([0, *to], np.int32)[ids]
    np.testing.assert_array_equal(targets_of(ids, labels), targets_of(renamed, labels))


@given(images(), st.sampled_from([0, 1]))
def test_a_flipped_image_has_flipped_targets(
    image: tuple[np.ndarray, np.ndarray], axis: int
) -> None:
    ids, labels = image
    ours = targets_of(np.flip(ids, axis), np.flip(labels, axis))
    known = np.flip(targets_of(ids, labels), axis + 1)
    both = (ours != 255) & (known != 255)  # of equally near pixels outside either may decide
    np.testing.assert_array_equal(ours[both], known[both])


@given(images())
def test_nothing_is_known_where_nothing_is_labelled_and_little_more(
    image: tuple[np.ndarray, np.ndarray],
) -> None:
    ids, labels = image
    planes = targets_of(ids, labels)
    assert (planes[:, labels == 255] == 255).all()
    assert (planes[:, labels == 0] == 0).all()
    if not (labels == 255).any():
        assert not (planes == 255).any()


def test_the_images_edge_is_no_border_and_the_distance_is_that_of_the_object() -> None:
    ids = np.zeros((9, 20), np.int32)
    ids[:, :5] = 1  # cut at three sides: its border is the fifth column's right
    ids[2:7, 10:15] = 2
    planes = targets_of(ids, (ids > 0).astype(np.uint8))
    np.testing.assert_array_equal(planes[0][4, :6], np.rint(np.array([5, 4, 3, 2, 1, 0]) * 50.8))
    np.testing.assert_array_equal(planes[1][4, :6], [0, 0, 0, 254, 254, 0])
    np.testing.assert_array_equal(planes[0][4, 10:15], np.rint(np.array([1, 2, 3, 2, 1]) * 254 / 3))
    np.testing.assert_array_equal(planes[1][4, 10:15], [254, 0, 0, 0, 254])


def test_a_border_beside_unlabelled_pixels_is_not_known() -> None:
    ids = np.zeros((7, 12), np.int32)
    ids[:, 3:9] = 1
    labels = (ids > 0).astype(np.uint8)
    labels[:, 9:] = 255
    planes = targets_of(ids, labels)
    assert (planes[:, :, 7:] == 255).all()
    assert (planes[:, :, 3:5] != 255).all()
