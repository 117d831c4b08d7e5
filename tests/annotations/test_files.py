"""Names inside annotation files: what no disk can hold is said in a line, and the rest is read."""

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.annotations.draw import annotation_ids
from emcfsys_engine.annotations.files import find_annotations, read_annotations
from emcfsys_engine.annotations.masks import table_of
from emcfsys_engine.cli import cli
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.tools.convert.conversion import convert_labels
from tests.annotations.test_law_of_shapes import WRITERS, Box
from tests.thorough import tries

TABLE = table_of({"background": 0, "pore": 1}, {"mask": "pore"})
RING = [[5, 5], [25, 5], [25, 25], [5, 25]]


def coco(name: str) -> Any:
    flat = [value for point in RING for value in point]
    images = [
        {"id": n, "file_name": one, "width": 64, "height": 48}
        for n, one in enumerate((name, "b.png"))
    ]
    objects = [{"id": n, "image_id": n, "category_id": 1, "segmentation": [flat]} for n in (0, 1)]
    return {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "pore"}]}


def via(name: str) -> Any:
    xs, ys = ([point[axis] for point in RING] for axis in (0, 1))
    shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    region = {"shape_attributes": shape, "region_attributes": {"label": "pore"}}
    return {f"{one}1": {"filename": one, "size": 1, "regions": [region]} for one in (name, "b.png")}


def label_studio(name: str) -> Any:
    value = {"points": [[10, 10], [50, 10], [50, 50]], "polygonlabels": ["pore"]}
    size = {"original_width": 64, "original_height": 48}
    result = [{"id": "r", "type": "polygonlabels", "value": value, **size}]
    return [
        {"data": {"image": one}, "annotations": [{"result": result}]} for one in (name, "b.png")
    ]


NAMES = {
    "nul": "a\0b.png",
    "long": "x" * 400 + ".png",
    "half": "\ud83d.png",
}


@pytest.mark.parametrize("document", [coco, via, label_studio])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_image_that_no_file_can_be_is_refused_in_a_line_and_the_rest_is_read(
    document: Callable[[str], Any], name: str, tmp_path: Path
) -> None:
    for folder in ("ann", "images"):
        (tmp_path / folder).mkdir()
    for one in ("a.png", "b.png"):
        Image.fromarray(np.eye(48, 64, dtype=np.uint8) * 200).save(tmp_path / "images" / one)
    (tmp_path / "ann" / "f.json").write_text(json.dumps(document(name)))
    first, second = read_annotations(tmp_path / "ann" / "f.json")
    assert first.unused.startswith("names an image that no file can be called: ")
    assert len(first.unused) < 120
    assert second.image_name == "b.png"
    made = convert_labels("ann", tmp_path / "out", to="masks", images="images", base=tmp_path)
    assert [Path(one).name for one in made.written] == ["b.png"]
    assert sum("no file can be called" in note for note in made.notes) == 1
    toml = '[project]\nname = "x"\n[classes]\nbg = 0\npore = 1\n[[data]]\nimages = "images"\n'
    (tmp_path / "project.toml").write_text(f'{toml}annotations = "ann"\n')
    told = CliRunner().invoke(cli, ["check", str(tmp_path / "project.toml"), "--no-dry-run"])
    assert isinstance(told.exception, SystemExit)
    assert sum("no file can be called" in line for line in told.output.splitlines()) == 1


def test_a_file_of_one_image_is_used_by_its_own_name_where_the_name_inside_is_impossible(
    tmp_path: Path,
) -> None:
    shape = {"label": "pore", "points": RING, "shape_type": "polygon"}
    document = {"imagePath": "a\0.png", "imageData": None, "imageHeight": 48, "imageWidth": 64}
    (tmp_path / "a.json").write_text(json.dumps({**document, "version": "5", "shapes": [shape]}))
    (one,) = read_annotations(tmp_path / "a.json")
    assert (one.image_name, one.unused) == ("", "")
    assert any("no file can be called" in remark for remark in one.remarks)


@pytest.mark.parametrize("to", ["labelme", "coco", "geojson", "imagej"])
def test_labels_of_images_whose_names_are_no_text_go_out_and_come_back(
    to: str, tmp_path: Path
) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[5:20, 9:30] = 1
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / os.fsdecode(b"a\xe9.png")
        Image.fromarray(mask).save(file)
    classes = {"background": 0, "pore": 1}
    options: dict[str, Any] = {"images": "images", "classes": classes, "base": tmp_path}
    convert_labels("masks", tmp_path / "out", to=to, **options)  # type: ignore[arg-type]
    convert_labels("out", tmp_path / "back", to="masks", **options)
    (made,) = (tmp_path / "back").glob("*.png")
    assert os.fsencode(made.name) == b"a\xe9.png"
    with Image.open(made) as back:
        assert np.array_equal(np.asarray(back), mask)


def _harmed(whole: bytes, seed: int) -> bytes:
    """Return a file with bytes, words or whole pieces that are not its own."""
    draw = random.Random(seed)
    words = (b"null", b"1e999", b"-1", b'"x"', b"[]", b"{}", b"NaN", b"\xff\xfe", b"9" * 400)
    data = bytearray(whole)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) or 1)
        match draw.randrange(4):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                data[at : at + draw.randrange(1, 12)] = draw.choice(words)
            case 2:
                del data[at : at + draw.randrange(1, 200)]
            case _:
                data[at:at] = data[at : at + draw.randrange(1, 100)]
    return bytes(data)


def _fuzz(folder: Path, number: int) -> None:
    boxes = [Box(8, 8, 12, 10, 30), Box(30, 20, 20, 12, broken=True), Box(12, 24, 9, 9)]
    for write in WRITERS:
        file = write(boxes, folder / f"{write.__name__}.json")
        whole = file.read_bytes()
        for seed in range(number):
            harmed = file.with_stem(f"{file.stem}{seed}")
            harmed.write_bytes(_harmed(whole, seed))
            began = time.process_time()
            try:
                for one in read_annotations(harmed):
                    annotation_ids(one, TABLE, (48, 64))
            except AnnotationError as refused:
                assert "\n" not in str(refused)
            assert time.process_time() - began < 5
            harmed.unlink()


def test_harmed_annotations_of_every_format_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    _fuzz(tmp_path, 40)


@pytest.mark.long
def test_thousands_of_harmed_annotations_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    _fuzz(tmp_path, tries(400, 1500))


@pytest.mark.parametrize("pattern", [".", "*.json", "a.json"])
def test_annotations_behind_a_link_that_leads_nowhere_are_a_fault(
    tmp_path: Path, pattern: str
) -> None:
    """They were left out without a word, and their images taken for unlabelled."""
    (tmp_path / "a.json").symlink_to(tmp_path / "away" / "a.json")
    faults: list[InputError] = []
    assert find_annotations(pattern, tmp_path, faults, []) == {}
    assert [str(fault) for fault in faults] == [
        f"{tmp_path}/a.json: cannot be opened (No such file or directory)."
    ]
