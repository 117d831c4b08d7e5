"""Labelme: drawn as it draws, and back again."""

import errno
import json
import os
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.annotations.draw import mask_of, shapes_of
from emcfsys_engine.annotations.files import find_annotations, read_annotations
from emcfsys_engine.annotations.formats import labelme
from emcfsys_engine.annotations.formats.labelme import (
    model_of,
    untouched,
    waiting_suggestions,
    write_labelme,
)
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.project_tables import Source
from tests.annotations.formats.made import formats
from tests.annotations.formats.trips import NAMES, read_back
from tests.annotations.painted import rasterise


def test_labelme_shapes_are_drawn_as_labelme_draws_them(shared_data: Path) -> None:
    folder = formats(shared_data) / "labelme" / "semantic_segmentation"
    names = (folder / "expected_voc" / "class_names.txt").read_text().split("\n")
    annotation = read_annotations(folder / "data_annotated" / "2011_000025.json")[0]
    expected = np.load(folder / "expected_voc" / "SegmentationClassNpy" / "2011_000025.npy")
    pairs = [(shape, names.index(shape.label)) for shape in annotation.shapes]
    ids = rasterise(pairs, expected.shape, background=0)
    assert np.array_equal(ids, expected)


def test_every_primitive_of_labelme_is_read(shared_data: Path) -> None:
    (one,) = read_annotations(formats(shared_data) / "labelme/primitives/primitives.json")
    assert one.format == "Labelme 5.7.0"
    assert [shape.kind for shape in one.shapes] == [
        "rectangle", "circle", "rectangle", "polygon", "line", "point", "linestrip", "bitmap",
    ]  # fmt: skip
    areas = [int(found[1].sum()) for s in one.shapes if (found := mask_of(s, (450, 560)))]
    # Rectangle 101²; circle of radius 50.8; octagon as Labelme packed it.
    assert areas[0] == 101 * 101
    assert areas[1] == pytest.approx(np.pi * 50.8**2, rel=0.02)
    assert areas[7] == 7275  # the white pixels of the PNG that Labelme put into the file


def masks(shared_data: Path) -> list[Path]:
    return sorted(shared_data.glob("*/masks/**/*.png"))


def lowest_iou(truth: np.ndarray, guess: np.ndarray) -> float:
    return min(
        float(((truth == v) & (guess == v)).sum() / ((truth == v) | (guess == v)).sum())
        for v in np.unique(truth)
    )


@pytest.mark.long
def test_every_shared_mask_survives_labelme_with_iou_099(shared_data: Path, tmp_path: Path) -> None:
    found = masks(shared_data)
    assert len(found) >= 39
    # The largest masks cost a second each: every third of them, and every small one.
    for number, path in enumerate(found):
        ids = np.array(Image.open(path))
        if ids.size > 1_000_000 and number % 3:
            continue
        shapes = shapes_of(ids, NAMES, background=0)
        file = tmp_path / "x.json"
        write_labelme(file, shapes, ids.shape, tmp_path / "x.png")
        assert lowest_iou(ids, read_back(file, ids.shape)) >= 0.99, path


def test_a_labelme_file_of_ours_names_its_image_and_size(tmp_path: Path) -> None:
    ids = np.zeros((5, 7), np.uint8)
    ids[1:3, 2:5] = 1
    (tmp_path / "labels").mkdir()
    file = tmp_path / "labels" / "a.json"
    write_labelme(file, shapes_of(ids, NAMES, background=0), (5, 7), tmp_path / "images" / "a.png")
    document = json.loads(file.read_text())
    assert document["imagePath"] == "../images/a.png"
    assert (document["imageHeight"], document["imageWidth"]) == (5, 7)
    assert (
        document["shapes"][0]["points"] == [[2, 1], [4, 1], [4, 2], [2, 2]]
        or len(document["shapes"][0]["points"]) == 4
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A suggestion, and a file that a person drew."""
    ids = np.zeros((20, 30), np.uint8)
    ids[5:15, 5:20] = 1
    shapes = shapes_of(ids, {1: "grain"}, background=0)
    by = {"model": "run-0001", "score": 0.9}
    write_labelme(tmp_path / "a.json", shapes, (20, 30), tmp_path / "a.png", suggested_by=by)
    write_labelme(tmp_path / "b.json", shapes, (20, 30), tmp_path / "b.png")
    return tmp_path


def test_a_suggestion_says_of_which_model_it_is(folder: Path) -> None:
    said = model_of(folder / "a.json")
    assert said is not None
    assert (said.model, said.score) == ("run-0001", 0.9)
    assert model_of(folder / "b.json") is None
    assert model_of(folder / "none.json") is None


def test_a_suggestion_that_cannot_be_read_is_not_taken_for_a_persons_labels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_annotations(".", folder, [], [])

    def failing(file: Path) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))

    monkeypatch.setattr(labelme, "reading", failing)
    with pytest.raises(AnnotationError, match=r"a\.json: cannot be read: Input/output error"):
        untouched(found)


def test_what_a_person_saved_waits_no_longer_even_unchanged(folder: Path) -> None:
    source = Source(images=".", annotations=".")
    assert [file.name for file in waiting_suggestions(source, folder)] == ["a.json"]
    file = folder / "a.json"
    file.write_text(json.dumps(json.loads(file.read_text())))  # as any tool saves: other blanks
    assert untouched(find_annotations(".", folder, [], [])) == {}
    assert waiting_suggestions(source, folder) == {}
    assert waiting_suggestions(Source(images=".", masks="."), folder) == {}
