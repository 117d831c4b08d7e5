"""Folders of public bug reports: `new` finds the layout, `check` counts alike, words are true."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.cli import cli
from emcfsys_engine.data_counts import recall_counts
from emcfsys_engine.images.output_names import fitting
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.check import CheckReport, check_project
from emcfsys_engine.tools.inspect_file import inspect_file
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from emcfsys_engine.tools.new_project import make_project
from emcfsys_tui.engine.projects import count_images


def copied(shared_data: Path, name: str, to: Path) -> Path:
    source = shared_data / "reported" / name
    if not source.exists():
        pytest.skip(f"the reported inputs are not here ({source})")
    shutil.copytree(source, to / "p", ignore=shutil.ignore_patterns("project.toml"))
    return to / "p"


def new_and_check(folder: Path) -> tuple[tuple[str, ...], CheckReport]:
    notes = make_project(folder).notes
    return notes, check_project(load_project(folder))


def noise(file: Path, size: int = 96) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(file.name.encode()))
    Image.fromarray(rng.integers(0, 255, (size, size), np.uint8)).save(file)


def mask(file: Path, top: int = 1, size: int = 96) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size, size), np.uint8)
    pixels[20:50, 20:60] = top
    Image.fromarray(pixels).save(file)


def drawn(file: Path, *labels: str, kind: str = "polygon") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    shapes = [
        {"label": one, "points": [[9, 9 * n], [90, 9 * n], [90, 9 * n + 8]], "shape_type": kind}
        for n, one in enumerate(labels, start=1)
    ]
    document = {"version": "5", "shapes": shapes, "imageHeight": 96, "imageWidth": 96}
    file.write_text(json.dumps(document | {"imagePath": f"{file.stem}.png"}))


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("30_br", 4), ("30_flat", 3), ("30_hitachi_txt", 3), ("30_inst", 3), ("30_nfd", 3),
        ("30_label_outside_bmp", 3), ("30_nm_cellpose", 3), ("30_nm_ilastik", 3), ("30_voc", 3),
    ],
)  # fmt: skip
def test_new_finds_what_check_counts(
    shared_data: Path, tmp_path: Path, name: str, images: int
) -> None:
    folder = copied(shared_data, name, tmp_path)
    notes, report = new_and_check(folder)
    assert notes[0].startswith(f"{images} images in ")
    assert f"{images} with labels" in notes[0]
    assert sum(report.images.values()) == images
    errors = [one.text for one in report.errors]
    assert all("orphan.png: belongs to no image" in text for text in errors)
    assert len(errors) == (name == "30_br")


def test_the_project_list_counts_what_check_counts(tmp_path: Path) -> None:
    for number in range(3):
        noise(tmp_path / f"s{number}.png")
        mask(tmp_path / f"s{number}_mask.png", 255)
    make_project(tmp_path)
    project = load_project(tmp_path)
    assert count_images(project) == (3, 3)
    noise(tmp_path / "later.png")
    os.utime(tmp_path, ns=(1, 1))  # a folder's time can be coarse
    assert recall_counts(project) is None
    report = check_project(project)
    assert count_images(project) == (4, sum(report.images.values())) == (4, 3)


def test_numbered_masks_and_palettes_are_understood(shared_data: Path, tmp_path: Path) -> None:
    numbered = copied(shared_data, "30_inst", tmp_path / "a")
    notes, _ = new_and_check(numbered)
    assert "numbered objects of one class" in notes[1]
    assert load_project(numbered).data[0].labels == {"1-899": "object"}
    palettes = copied(shared_data, "30_voc", tmp_path / "b")
    new_and_check(palettes)
    assert load_project(palettes).classes == {"background": 0, "class_1": 1, "class_2": 2}


def test_ignore_is_no_class_and_background_is_the_background(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = copied(shared_data, "30_ignore_label", tmp_path)
    new_and_check(folder)
    assert load_project(folder).classes == {"background": 0, "pore": 1}


@pytest.mark.parametrize(
    "pattern",
    ["{}_mask", "{}_masks", "{}_seg", "{}_label", "{}_gt", "{}_cp_masks", "{}_msk",
     "{}_Simple Segmentation", "mask_{}", "labels/{}", "Masks/{}"],
)  # fmt: skip
def test_masks_as_people_name_them_pair(tmp_path: Path, pattern: str) -> None:
    for number in range(3):
        noise(tmp_path / f"s{number}.png")
        mask(tmp_path / f"{pattern.format(f's{number}')}.png", 255)
    notes, report = new_and_check(tmp_path)
    assert notes[0].startswith("3 images in ., 3 with labels (masks in ")
    assert sum(report.images.values()) == 3
    assert not report.errors


def test_annotations_beside_images_are_found_in_any_order(tmp_path: Path) -> None:
    for number in range(230):  # the labelled ones come last
        noise(tmp_path / f"a{number:03d}.png", 16)
    drawn(tmp_path / "a228.json", "pore")
    drawn(tmp_path / "a229.json", "grain")
    notes, _ = make_project(tmp_path).notes, None
    assert notes[0] == "230 images in ., 2 with labels (annotations in .)"
    assert set(load_project(tmp_path).classes) == {"background", "pore", "grain"}


def test_colours_and_16_bits_are_described_and_read(tmp_path: Path) -> None:
    for name in ("rgb", "deep"):
        noise(tmp_path / name / "images" / "a.png")
        noise(tmp_path / name / "images" / "b.png")
    colours = np.zeros((96, 96, 3), np.uint8)
    colours[:40, :40], colours[50:, 50:] = (255, 0, 0), (0, 0, 255)
    deep = np.zeros((96, 96), np.uint16)
    deep[:40] = 65535
    for stem in ("a", "b"):
        for name in ("rgb", "deep"):
            (tmp_path / name / "masks").mkdir(exist_ok=True)
        Image.fromarray(colours).save(tmp_path / "rgb" / "masks" / f"{stem}.png")
        tifffile.imwrite(tmp_path / "deep" / "masks" / f"{stem}.tif", deep)
    notes, report = new_and_check(tmp_path / "rgb")
    assert "3 colours" in notes[1]
    assert not report.errors
    notes, report = new_and_check(tmp_path / "deep")
    assert "0, 65535 (16 bits)" in notes[1]
    assert not report.errors
    assert load_project(tmp_path / "deep").data[0].labels == {"65535": "object"}


def test_our_own_runs_and_predictions_are_no_data(tmp_path: Path) -> None:
    for number in range(3):
        noise(tmp_path / f"s{number}.png")
        drawn(tmp_path / f"s{number}.json", "pore")
        mask(tmp_path / "predictions" / f"s{number}.png")
        noise(tmp_path / "runs" / "run-0001" / "previews" / f"step-1-s{number}.png")
    (tmp_path / "predictions" / ".emcfsys").mkdir()
    (tmp_path / "runs" / "run-0001" / "run.json").write_text("{}")
    notes, report = new_and_check(tmp_path)
    assert notes[0] == "3 images in ., 3 with labels (annotations in .)"
    assert sum(report.images.values()) == 3


def test_any_label_is_valid_toml_and_near_duplicates_are_named(tmp_path: Path) -> None:
    labels = (
        '😀 "x"\\',
        "tab\there\x7f",
        "a.b",
        "mitochondria",
        "mitochondrion",
        "phase1",
        "phase2",
    )
    noise(tmp_path / "images" / "a.png")
    drawn(tmp_path / "annotations" / "a.json", *labels)
    notes = make_project(tmp_path, 'my "own" 😀').notes
    project = load_project(tmp_path)
    assert set(project.classes) == {"background", *labels}
    assert project.name == 'my "own" 😀'
    (alike,) = [note for note in notes if "may be one class" in note]
    assert '"mitochondria" and "mitochondrion"' in alike


def test_scribbles_are_proposed_to_teach_only_what_they_cover(tmp_path: Path) -> None:
    for number in range(2):
        noise(tmp_path / "images" / f"{number}.png")
        drawn(tmp_path / "annotations" / f"{number}.json", "pore", "matrix", kind="linestrip")
    notes, report = new_and_check(tmp_path)
    assert load_project(tmp_path).data[0].undrawn == "ignore"
    assert any("only what is drawn teaches" in note for note in notes)
    assert not report.errors
    for file in (tmp_path / "annotations").iterdir():
        drawn(file, "pore")  # a polygon of one class on the rest: the usual way to annotate
    (tmp_path / "project.toml").unlink()
    make_project(tmp_path)
    assert load_project(tmp_path).data[0].undrawn == "background"


def test_check_proposes_what_would_pair(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        noise(tmp_path / "images" / f"{stem}.png")
        mask(tmp_path / "masks" / "final" / f"{stem}_mask.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "x"\n[classes]\nbg = 0\npore = 1\n'
        '[[data]]\nimages = "images"\nmasks = "empty"\n'
    )
    (error,) = check_project(load_project(tmp_path)).errors
    assert 'These would pair 2 of 2 images: images = "images" and masks = "masks"' in error.text


def test_numbered_objects_stay_objects_in_measure_and_convert(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "reported" / "41_measure_instances"
    if not folder.exists():
        pytest.skip(f"the reported inputs are not here ({folder})")
    run = CliRunner().invoke
    words = ["measure", str(folder / "m"), "--project", str(folder), "--out", str(tmp_path / "o")]
    assert "400 objects in 1 mask" in run(cli, words).output
    many = str(shared_data / "reported" / "instances_1156.tif")
    assert "1,156 objects" in run(cli, ["measure", many, "--out", str(tmp_path / "n")]).output
    for to, name in (("coco", "annotations.json"), ("imagej", "instances_1156.zip")):
        words = ["convert", many, "--to", to, "--label", "1-1156=grain", "--out", str(tmp_path)]
        assert run(cli, words).exit_code == 0
        assert inspect_file(tmp_path / name).labels == {"grain": 1156}


def test_smoothed_masks_are_not_numbered_objects_to_measure(tmp_path: Path) -> None:
    noise(tmp_path / "images" / "a.png")
    mask(tmp_path / "a.png", 255)
    (tmp_path / "masks").mkdir()
    Image.open(tmp_path / "a.png").save(tmp_path / "masks" / "a.jpg", quality=75)
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "x"\n[classes]\nbg = 0\npore = 1\n[[data]]\nimages = "images"\n'
        'masks = "masks"\n[data.labels]\n"0-127" = "bg"\n"128-255" = "pore"\n'
    )
    words = ["measure", str(tmp_path / "masks"), "--project", str(tmp_path)]
    output = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "o")]).output
    assert "1 object in 1 mask" in output


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("02_coco_silently_lost", "1 of 6 shapes are not drawn"),
        ("02_coco_silently_lost", "object 6 (pore) is of image 9, which the file does not list"),
        ("12_labelme_size_disagrees", "is 128 × 96 pixels, but its image img.png is 64 × 48"),
        ("13_geojson_null_geometry", "feature 2 (Tumor) has no geometry"),
        ("30_br", "orphan.png: belongs to no image of 'set [2024]'"),
        ("30_flat", 'would pair 3 of 3 images: images = "." and masks = "."'),
        ("30_ignore_label", 'class "__ignore__" is what Labelme calls pixels that nobody labelled'),
        ("30_inst", 'Map them by a range under [data.labels], as in "1-899"'),
        ("30_label_outside_bmp", "is no valid TOML"),
        ("30_voc", "value 2 is no class (3,122 px)"),
        ("41_measure_instances", "no image is for validation"),
    ],
)
def test_check_on_a_broken_project_names_the_fault_that_a_person_would_name(
    shared_data: Path, tmp_path: Path, name: str, words: str
) -> None:
    folder = tmp_path / name
    shutil.copytree(shared_data / "reported" / name, folder)
    if not (folder / "project.toml").exists():
        make_project(folder)
    told = CliRunner().invoke(cli, ["check", str(folder), "--no-dry-run"])
    # What is raised is printed by main() as one line.
    said = [*told.output.splitlines(), *str(told.exception).splitlines()]
    assert sum(words in line for line in said) >= 1, said
    assert all("Traceback" not in line for line in said)


@pytest.mark.parametrize("stem", ["晶" * 80, "L" * 251])
def test_a_mask_whose_name_was_cut_to_fit_is_measured_with_its_image(
    tmp_path: Path, stem: str
) -> None:
    noise(tmp_path / "images" / f"{stem}.png")
    mask(tmp_path / "masks" / f"{fitting(stem, '')}.png")
    images, masks = str(tmp_path / "images"), str(tmp_path / "masks")
    made = measure_masks(masks, tmp_path / "out", MeasureSettings(), images=images)
    assert not made.failed
