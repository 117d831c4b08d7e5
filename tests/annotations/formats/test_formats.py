"""Annotation files of real tools are read as their tools draw them."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.errors import AnnotationError
from tests.annotations.formats.made import drawn, formats


def test_hostile_annotations_are_refused_quickly(tmp_path: Path) -> None:
    far = {"version": "5", "imagePath": "a", "shapes": [
        {"label": "a", "shape_type": "line", "points": [[-1e300, 0], [1e300, 1]]},
        {"label": "a", "shape_type": "polygon", "points": [[0, 0], [1e18, 5], [5, 1e18]]},
        {"label": "a", "shape_type": "circle", "points": [[5, 5], [1e15, 5]]},
    ]}  # fmt: skip
    huge = {"images": [{"id": 1, "file_name": "../../x", "height": 100000, "width": 100000}],
            "categories": [], "annotations": [{"image_id": 1, "category_id": 1, "segmentation":
            {"size": [100000, 100000], "counts": [10**10]}}]}  # fmt: skip
    (tmp_path / "far.json").write_text(json.dumps(far))
    (tmp_path / "huge.json").write_text(json.dumps(huge))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "laugh.xml").write_text(
        '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>'
    )
    (tmp_path / "nan.json").write_text(json.dumps(far).replace("1e+300", "NaN"))
    start = time.process_time()
    (one,) = read_annotations(tmp_path / "far.json")
    assert drawn(one, (64, 64)).shape == (64, 64)
    for name in ("huge", "deep", "nan"):
        with pytest.raises(AnnotationError):
            read_annotations(tmp_path / f"{name}.json")
    with pytest.raises(AnnotationError, match="entities"):
        read_annotations(tmp_path / "laugh.xml")
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "name",
    [
        "labelme/primitives/primitives.json",
        "coco-metallography/annotations/validation.json",
        "imagej-roi/composite-oval-in-rect.roi",
        "imagej-roi/ellipse.roi",
        "qupath-geojson/Single_cells.geojson",
        "datumaro-assets/cvat_dataset/for_images/export_task/train.xml",
        "label-studio/test_export_yolo/data_polygons.json",
    ],
)
def test_harmed_annotations_are_read_or_refused(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    whole = (formats(shared_data) / name).read_bytes()
    rng = np.random.default_rng(0)
    variants = [whole[: len(whole) * part // 16] for part in range(16)]
    for _ in range(40):
        harmed = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            harmed[place] = int(rng.integers(0, 256))
        variants.append(bytes(harmed))
    for number, variant in enumerate(variants):
        file = tmp_path / f"{number}{Path(name).suffix}"
        file.write_bytes(variant)
        start = time.process_time()
        try:
            for one in read_annotations(file)[:2]:
                drawn(one, one.size_HW if one.size_HW and max(one.size_HW) < 2000 else (64, 64))
        except AnnotationError as error:
            assert "\n" not in str(error)
        assert time.process_time() - start < 5
