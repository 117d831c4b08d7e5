"""Which image an annotation file labels, by its own name or by the name that stands inside."""

import json
from pathlib import Path

import numpy as np
import roifile
import tifffile
from PIL import Image

from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.pair_shapes import annotation_for, pair_shapes
from emcfsys_engine.images.reader import find_images


def put(folder: Path, image: str, labelme: dict[str, str]) -> None:
    """Write an image, and Labelme files: file name -> name of the image inside it."""
    Image.new("L", (20, 10)).save(folder / image)
    for file, inside in labelme.items():
        shape = {"label": "grain", "points": [[1, 1], [8, 8]], "shape_type": "rectangle"}
        document = {"imagePath": inside, "imageHeight": 10, "imageWidth": 20, "shapes": [shape]}
        (folder / file).write_text(json.dumps(document))


def pairs_in(folder: Path) -> tuple[dict[str, str], list[str]]:
    found = find_annotations(".", folder, [], [])
    pairs = pair_shapes(find_images(".", folder), folder, found, folder)
    by_name = {ref.path.name: place[0].name for ref, place in pairs.of_image.items()}
    return by_name, [place[0].name for place in pairs.without_image]


def test_the_files_own_name_goes_before_the_name_inside(tmp_path: Path) -> None:
    put(tmp_path, "a.png", {"a.json": "b.png"})
    put(tmp_path, "b.png", {})
    assert pairs_in(tmp_path) == ({"a.png": "a.json"}, [])


def test_a_file_that_says_inside_it_is_of_another_labelled_image_is_told(tmp_path: Path) -> None:
    """A copy of a Labelme file is drawn on the image inside: its labels were taken for others'."""
    put(tmp_path, "a.png", {"a.json": "..\\b.png"})
    put(tmp_path, "b.png", {"b.json": "b.png"})
    put(tmp_path, "c.png", {"c.json": "of_old.png"})  # renamed with its file
    found = find_annotations(".", tmp_path, [], [])
    pairs = pair_shapes(find_images(".", tmp_path), tmp_path, found, tmp_path)
    (note,) = pairs.notes
    assert "a.json is taken for a.png, but says inside b.png: where it was drawn" in note


def test_a_file_that_was_given_another_images_name_is_told(tmp_path: Path) -> None:
    put(tmp_path, "a.png", {"a.json": "b.png"})
    put(tmp_path, "b.png", {})  # the file was b.json
    found = find_annotations(".", tmp_path, [], [])
    (note,) = pair_shapes(find_images(".", tmp_path), tmp_path, found, tmp_path).notes
    assert "a.json is taken for a.png, but says inside b.png: where it was drawn" in note


def test_a_file_under_another_name_is_paired_by_the_name_inside(tmp_path: Path) -> None:
    put(tmp_path, "a.png", {"today.json": "C:\\\\data\\\\a.png"})
    assert pairs_in(tmp_path) == ({"a.png": "today.json"}, [])


def test_a_file_of_no_image_is_said_to_be(tmp_path: Path) -> None:
    put(tmp_path, "a.png", {"z.json": "z.png"})
    assert pairs_in(tmp_path) == ({}, ["z.json"])


def test_what_a_file_says_of_its_image_is_read_again(tmp_path: Path) -> None:
    put(tmp_path, "a.png", {"a.json": "a.png"})
    (ref,) = find_images(".", tmp_path)
    said = annotation_for((tmp_path / "a.json", 0), ref)
    assert [shape.label for shape in said.shapes] == ["grain"]


def test_labels_of_a_stack_or_image_that_is_gone_are_not_its_namesakes(tmp_path: Path) -> None:
    square = np.array([[2, 2], [8, 2], [8, 8]], np.float32)
    for day in ("day1", "day2", "day3"):
        (tmp_path / day).mkdir()
        put(tmp_path / day, "a.png", {})
        stack = np.zeros((4, 10, 20), np.uint8)
        tifffile.imwrite(tmp_path / day / "s.tif", stack, photometric="minisblack")
        if day != "day2":
            put(tmp_path / day, "a.png", {"a.json": "a.png"})
            roi = roifile.ImagejRoi.frompoints(square, name="grain", position=2)
            roifile.roiwrite(tmp_path / day / "s.zip", [roi], mode="w")
    for gone in ("a.png", "s.tif"):
        (tmp_path / "day3" / gone).unlink()
    found = find_annotations(".", tmp_path, [], [])
    pairs = pair_shapes(find_images(".", tmp_path), tmp_path, found, tmp_path)
    assert {(ref.path.parent.name, ref.path.name) for ref in pairs.of_image} == {
        ("day1", "a.png"),
        ("day1", "s.tif"),
    }
    told = {f"{place[0].parent.name}/{place[0].name}" for place in pairs.without_image}
    assert told == {"day3/a.json", "day3/s.zip"}


def test_an_image_whose_file_had_another_length_when_it_was_drawn_on_is_told(
    tmp_path: Path,
) -> None:
    """VIA does not say the size in pixels: a larger image in its place went without a word."""
    for name in ("a.png", "b.png"):
        Image.new("L", (20, 20)).save(tmp_path / name)
    entries = {}
    for name, more in (("a.png", 1), ("b.png", 0), ("c.png", 5)):
        known = tmp_path / name if (tmp_path / name).exists() else tmp_path / "a.png"
        size = known.stat().st_size + more
        entries[name] = {"filename": name, "size": size, "regions": [], "file_attributes": {}}
    file = tmp_path / "via.json"
    file.write_text(json.dumps({"_via_img_metadata": entries}))
    found = find_annotations(".", tmp_path, [], [])
    pairs = pair_shapes(find_images(".", tmp_path), tmp_path, found, tmp_path)
    (note,) = pairs.notes
    assert note.startswith(f"{file} was drawn on a.png when it had ")
    assert "b.png" not in note
    assert "c.png" not in note
