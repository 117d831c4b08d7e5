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


def test_labels_of_yolo_mean_what_their_names_say_now(tmp_path: Path) -> None:
    file = tmp_path / "labels" / "a.txt"
    file.parent.mkdir()
    file.write_text("0 0.1 0.1 0.5 0.1 0.5 0.6\n")
    (tmp_path / "data.yaml").write_text("names: [pore, grain]\n")
    assert read_annotations(file)[0].shapes[0].label == "pore"
    (tmp_path / "data.yaml").write_text("names: [crack, pore, grain]\n")
    assert read_annotations(file)[0].shapes[0].label == "crack"


def test_names_of_yolo_that_contradict_each_other_are_refused_or_told(tmp_path: Path) -> None:
    file = tmp_path / "labels" / "a.txt"
    file.parent.mkdir()
    file.write_text("0 0.1 0.1 0.5 0.1 0.5 0.6\n")
    (tmp_path / "data.yaml").write_text("names: [pore, grain]\n")
    (tmp_path / "classes.txt").write_text("pore\ngrain\ncrack\n")
    assert read_annotations(file)[0].notes == ()
    (tmp_path / "classes.txt").write_text("crack\ngrain\npore\n")
    with pytest.raises(AnnotationError, match=r"classes.txt: calls number 0 'crack', and data.ya"):
        read_annotations(file)
    (tmp_path / "classes.txt").rename(file.with_name("classes.txt"))
    (one,) = read_annotations(file)
    assert one.shapes[0].label == "crack"
    assert "is 'crack' by the nearest names, which count, and 'pore' by others" in one.notes[0]


@pytest.mark.parametrize("yaml", ["", "kpt_shape: [3, 2]\n"])
def test_poses_of_yolo_are_no_polygons(tmp_path: Path, yaml: str) -> None:
    numbers = "0.5 0.5 0.4 0.4 0.4 0.4 0.6 0.4 0.5 0.6"
    if not yaml:
        numbers = "0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.4 2 0.5 0.6 1 0 0 0"
    (tmp_path / "data.yaml").write_text(yaml + "names: [pore]\n")
    (tmp_path / "a.txt").write_text(f"0 {numbers}\n")
    with pytest.raises(AnnotationError, match="pose"):
        read_annotations(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "names",
    [
        "names:\n  0: matrix\n\n  # precipitates\n  1: 'large, dense'\n  2: \"no\"\n",
        "names:\n- matrix\n# precipitates\n- large, dense\n- no\nnc: 3\n",
        "names: [matrix, 'large, dense',\n  no]\n",
        "names: {0: matrix, 2: no, '1': 'large, dense'}\n",
    ],
)
def test_yolo_takes_the_names_of_a_data_yaml_as_yaml_has_them(tmp_path: Path, names: str) -> None:
    (tmp_path / "data.yaml").write_text(names)
    polygon = " 0.1 0.1 0.5 0.1 0.5 0.6\n"
    (tmp_path / "a.txt").write_text("".join(f"{n}{polygon}" for n in (2, 1, 0, 3)))
    labels = [shape.label for shape in read_annotations(tmp_path / "a.txt")[0].shapes]
    assert labels == ["no", "large, dense", "matrix", "category 3"]


@pytest.mark.parametrize("names", ["names: 5\n", "names:\n  a: b\n", "names: [a\n", "names: [[a]]"])
def test_names_that_are_not_understood_are_named_and_not_guessed(
    tmp_path: Path, names: str
) -> None:
    (tmp_path / "data.yaml").write_text(names)
    (tmp_path / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.6\n")
    with pytest.raises(AnnotationError, match=r"data.yaml: (is no YAML|says names)"):
        read_annotations(tmp_path / "a.txt")


def test_numbers_are_class_values_where_no_file_names_them_and_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("2 0.1 0.1 0.5 0.1 0.5 0.6\n")
    (one,) = read_annotations(tmp_path / "a.txt")
    assert one.shapes[0].label == "2"
    assert "no data.yaml" in one.remarks[0]
    (tmp_path / "empty.txt").write_text("")
    assert not read_annotations(tmp_path / "empty.txt")[0].remarks


@pytest.mark.parametrize("folder", ["", "labels", "labels/train", "train/labels", "labels/train/1"])
def test_the_names_of_a_set_are_found_where_the_set_begins(tmp_path: Path, folder: str) -> None:
    (tmp_path / "data.yaml").write_text("names: [pore, matrix]\n")
    file = tmp_path / folder / "a.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("0 0.1 0.1 0.5 0.1 0.5 0.6\n")
    (one,) = read_annotations(file)
    assert (one.shapes[0].label, one.remarks) == ("pore", ())


@pytest.mark.parametrize("key", ["names: *l9", "names: [pore]\nkpt_shape: [*l9, 2]"])
def test_lists_of_lists_of_lists_take_no_time(tmp_path: Path, key: str) -> None:
    lists = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10)]
    text = "\n".join(["l0: &l0 [x, x, x, x, x, x, x, x, x]", *lists, key, ""])
    (tmp_path / "data.yaml").write_text(text)
    (tmp_path / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    if key.startswith("names: *"):
        with pytest.raises(AnnotationError, match="lists or tables in it"):
            read_annotations(tmp_path / "a.txt")
    else:
        assert read_annotations(tmp_path / "a.txt")[0].shapes[0].label == "pore"
