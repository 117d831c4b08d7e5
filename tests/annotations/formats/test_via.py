"""VGG Image Annotator."""

import json
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.annotations.draw import mask_of
from emcfsys_engine.annotations.files import read_annotations


def test_via_regions_are_read(tmp_path: Path) -> None:
    regions = [
        {
            "shape_attributes": {"name": "rect", "x": 2, "y": 3, "width": 5, "height": 4},
            "region_attributes": {"label": "pore"},
        },
        {
            "shape_attributes": {"name": "circle", "cx": 20, "cy": 20, "r": 5},
            "region_attributes": {"kind": {"grain": True, "pore": False}},
        },
        {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": [30, 40, 40, 30],
                "all_points_y": [30, 30, 40, 40],
            },
            "region_attributes": {"label": "pore"},
        },
    ]
    file = tmp_path / "via.json"
    entry = {"filename": "../x/a.png", "size": 9, "regions": regions, "file_attributes": {}}
    file.write_text(json.dumps({"_via_settings": {}, "_via_img_metadata": {"a.png9": entry}}))
    (one,) = read_annotations(file)
    assert one.image_name == "a.png"
    assert [shape.label for shape in one.shapes] == ["pore", "grain", "pore"]
    areas = [int(found[1].sum()) for s in one.shapes if (found := mask_of(s, (50, 50)))]
    assert areas[0] == 20
    assert areas[1] == pytest.approx(np.pi * 25, rel=0.1)
    assert areas[2] == 100


def test_which_of_several_attributes_tells_the_class_is_said(tmp_path: Path) -> None:
    shape = {"name": "rect", "x": 2, "y": 3, "width": 5, "height": 4}
    given = [{"name": "pore", "type": "grain"}] * 2 + [{"type": "pore", "quality": "good"}]
    regions = [{"shape_attributes": shape, "region_attributes": one} for one in given]
    entry = {"filename": "a.png", "size": 9, "regions": regions, "file_attributes": {}}
    (tmp_path / "via.json").write_text(json.dumps({"a.png9": entry}))
    (one,) = read_annotations(tmp_path / "via.json")
    assert [shape.label for shape in one.shapes] == ["grain", "grain", "pore"]
    assert one.notes == ("2 regions have the attributes type, name: type is taken for the class",)
