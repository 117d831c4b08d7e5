"""COCO: polygons, run lengths both ways, and what its objects leave unsaid."""

import contextlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools import mask as coco_mask

from emcfsys_engine.annotations.draw import regions_of
from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.formats.coco import (
    coco_image,
    runs_of_mask,
    runs_of_text,
)
from emcfsys_engine.annotations.masks import table_of
from emcfsys_engine.annotations.shapes import mask_from_runs
from emcfsys_engine.errors import AnnotationError
from tests.annotations.formats.made import drawn, formats
from tests.annotations.formats.trips import small_masks
from tests.annotations.reported import coco, converted, image, mask, reported


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_polygons_agree_with_pycocotools(shared_data: Path) -> None:
    file = formats(shared_data) / "coco-metallography/annotations/validation.json"
    document = json.loads(file.read_text())
    annotations = read_annotations(file)
    assert len(annotations) == 32
    assert sum(len(one.shapes) for one in annotations) == 187
    assert annotations[0].image_name == "data/validation/Slice-10Bottom_3072_0_3584_512.png"
    polygons = [
        a["segmentation"]
        for a in document["annotations"]
        if a["image_id"] == document["images"][0]["id"]
    ]
    theirs = np.zeros((512, 512), bool)
    for polygon in polygons:
        theirs |= coco_mask.decode(coco_mask.frPyObjects(polygon, 512, 512)).any(axis=2)
    assert iou(drawn(annotations[0], (512, 512)) > 0, theirs) > 0.99


def test_coco_run_lengths_are_read_both_ways(shared_data: Path) -> None:
    folder = formats(shared_data) / "datumaro-assets"
    (plain,) = read_annotations(folder / "coco_dataset/coco_stuff/annotations/stuff_val.json")
    assert int(drawn(plain, (10, 5)).sum()) == 20
    (packed,) = read_annotations(folder / "segment_anything_dataset/a.json")
    assert int(drawn(packed, (5, 10)).sum()) == 4
    assert runs_of_text("`04n0") == [16, 4, 30]
    with pytest.raises(AnnotationError, match="does not fill"):
        mask_from_runs(Path("x"), "object 1", [5, 6], (3, 3))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coco/annotations/captions_val.json", "captions"),
        ("coco/annotations/panoptic_val.json", "panoptic"),
        ("coco/annotations/labels_val.json", "labels of whole images"),
        ("coco_instances/annotations/instances_train.json", "boxes without outlines"),
    ],
)
def test_coco_files_without_outlines_say_what_they_are(
    shared_data: Path, name: str, words: str
) -> None:
    with pytest.raises(AnnotationError, match=words):
        read_annotations(formats(shared_data) / "datumaro-assets/coco_dataset" / name)


def test_a_hostile_run_length_of_a_megabyte_is_refused_at_once() -> None:
    for text in ("o" * 1_000_000, "O" * 1_000_000, ("o" * 11 + "0") * 90_000):
        began = time.process_time()
        with contextlib.suppress(ValueError):
            runs_of_text(text)
        assert time.process_time() - began < 5


# pycocotools itself calls numpy in a way that numpy will drop.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@settings(max_examples=50, deadline=None)
@given(ids=small_masks())
def test_our_run_lengths_are_those_of_pycocotools(ids: np.ndarray) -> None:
    mask = ids > 0
    height, width = mask.shape
    packed = coco_mask.frPyObjects(
        {"counts": runs_of_mask(mask), "size": [height, width]}, height, width
    )
    assert np.array_equal(coco_mask.decode(packed).astype(bool), mask)


def test_the_box_of_an_object_holds_all_its_parts() -> None:
    numbers = np.zeros((100, 120), np.int32)
    numbers[10:40, 10:40] = numbers[60:80, 70:100] = 1
    ids = (numbers > 0).astype(np.uint8)
    made = coco_image("a", (100, 120), regions_of(ids, background=0, numbers=numbers))
    assert [one["bbox"] for one in made.objects] == [[10, 10, 90, 70]]


def test_every_object_of_coco_is_drawn_or_named(shared_data: Path, tmp_path: Path) -> None:
    folder = reported(shared_data, "02_coco_silently_lost")
    made = converted(folder, tmp_path)
    assert (made.shapes_drawn, made.shapes_skipped) == (5, 1)
    assert any("object 6 (pore) is of image 9" in note for note in made.notes)
    assert int((mask(tmp_path, "a.png") == 1).sum()) == 192
    assert int((mask(tmp_path, "b.png") == 1).sum()) == 128


def test_a_mask_of_coco_that_is_larger_than_its_image_is_an_error(tmp_path: Path) -> None:
    coded = {"size": [96, 128], "counts": [96 * 128 - 4, 4]}
    document = {
        "images": [{"id": 1, "file_name": "img.png", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": coded}],
        "categories": [{"id": 1, "name": "pore"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match="128 × 96 pixels, its image 64 × 48"):
        read_annotations(tmp_path / "a.json")


_OBJECT = {"image_id": 1, "category_id": 1, "segmentation": [[5, 5, 15, 5, 15, 15]]}


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (coco([_OBJECT], images=2), "images img.png and b.png the same id 1"),
        (coco([_OBJECT], categories=("p", "q")), "categories p and q the same id 1"),
        (coco([{**_OBJECT, "image_id": None}]), "does not say of which image"),
    ],
)
def test_coco_that_does_not_say_whose_an_object_is_is_refused(
    tmp_path: Path, document: dict, named: str
) -> None:
    image(tmp_path)
    (tmp_path / "ann" / "a.json").write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=named):
        read_annotations(tmp_path / "ann" / "a.json")


def test_a_category_that_the_file_does_not_list_is_no_class_by_its_number(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "large"}, {"id": 2, "name": "small"}],
        "annotations": [_OBJECT | {"id": n, "category_id": n} for n in (0, 1, 2)],
    }
    file = tmp_path / "a.json"
    table = table_of({"matrix": 0, "small": 1, "large": 2}, {})
    file.write_text(json.dumps(document))
    (one,) = read_annotations(file)
    assert [shape.label for shape in one.shapes] == ["category 0", "large", "small"]
    assert [table.of_shape(shape) for shape in one.shapes] == [None, 2, 1]
    document["categories"] = []
    file.write_text(json.dumps(document))
    (one,) = read_annotations(file)
    assert [table.of_shape(shape) for shape in one.shapes] == [0, 1, 2]
