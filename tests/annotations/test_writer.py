"""Labels of one image after another, in each format."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.masks import table_of
from emcfsys_engine.annotations.writer import LabelFormat, LabelWriter, write_png
from tests.annotations.painted import rasterise

CLASSES = {"background": 0, "grain": 1}


def two_squares() -> np.ndarray:
    ids = np.zeros((30, 40), np.uint8)
    ids[3:13, 4:14] = 1
    ids[3:13, 14:30] = 1  # touches the first
    return ids


@pytest.mark.parametrize("to", ["labelme", "geojson", "imagej", "coco"])
def test_outlines_paint_the_mask_that_they_were_drawn_from(to: LabelFormat, tmp_path: Path) -> None:
    ids = two_squares()
    writer = LabelWriter(out=tmp_path, to=to, classes=CLASSES, background=0)
    writer.write("sub/a", ids, image=tmp_path / "a.png", plane=None)
    writer.finish()
    (said,) = read_annotations(writer.file_of("sub/a"))
    assert np.array_equal(
        rasterise([(one, 1) for one in said.shapes], ids.shape, background=0) > 0, ids > 0
    )


def test_numbered_objects_that_touch_have_an_outline_each(tmp_path: Path) -> None:
    ids = two_squares()
    numbers = ids.astype(np.int32)
    numbers[:, 14:][ids[:, 14:] > 0] = 2
    writer = LabelWriter(out=tmp_path, to="labelme", classes=CLASSES, background=0)
    writer.write("a", ids, image=None, plane=None, numbers=numbers)
    shapes = json.loads((tmp_path / "a.json").read_text())["shapes"]
    assert [shape["label"] for shape in shapes] == ["grain", "grain"]


def test_what_is_unlabelled_never_goes_by_the_name_of_a_class(tmp_path: Path) -> None:
    ids = two_squares()
    ids[20:25] = 255
    for classes, word in ((CLASSES, "__ignore__"), ({"bg": 0, "__ignore__": 1}, "ignore")):
        writer = LabelWriter(out=tmp_path, to="labelme", classes=classes, background=0)
        writer.write(word, ids, image=None, plane=None)
        shapes = json.loads((tmp_path / f"{word}.json").read_text())["shapes"]
        (low,) = (one for one in shapes if min(y for _, y in one["points"]) > 15)
        assert low["label"] == word
        assert table_of(classes, {}).of_name(word) == 255


def test_coco_without_an_image_leaves_no_file(tmp_path: Path) -> None:
    writer = LabelWriter(out=tmp_path, to="coco", classes=CLASSES, background=0)
    assert not writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_mask_is_written_as_it_is(tmp_path: Path) -> None:
    write_png(tmp_path / "sub" / "a.png", two_squares())
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sub" / "a.png")), two_squares())
