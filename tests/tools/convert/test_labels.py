"""Annotations are converted with their own classes, each for its image."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.tools.convert.conversion import convert_labels


def test_classes_are_found_when_none_are_given(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "annotation-formats/labelme/semantic_segmentation/data_annotated"
    done = convert_labels(str(file), tmp_path, to="masks")
    assert done.classes == {"background": 0, "bottle": 1, "bus": 2, "car": 3, "person": 4}
    assert len(done.written) == 2


def _stencil(file: Path, rows: slice) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((64, 64), np.uint8)
    mask[rows] = 255
    Image.fromarray(mask).save(file)


def _labels(file: Path) -> list[str]:
    return [shape["label"] for shape in json.loads(file.read_text())["shapes"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images; their pores and grains in masks of 0 and 255, in one folder each."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.fromarray(noise).save(tmp_path / "images" / f"{name}.png")
        _stencil(tmp_path / "masks" / "pore" / f"{name}.png", slice(0, 20))
        _stencil(tmp_path / "masks" / "grain" / f"{name}.png", slice(10, 40))
    return tmp_path


@pytest.mark.parametrize("classes", [None, {"resin": 0, "pore": 3}])
def test_masks_of_0_and_255_are_two_classes_and_none_of_it_unlabelled(
    folder: Path, classes: dict[str, int] | None
) -> None:
    made = convert_labels(
        "masks/pore", folder / "o", to="labelme", images="images", base=folder, classes=classes
    )
    name = "pore" if classes else "object"
    assert list(made.classes) == [next(iter(made.classes)), name]
    assert _labels(folder / "o" / "a.json") == [name]


@pytest.mark.parametrize("images", ["images", None])
def test_one_folder_of_masks_a_class_becomes_one_file_an_image(
    folder: Path, images: str | None
) -> None:
    made = convert_labels("masks", folder / "o", to="masks", images=images, base=folder)
    assert made.classes == {"background": 0, "grain": 1, "pore": 2}
    assert sorted(file.name for file in (folder / "o").glob("*.png")) == ["a.png", "b.png"]
    ids = np.asarray(Image.open(folder / "o" / "a.png"))
    assert [int(ids[row, 0]) for row in (5, 15, 30, 50)] == [2, 2, 1, 0]


def test_a_folder_that_is_no_class_is_said_and_the_others_are_converted(folder: Path) -> None:
    classes = {"background": 0, "pore": 1}
    made = convert_labels(
        "masks", folder / "o", to="masks", images="images", base=folder, classes=classes
    )
    assert [one.why for one in made.skipped if 'label "grain" is no class' in one.why]
    assert set(np.unique(np.asarray(Image.open(folder / "o" / "a.png")))) == {0, 1}
