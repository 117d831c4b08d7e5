"""Objects with numbers beside a mask: they belong to that mask, and come back from every format."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.annotations.draw import annotation_ids, shapes_of
from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.masks import table_of
from emcfsys_engine.annotations.numbered import (
    MaskDigest,
    all_numbered,
    read_numbers,
    with_own_values,
)
from emcfsys_engine.annotations.writer import LabelFormat, LabelWriter
from emcfsys_engine.dataset.objects import drawn_ids, in_reading_order
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.writers import ZarrWriter, is_companion

CLASSES = {"background": 0, "grain": 1, "film": 2}


def two_that_touch() -> tuple[np.ndarray, np.ndarray]:
    """Two grains that touch, one that is none for its size, and two pieces of film."""
    mask = np.zeros((30, 40), np.uint8)
    mask[4:14, 4:14] = mask[4:14, 14:26] = 1
    numbers = np.zeros(mask.shape, np.uint32)
    numbers[4:14, 4:14], numbers[4:14, 14:26] = 1, 2
    mask[20, 3] = 1
    mask[18:26, 10:16] = mask[18:26, 20:30] = 2
    return mask, numbers


def test_classes_without_numbers_have_an_object_for_each_part() -> None:
    mask, numbers = two_that_touch()
    ids, every = all_numbered(mask, numbers, 0)
    assert ids[20, 3] == 0
    assert sorted(np.unique(every).tolist()) == [0, 1, 2, 3, 4]
    assert ((every > 0) == (ids > 0)).all()


def test_unlabelled_pixels_are_no_objects_and_a_background_is_one_where_there_is_none() -> None:
    mask, numbers = two_that_touch()
    mask[29] = 255
    ids, every = all_numbered(mask.copy(), numbers.copy(), -1)
    assert ids[20, 3] == 255
    assert not every[29].any()
    assert every[0, 0] > 0
    ids, every = all_numbered(mask, numbers, 0)
    assert not every[29].any()
    assert every[0, 0] == 0


@pytest.mark.parametrize("to", ["labelme", "coco", "geojson", "imagej"])
def test_objects_written_one_by_one_are_read_one_by_one(tmp_path: Path, to: LabelFormat) -> None:
    mask, numbers = two_that_touch()
    ids, every = all_numbered(mask, numbers, 0)
    Image.fromarray(mask).save(tmp_path / "a.png")
    writer = LabelWriter(out=tmp_path, to=to, classes=CLASSES, background=0)
    writer.write("a", ids, image=tmp_path / "a.png", plane=None, numbers=every)
    writer.finish()
    (annotation,) = read_annotations(writer.file_of("a"))
    found = drawn_ids(annotation, table_of(CLASSES, {}), mask.shape)
    np.testing.assert_array_equal(in_reading_order(found), in_reading_order(every))


@pytest.mark.parametrize("to", ["labelme", "coco", "geojson", "imagej"])
def test_an_object_in_parts_and_one_in_anothers_hole_stay_one_each(
    tmp_path: Path, to: LabelFormat
) -> None:
    ids, numbers = np.zeros((30, 40), np.uint8), np.zeros((30, 40), np.uint32)
    numbers[2:14, 2:14], numbers[6:10, 6:10], numbers[7:9, 7:9] = 9, 4, 9  # an island of it, too
    numbers[20:26, 2:10], numbers[20:26, 30:38], numbers[20:26, 10:14] = 5, 5, 6
    ids[numbers > 0] = 1
    ids[0] = 255  # beside background, which has no number either
    Image.fromarray(ids).save(tmp_path / "a.png")
    writer = LabelWriter(out=tmp_path, to=to, classes=CLASSES, background=0)
    writer.write("a", ids, image=tmp_path / "a.png", plane=None, numbers=numbers)
    writer.finish()
    (annotation,) = read_annotations(writer.file_of("a"))
    table = table_of(CLASSES, {})
    found = np.where(ids == 1, drawn_ids(annotation, table, ids.shape), 0)
    np.testing.assert_array_equal(in_reading_order(found), in_reading_order(numbers))
    np.testing.assert_array_equal(annotation_ids(annotation, table, ids.shape), ids)


def test_a_value_an_object_draws_a_shape_an_object() -> None:
    mask, numbers = two_that_touch()
    ids, every = all_numbered(mask, numbers, 0)
    drawn, names = with_own_values(ids, every, {0: "background", 1: "grain", 2: "film"}, 0)
    shapes = shapes_of(drawn, names, background=0)
    assert sorted(shape.label for shape in shapes) == ["film", "film", "grain", "grain"]


@pytest.mark.parametrize("is_changed", [False, True])
def test_numbers_are_of_one_mask(tmp_path: Path, is_changed: bool) -> None:
    mask, numbers = two_that_touch()
    digest = MaskDigest()
    digest.add(mask[:7])
    digest.add(mask[7:])
    beside = tmp_path / "a.instances.tif"
    tifffile.imwrite(beside, numbers, description=digest.words(), metadata=None)
    mask[0, 0] += is_changed
    Image.fromarray(mask).save(tmp_path / "a.png")
    found = read_numbers(ImageRef(path=tmp_path / "a.png"))
    assert (found is None) == is_changed
    if found is not None:
        np.testing.assert_array_equal(found, numbers)
    assert is_companion(beside)
    assert read_numbers(ImageRef(path=beside)) is None


@pytest.mark.parametrize("content", [b"", b"II*\0 no more", b"text"])
def test_a_damaged_file_of_numbers_is_none(tmp_path: Path, content: bytes) -> None:
    Image.fromarray(two_that_touch()[0]).save(tmp_path / "a.png")
    (tmp_path / "a.instances.tif").write_bytes(content)
    assert read_numbers(ImageRef(path=tmp_path / "a.png")) is None
    with pytest.raises(AnnotationError, match=r"a\.instances\.tif: has objects'.*remove it"):
        read_numbers(ImageRef(path=tmp_path / "a.png"), must_read=True)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"zarr_format":3,"node_type":"group","attributes":[1]}']
)
def test_damaged_labels_inside_a_mask_are_none(tmp_path: Path, content: str) -> None:
    mask, numbers = two_that_touch()
    digest = MaskDigest()
    digest.add(mask)
    writer = ZarrWriter(tmp_path / "a.ome.zarr", (mask.shape[0], mask.shape[1]))
    write_instances = writer.instances(digest.words())
    writer.write(mask)
    write_instances(numbers.astype(np.uint32))
    writer.finish()
    ref = ImageRef(path=tmp_path / "a.ome.zarr")
    assert read_numbers(ref) is not None
    for place in ("zarr.json", "0/zarr.json"):
        file = ref.path / "labels" / "instances" / place
        whole = file.read_text()
        file.write_text(content)
        assert read_numbers(ref) is None
        file.write_text(whole)
