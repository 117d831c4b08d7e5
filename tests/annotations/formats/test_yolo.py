"""YOLO: polygons, and what is none."""

from pathlib import Path

import pytest

from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.errors import AnnotationError
from tests.annotations.formats.made import drawn, formats


def test_yolo_boxes_are_refused_and_polygons_are_read(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="is a box"):
        read_annotations(formats(shared_data) / "yolo-stem/labels/Pt4.txt")
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_text("names:\n  0: matrix\n  1: 'pore'  # dark\n")
    file = tmp_path / "labels" / "a.txt"
    file.write_text("1 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n")
    (one,) = read_annotations(file)
    assert one.shapes[0].label == "pore"
    assert int(drawn(one, (100, 200)).sum()) == 80 * 50


def test_class_names_of_yolo_are_read_with_a_mark_and_refused_in_gbk(tmp_path: Path) -> None:
    labels = tmp_path / "a.txt"
    labels.write_bytes(b"\xef\xbb\xbf0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "classes.txt").write_bytes("pore\n".encode("utf-8-sig"))
    assert read_annotations(labels)[0].shapes[0].label == "pore"
    (tmp_path / "classes.txt").write_bytes("析出相\n".encode("gbk"))
    labels.write_bytes(b"0 0.1 0.1 0.5 0.1 0.5 0.6\n")
    with pytest.raises(AnnotationError, match=r"classes.txt: is text in GBK"):
        read_annotations(labels)


@pytest.mark.parametrize("yaml", ["", "kpt_shape: [3, 2]\n"])
def test_poses_of_yolo_are_no_polygons(tmp_path: Path, yaml: str) -> None:
    numbers = "0.5 0.5 0.4 0.4 0.4 0.4 0.6 0.4 0.5 0.6"
    if not yaml:
        numbers = "0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.4 2 0.5 0.6 1 0 0 0"
    (tmp_path / "data.yaml").write_text(yaml + "names: [pore]\n")
    (tmp_path / "a.txt").write_text(f"0 {numbers}\n")
    with pytest.raises(AnnotationError, match="pose"):
        read_annotations(tmp_path / "a.txt")
