"""convert, measure and report replace only what they wrote themselves."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import InputError
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.tools.contact_sheet import contact_sheet
from emcfsys_engine.tools.convert import convert_images, convert_labels
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from emcfsys_engine.tools.report.page import write_report

CLASSES = {"resin": 0, "grain": 1}


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    mask = np.zeros((40, 50), np.uint8)
    mask[10:20, 10:30] = 1
    Image.fromarray(mask).save(folder / "a.png")
    return folder


@pytest.mark.parametrize("to", ["labelme", "masks", "coco", "geojson", "imagej"])
def test_a_conversion_overwrites_its_own_and_keeps_what_a_person_changed(
    masks: Path, tmp_path: Path, to: str
) -> None:
    out = tmp_path / "out"

    def convert() -> tuple[str, ...]:
        made = convert_labels(str(masks), out, to=to, classes=CLASSES, overwrite=True)  # type: ignore[arg-type]
        assert not made.skipped
        return made.notes

    convert()
    (file,) = (path for path in out.iterdir() if path.is_file())
    assert convert() == ()
    file.write_bytes(file.read_bytes() + b" ")
    corrected = file.read_bytes()
    for _ in range(2):
        (note,) = convert()
        assert file.read_bytes() == corrected
        assert f"{file} is not as this program wrote it, and kept" in note
        beside = file.with_name(f"{file.stem}.v2{file.suffix}")
        assert {path for path in out.iterdir() if path.is_file()} == {file, beside}


def test_a_conversion_into_the_folder_of_its_images_keeps_them(masks: Path, tmp_path: Path) -> None:
    originals = {path.name: path.read_bytes() for path in masks.iterdir()}
    (tmp_path / "link").symlink_to(masks)
    os.link(masks / "a.png", masks / "b.png")
    originals["b.png"] = originals["a.png"]
    for out in (masks, tmp_path / "link"):
        convert_images(str(masks), out, overwrite=True)
        convert_labels(str(masks), out, to="masks", classes=CLASSES, overwrite=True)
        for name, content in originals.items():
            assert (masks / name).read_bytes() == content


def test_tables_that_are_not_ours_are_kept(masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "numbers"
    out.mkdir()
    (out / "objects.csv").write_text("mine")
    for _ in range(2):
        made = measure_masks(str(masks), out, MeasureSettings(classes=CLASSES))
        assert (out / "objects.csv").read_text() == "mine"
        assert made.objects_file == str(out / "objects.v2.csv")
        assert "objects.v2.csv: the file beside it is not ours" in made.notes[-1]
    assert not list(out.glob("*.v3.*"))


def test_a_report_replaces_an_older_report_and_nothing_else(tmp_path: Path) -> None:
    run = new_run(tmp_path, PredictRequest(model="m", inputs=("/in",), out=str(tmp_path)))
    page = tmp_path / "page.html"
    for _ in range(2):
        assert write_report(run, page) == page
        assert write_report(run).name == "report.html"
    notes = tmp_path / "notes.html"
    notes.write_text("mine")
    page.write_text(json.dumps("changed"))
    for file in (notes, page):
        before = file.read_text()
        with pytest.raises(InputError, match="is not as this program wrote it"):
            write_report(run, file)
        assert file.read_text() == before


def test_a_contact_sheet_replaces_an_older_one_and_no_image(masks: Path, tmp_path: Path) -> None:
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\nresin = 0\ngrain = 1\n'
        '[[data]]\nimages = "masks"\nmasks = "masks"\n'
    )
    project, sheet = load_project(tmp_path), tmp_path / "look.png"
    for _ in range(2):
        contact_sheet(project, sheet)
    original = (masks / "a.png").read_bytes()
    with pytest.raises(InputError, match="is not as this program wrote it"):
        contact_sheet(project, masks / "a.png")
    assert (masks / "a.png").read_bytes() == original
