"""Where in a stack a region lies, as each tool counts."""

import json
from pathlib import Path

import numpy as np
import roifile
import tifffile

from tests.annotations.reported import converted, image, mask, reported


def test_a_region_of_a_hyperstack_lies_on_its_channel_and_slice(
    shared_data: Path, tmp_path: Path
) -> None:
    made = converted(reported(shared_data, "06_roi_hyperstack_channel"), tmp_path)
    assert [Path(file).name for file in made.written] == ["img.0003.png"]


def test_slice_1_is_one_plane_and_position_0_is_every_plane(
    shared_data: Path, tmp_path: Path
) -> None:
    first = converted(reported(shared_data, "07a_roi_all_on_slice_1"), tmp_path / "a")
    assert [Path(file).name for file in first.written] == ["img.0000.png"]
    second = converted(reported(shared_data, "07b_roi_slice_0_and_3"), tmp_path / "b")
    areas = [int((mask(tmp_path / "b", f"img.000{n}.png") == 1).sum()) for n in range(4)]
    assert len(second.written) == 4
    assert areas == [100, 100, 200, 100]


def test_a_plane_of_qupath_is_that_plane(tmp_path: Path) -> None:
    image(tmp_path)
    stack = np.zeros((3, 2, 48, 64), np.uint8)
    tifffile.imwrite(tmp_path / "images" / "s.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    ring = [[5, 5], [25, 5], [25, 25], [5, 25], [5, 5]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring], "plane": plane}}
        for plane in (
            {"c": -1, "z": 2, "t": 0},
            {"c": 0, "z": 1, "t": 0},
            {"c": -1, "z": 9, "t": 0},
        )
    ]
    document = {"type": "FeatureCollection", "features": features}
    (tmp_path / "ann" / "s.geojson").write_text(json.dumps(document))
    made = converted(tmp_path, tmp_path / "out")
    assert [Path(file).name for file in made.written] == [
        "s.0002.png", "s.0004.png", "s.0005.png",
    ]  # fmt: skip
    assert any("lies on slice 10, frame 1" in note for note in made.notes)
    assert made.shapes_skipped == 1


def test_a_position_that_a_single_image_does_not_have_is_named(tmp_path: Path) -> None:
    image(tmp_path)
    rois = []
    for number, position in enumerate((0, 1, 3)):
        roi = roifile.ImagejRoi.frompoints([[2, 2], [12, 2], [12, 12]], name=f"pore-{number}")
        roi.position = position
        rois.append(roi)
    roifile.roiwrite(tmp_path / "ann" / "img.zip", rois)
    made = converted(tmp_path, tmp_path / "out")
    assert (made.shapes_drawn, made.shapes_skipped) == (2, 1)
    assert any("lies on plane 3, but the image has a single plane" in note for note in made.notes)


def test_a_region_on_a_slice_that_a_single_image_has_not_is_no_background(tmp_path: Path) -> None:
    image(tmp_path)
    square = np.array([[10, 10], [20, 10], [20, 20], [10, 20]], np.float32)
    roi = roifile.ImagejRoi.frompoints(square, name="p")
    roi.position = 5
    roi.tofile(tmp_path / "ann" / "img.roi")
    made = converted(tmp_path, tmp_path / "o")
    assert (made.shapes_drawn, made.shapes_skipped) == (0, 1)
    assert int((mask(tmp_path / "o") == 255).sum()) == 100
    ring = [*square.tolist(), square[0].tolist()]
    geometry = {"type": "Polygon", "coordinates": [ring], "plane": {"c": -1, "z": 1, "t": 0}}
    feature = {"geometry": geometry, "properties": {"classification": {"name": "p"}}}
    (tmp_path / "ann" / "img.roi").unlink()
    (tmp_path / "ann" / "img.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature, None]})
    )
    made = converted(tmp_path, tmp_path / "o2")
    assert (made.shapes_drawn, made.shapes_skipped) == (0, 2)
