"""Regions of ImageJ: areas, archives, texts and lines."""

import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import roifile

from emcfsys_engine.annotations.draw import regions_of
from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.formats.imagej import write_imagej
from emcfsys_engine.errors import AnnotationError
from tests.annotations.formats.made import drawn, formats
from tests.annotations.reported import converted, image, mask, reported


def test_imagej_regions_have_the_areas_of_their_expected_shapes(shared_data: Path) -> None:
    folder = formats(shared_data) / "imagej-roi"
    areas: dict[str, int] = {}
    for file in sorted(folder.glob("*.roi")):
        (annotation,) = read_annotations(file)
        areas[file.stem] = int(drawn(annotation, (300, 300)).sum())
    rectangle = json.loads((folder / "rectangle.json").read_text())["rectangle"]
    assert areas["rectangle"] == rectangle["width"] * rectangle["height"]
    oval = json.loads((folder / "oval.json").read_text())["oval"]
    assert areas["oval"] == pytest.approx(np.pi / 4 * oval["width"] * oval["height"], rel=0.02)
    # A rectangle of 61 × 42 with a hole of 31 × 18, and a frame of 8 × 3 with a hole of 4 × 1.
    assert areas["composite-rect-in-rect"] == 61 * 42 - 31 * 18
    assert areas["composite-brush-donut"] < 8 * 3
    assert set(areas) == {file.stem for file in folder.glob("*.roi")}
    assert all(area > 0 for name, area in areas.items() if not name.endswith("left"))


def test_an_archive_of_regions_is_never_unpacked(shared_data: Path, tmp_path: Path) -> None:
    roi = (formats(shared_data) / "imagej-roi/polygon.roi").read_bytes()
    file = tmp_path / "in" / "a.zip"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../escaped.roi", roi)
        link = zipfile.ZipInfo("link.roi")
        link.external_attr = 0o120777 << 16  # a symbolic link
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(AnnotationError, match="region link"):
        read_annotations(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.roi", bytes(100 << 20))
    with pytest.raises(AnnotationError, match="unbelievable"):
        read_annotations(file)
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.zip"]


def test_a_text_of_imagej_marks_no_pixels(shared_data: Path, tmp_path: Path) -> None:
    made = converted(reported(shared_data, "09_roi_text_scale_bar"), tmp_path)
    assert made.classes == {"background": 0, "pore": 1}
    assert any("500 nm is a text" in note for note in made.notes)


@pytest.mark.parametrize(("stroke", "rows"), [(4, 4), (0, 10)])
def test_a_line_of_imagej_is_as_wide_as_it_says(tmp_path: Path, stroke: int, rows: int) -> None:
    image(tmp_path)
    roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.LINE, name="p", stroke_width=stroke)
    roi.x1, roi.y1, roi.x2, roi.y2 = 5.0, 20.0, 45.0, 20.0
    roi.tofile(tmp_path / "ann" / "img.roi")
    converted(tmp_path, tmp_path / "o")
    assert int((mask(tmp_path / "o")[:, 25] == 1).sum()) == rows


def test_the_same_regions_are_the_same_bytes_whenever_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.zeros((12, 12), np.uint8)
    ids[2:9, 3:8] = 1
    regions = tuple(regions_of(ids, background=0))
    for name, day in (("a.zip", 1_000_000_000.0), ("b.zip", 1_500_000_000.0)):
        monkeypatch.setattr(time, "time", lambda day=day: day)
        write_imagej(tmp_path / name, regions, {1: "grain"})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize("size", [(24, 15), (680, 580), (11, 11)])
def test_an_oval_of_imagej_holds_the_pixels_whose_centres_lie_in_it(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    width, height = size
    roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, name="p", left=5, top=7)
    roi.right, roi.bottom = 5 + width, 7 + height
    roi.tofile(tmp_path / "a.roi")
    (one,) = read_annotations(tmp_path / "a.roi")
    y, x = np.mgrid[: height + 20, : width + 20] + 0.5
    inside = ((x - 5 - width / 2) / (width / 2)) ** 2 + (
        (y - 7 - height / 2) / (height / 2)
    ) ** 2 < 1
    found = drawn(one, inside.shape).astype(bool)
    assert int((found ^ inside).sum()) <= 1e-4 * inside.sum()


def test_a_rectangle_of_imagej_with_round_corners_has_them(tmp_path: Path) -> None:
    roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, name="p", left=10, top=20)
    roi.right, roi.bottom, roi.rounded_rect_arc_size = 310, 200, 100
    roi.tofile(tmp_path / "a.roi")
    (one,) = read_annotations(tmp_path / "a.roi")
    found = drawn(one, (220, 330))
    assert int(found.sum()) == pytest.approx(300 * 180 - (4 - np.pi) * 50**2, rel=1e-3)
    assert (found[22, 12], found[20, 160], found[110, 10], found[199, 160]) == (0, 1, 1, 1)


def test_sides_of_imagej_between_pixels_are_not_cut_to_whole_ones(tmp_path: Path) -> None:
    for word in ("RECT", "OVAL"):
        roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE[word], name="p", left=10, top=20)
        roi.right, roi.bottom = 30, 40
        roi.options = roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        roi.xd, roi.yd, roi.widthd, roi.heightd = 10.75, 20.75, 20.5, 20.25
        roi.tofile(tmp_path / f"{word}.roi")
        (one,) = read_annotations(tmp_path / f"{word}.roi")
        places = np.argwhere(drawn(one, (60, 60)))
        assert (places.min(axis=0).tolist(), places.max(axis=0).tolist()) == ([21, 11], [40, 30])
