"""Label Studio: percent, brushes, labels in parts."""

import json
from pathlib import Path

import pytest

from emcfsys_engine.annotations.files import read_annotations
from tests.annotations.formats.made import formats
from tests.annotations.reported import converted, mask, reported


def test_label_studio_polygons_are_percent_of_the_image(shared_data: Path) -> None:
    folder = formats(shared_data) / "label-studio"
    (one,) = read_annotations(folder / "test_export_yolo/data_polygons.json")
    assert one.size_HW == (426, 640)
    assert one.shapes[0].label == "Airplane"
    assert one.shapes[0].points[0] == pytest.approx((0.6 * 640, 0.1955922865 * 426))
    (small,) = read_annotations(folder / "test_export_json_min/data.json")
    assert small.image_name == "example.png"


def test_shape_and_labels_of_label_studio_are_one_region(shared_data: Path, tmp_path: Path) -> None:
    made = converted(reported(shared_data, "03a_ls_polygon_plus_labels"), tmp_path)
    assert made.classes == {"background": 0, "Airplane": 1}
    assert int((mask(tmp_path) == 1).sum()) == pytest.approx(726, abs=3)


def test_pairs_of_label_studio_without_ids_are_one_region(tmp_path: Path) -> None:
    size = {"original_width": 64, "original_height": 48}
    box = {"x": 10, "y": 10, "width": 20, "height": 30, "rotation": 0, **size}
    other = {**box, "x": 60}
    task = {
        "image": "img.png", "id": 1, "annotator": 1, "annotation_id": 2,
        "shapes": [box, other], "Type": [{**box, "labels": ["pore"]}],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps([task]))
    (one,) = read_annotations(tmp_path / "a.json")
    assert [shape.label for shape in one.shapes] == ["pore"]
    assert [lost.why for lost in one.skipped] == ["task 1: region ? has a shape without a label"]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/3/1f2e3d4c-20261128-a.tif", "20261128-a.tif"),
        ("/data/upload/1f2e3d4c-a.tif", "a.tif"),
        ("http://lab:8080/data/upload/3/1f2e3d4c-a%20b.tif", "a b.tif"),
        (
            "https://app.heartex.com/storage-data/uploaded/?filepath=upload/3/1f2e3d4c-a.tif",
            "a.tif",
        ),
        ("/data/local-files/?d=grid/20261128-a.tif", "20261128-a.tif"),
        ("s3://bucket/grid/20261128-a.tif", "20261128-a.tif"),
        ("https://lab/20261128-a.tif?X-Amz-Date=20261128", "20261128-a.tif"),
    ],
)
def test_only_what_was_uploaded_has_digits_that_are_not_of_its_name(
    address: str, name: str, tmp_path: Path
) -> None:
    task = {"id": 1, "data": {"image": address}, "annotations": [{"id": 1, "result": []}]}
    (tmp_path / "a.json").write_text(json.dumps([task]))
    assert read_annotations(tmp_path / "a.json")[0].image_name == name
