"""`new` finds what lies in a folder, proposes the classes, and overwrites nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.dataset.samples import gather, read_labels
from emcfsys_engine.errors import InputError, ProjectError
from emcfsys_engine.project import load_project
from emcfsys_engine.tools import new_project
from emcfsys_engine.tools.demo import make_demo
from emcfsys_engine.tools.new_project import look_into, make_project


def _picture(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


def test_masks_beside_the_images_become_classes_by_value(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    _picture(tmp_path / "images" / "a.png", rng.integers(0, 255, (40, 40)))
    _picture(tmp_path / "masks" / "a.png", rng.choice([0, 2, 5, 255], (40, 40)))
    project = load_project(make_project(tmp_path).file)
    assert project.classes == {"background": 0, "class_2": 2, "class_5": 5}
    assert project.data[0].masks == "masks"


def test_masks_of_0_and_255_become_two_classes(tmp_path: Path) -> None:
    _picture(tmp_path / "images" / "a.png", np.zeros((40, 40)))
    _picture(tmp_path / "labels" / "a.png", np.eye(40) * 255)
    assert load_project(make_project(tmp_path).file).classes == {"background": 0, "object": 1}


def test_labelme_files_become_classes_by_name(tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", num_train=2, num_val=1)
    (tmp_path / "demo" / "project.toml").unlink()
    made = make_project(tmp_path / "demo", "cells")
    project = load_project(made.file)
    assert list(project.classes) == ["background", "membrane", "mitochondrion"]
    assert project.name == "cells"


def test_of_images_without_labels_a_project_is_made_that_waits_for_what_labelme_saves(
    tmp_path: Path,
) -> None:
    _picture(tmp_path / "a.png", np.eye(40))
    look = look_into(tmp_path, classes=("matrix", "large", "small"))
    assert [one.name for one in look.classes] == ["matrix", "large", "small"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    project = load_project(make_project(tmp_path, classes=("matrix", "large", "small")).file)
    assert project.classes == {"matrix": 0, "large": 1, "small": 2}
    assert project.training.follow
    assert (project.data[0].images, project.data[0].annotations) == (".", ".")


@pytest.mark.parametrize("names", [["alone"], ["a", "a"], ["a", ""], ["a", "ignore"], ["a"] * 300])
def test_classes_that_no_project_can_have_are_refused_before_anything_is_written(
    tmp_path: Path, names: list[str]
) -> None:
    _picture(tmp_path / "a.png", np.eye(40))
    with pytest.raises(InputError, match="--classes.*background,object"):
        make_project(tmp_path, classes=names)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_classes_are_not_named_where_labels_tell_them(tmp_path: Path) -> None:
    _drawn(tmp_path, "a", "resin")
    with pytest.raises(InputError, match="tell the classes"):
        look_into(tmp_path, classes=("a", "b"))


def test_nothing_is_overwritten_and_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no micrographs"):
        make_project(tmp_path)
    assert list(tmp_path.iterdir()) == []
    _picture(tmp_path / "a.png", np.eye(40))
    (tmp_path / "project.toml").write_text("mine")
    with pytest.raises(ProjectError, match="is there already"):
        make_project(tmp_path)
    assert (tmp_path / "project.toml").read_text() == "mine"


def test_a_project_that_came_while_new_looked_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _picture(tmp_path / "images" / "a.png", np.eye(40))
    look = new_project._proposal

    def a_colleague_is_faster(*words: Any) -> Any:
        (tmp_path / "project.toml").write_text("a colleague's")
        return look(*words)

    monkeypatch.setattr(new_project, "_proposal", a_colleague_is_faster)
    with pytest.raises(ProjectError, match="is there already"):
        make_project(tmp_path)
    assert (tmp_path / "project.toml").read_text() == "a colleague's"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("images", "labels"),
    [("imagesTr", "labelsTr"), ("JPEGImages", "SegmentationClass"), ("img (1)", "masks (1)")],
)
def test_the_folder_that_holds_all_images_is_named(
    tmp_path: Path, images: str, labels: str
) -> None:
    rng = np.random.default_rng(0)
    _picture(tmp_path / images / "a.png", rng.integers(0, 255, (40, 40)))
    _picture(tmp_path / labels / "a.png", np.eye(40))
    source = load_project(make_project(tmp_path).file).data[0]
    assert (source.images, source.masks) == (images, labels)


def test_masks_drawn_by_transparency_alone_are_said_to_have_no_background(tmp_path: Path) -> None:
    drawn = np.zeros((40, 40, 4))
    drawn[5:20, 5:20] = 255
    _picture(tmp_path / "images" / "a.png", np.zeros((40, 40)))
    _picture(tmp_path / "masks" / "a.png", drawn)
    notes = make_project(tmp_path).notes
    assert any("Save them without transparency" in note for note in notes)


def test_one_folder_of_masks_a_class_becomes_a_class_a_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        _picture(tmp_path / "images" / f"{name}.png", rng.integers(0, 255, (80, 80)))
        for number, kind in enumerate(("grain", "pore", "void")):
            mask = np.zeros((80, 80))
            mask[number * 25 : number * 25 + 20] = 255
            _picture(tmp_path / "masks" / kind / f"{name}.png", mask)
    project = load_project(make_project(tmp_path).file)
    assert project.classes == {"background": 0, "grain": 1, "pore": 2}
    assert (project.data[0].masks, project.data[0].labels) == ("masks", {"void": "ignore"})
    found = gather(project, for_training=False)
    assert (len(found.samples), found.faults) == (2, ())
    ids = read_labels(found.samples[0], project, (80, 80))
    assert [int(ids[row, 0]) for row in (5, 30, 55, 75)] == [1, 2, 255, 0]


def test_masks_of_a_split_in_folders_of_their_own_are_no_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, name in (("train", "a"), ("val", "b")):
        _picture(tmp_path / "images" / part / f"{name}.png", rng.integers(0, 255, (80, 80)))
        _picture(tmp_path / "masks" / part / f"{name}.png", np.eye(80))
    assert load_project(make_project(tmp_path).file).classes == {"background": 0, "class_1": 1}


def _shape(label: str) -> dict[str, object]:
    points = [[2, 2], [20, 2], [20, 20]]
    return {"label": label, "points": points, "shape_type": "polygon", "flags": {}}


def _drawn(folder: Path, name: str, *labels: str) -> None:
    _picture(folder / f"{name}.png", np.random.default_rng(0).integers(0, 255, (40, 40)))
    document = {
        "version": "5.4.1", "flags": {}, "shapes": [_shape(one) for one in labels],
        "imagePath": f"{name}.png", "imageData": None, "imageHeight": 40, "imageWidth": 40,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(document))


def test_a_look_tells_classes_near_duplicates_and_damaged_files_and_writes_nothing(
    tmp_path: Path,
) -> None:
    _drawn(tmp_path, "a", "mitochondrion", "mitochondrion", "resin")
    _drawn(tmp_path, "b", "mitochondria")
    _drawn(tmp_path, "c")
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.png").write_bytes(b"no picture")
    before = sorted(tmp_path.iterdir())
    look = look_into(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    found = {one.name: (one.shapes, one.images) for one in look.classes}
    assert found["mitochondrion"] == (2, 1) and found["mitochondria"] == (1, 1)
    assert look.alike == (("mitochondria", "mitochondrion"),)
    assert {Path(one.file).name for one in look.unreadable} == {"c.json", "d.png"}
    assert (look.num_images, look.num_labelled) == (4, 2)


def test_labels_that_are_merged_are_one_class_and_stay_so_in_project_toml(tmp_path: Path) -> None:
    _drawn(tmp_path, "a", "mitochondrion", "resin")
    _drawn(tmp_path, "b", "mitochondria", "resin")
    merge = {"mitochondria": "mitochondrion"}
    look = look_into(tmp_path, merge)
    found = {one.name: (one.shapes, one.images) for one in look.classes}
    assert found["mitochondrion"] == (2, 2) and "mitochondria" not in found and not look.alike
    with pytest.raises(InputError, match="nucleus"):
        look_into(tmp_path, {"nucleus": "mitochondrion"})
    project = load_project(make_project(tmp_path, merge=merge).file)
    assert dict(project.data[0].labels) == merge
    assert [one.name for one in look.classes] == list(project.classes)


def test_a_look_at_masks_tells_in_how_many_images_each_value_is(tmp_path: Path) -> None:
    for name, values in (("a", [0, 2]), ("b", [0, 2, 5])):
        _picture(tmp_path / "images" / f"{name}.png", np.zeros((40, 40)))
        pixels = np.random.default_rng(1).choice(values, (40, 40))
        _picture(tmp_path / "masks" / f"{name}.png", pixels)
    (tmp_path / "masks" / "c.png").write_bytes(b"")
    look = look_into(tmp_path)
    assert [(one.name, one.images) for one in look.classes] == [
        ("background", 2),
        ("class_2", 2),
        ("class_5", 1),
    ]
    assert [Path(one.file).name for one in look.unreadable] == ["c.png"]


def test_whoever_makes_a_project_is_told_which_labels_are_damaged_or_contradict(
    tmp_path: Path,
) -> None:
    for name, largest in (("a", 1), ("b", 255)):
        _picture(tmp_path / "images" / f"{name}.png", np.zeros((40, 40)))
        _picture(tmp_path / "masks" / f"{name}.png", np.tri(40) * largest)
    for name in "cdef":
        (tmp_path / "masks" / f"{name}.png").write_bytes(b"")
    *_, first, second, third, more = make_project(tmp_path).notes
    assert [Path(one.split(": ")[0]).name for one in (first, second, third)] == [
        "c.png",
        "d.png",
        "e.png",
    ]
    assert more.startswith("and 2 more: emcfsys-engine check ")
    (tmp_path / "project.toml").unlink()
    for name in "cdef":
        (tmp_path / "masks" / f"{name}.png").unlink()
    assert "b.png" in make_project(tmp_path).notes[-1]
