"""convert, check and inspect do what they say on real and on faulty data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.annotations.writer import LabelFormat
from emcfsys_engine.dataset.facts_cache import FactsCache
from emcfsys_engine.dataset.samples import list_samples, read_labels
from emcfsys_engine.errors import InputError
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.tools.check import check_project
from emcfsys_engine.tools.check_data import Finding
from emcfsys_engine.tools.contact_sheet import contact_sheet
from emcfsys_engine.tools.convert import convert_images, convert_labels
from emcfsys_engine.tools.inspect_file import inspect_file

CLASSES = {"matrix": 0, "large": 1, "small": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def project_at(
    folder: Path, data: str, classes: str = "matrix = 0\nlarge = 1\nsmall = 2"
) -> Project:
    (folder / "project.toml").write_text(f'[project]\nname = "t"\n[classes]\n{classes}\n{data}')
    return load_project(folder)


@pytest.mark.parametrize("to", ["labelme", "coco", "geojson", "imagej"])
def test_masks_become_annotations_and_masks_again(
    to: LabelFormat, shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "superalloy-sem"
    images, masks = str(source / "images/val"), source / "masks/val"
    there = convert_labels(str(masks), tmp_path / "there", to=to, images=images, classes=CLASSES)
    back = convert_labels(
        str(tmp_path / "there"), tmp_path / "back", to="masks", images=images, classes=CLASSES
    )
    assert (len(there.written), len(back.written)) == (4, 4)
    assert not there.skipped
    assert not back.skipped
    for mask in masks.glob("*.png"):
        truth = np.array(Image.open(mask))
        found = np.array(Image.open(tmp_path / "back" / mask.name))
        for value in CLASSES.values():
            one, other = truth == value, found == value
            assert (one & other).sum() / (one | other).sum() >= 0.99
        if to != "labelme":
            assert np.array_equal(truth, found)


def test_a_corrected_png_of_a_stack_pairs_back_to_its_plane(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "microscope-formats" / "mrc"
    done = convert_images(str(source / "*.mrc"), tmp_path / "labelme")
    assert len(done.written) == 31
    names = {Path(file).name for file in done.written}
    assert {"Custom_movie.0012.png", "HAADFscan.png"} <= names
    points = [[2, 2], [9, 2], [9, 9], [2, 9]]
    for name in ("Custom_movie.0012", "HAADFscan"):
        document = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [{"label": "large", "points": points, "shape_type": "polygon"}],
            "imagePath": f"{name}.png",
            "imageData": None,
            "imageHeight": 16,
            "imageWidth": 16,
        }
        (tmp_path / "labelme" / f"{name}.json").write_text(json.dumps(document))
    data = f'[[data]]\nimages = "{source}/*.mrc"\nannotations = "labelme"\n'
    project = project_at(tmp_path, data)
    found = list_samples(project)
    assert {str(sample.image.name) for sample in found.samples} == {
        "Custom_movie.mrc#12",
        "HAADFscan.mrc",
    }
    assert int(read_labels(found.samples[0], project, (16, 16)).sum()) == 64


def test_what_cannot_be_converted_is_counted_and_said(shared_data: Path, tmp_path: Path) -> None:
    done = convert_images(str(shared_data / "microscope-formats" / "gatan"), tmp_path)
    whys = {Path(one.file).name: one.why for one in done.skipped}
    assert whys.keys() == {
        "08_carbon_spectrum_not_an_image.dm3",
        "test_fft_packed_complex8.dm4",
    }
    assert "spectrum" in whys["08_carbon_spectrum_not_an_image.dm3"]
    # dm3 and dm4 of the same name do not overwrite each other.
    names = {Path(file).name for file in done.written}
    assert "dmTest_float32_nonSquare_diffPixelSize.dm3.png" in names
    assert "dmTest_float32_nonSquare_diffPixelSize.dm4.png" in names


def test_work_of_a_person_is_never_overwritten_unasked(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "superalloy-sem"
    masks = str(source / "masks/val")
    convert_labels(masks, tmp_path, to="labelme", classes=CLASSES)
    corrected = min(tmp_path.glob("*.json"))
    corrected.write_text("mine")
    again = convert_labels(masks, tmp_path, to="labelme", classes=CLASSES)
    assert not again.written
    assert len(again.skipped) == 4
    assert corrected.read_text() == "mine"
    assert (
        len(convert_labels(masks, tmp_path, to="labelme", classes=CLASSES, overwrite=True).written)
        == 4
    )


def test_classes_are_found_when_none_are_given(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "annotation-formats/labelme/semantic_segmentation/data_annotated"
    done = convert_labels(str(file), tmp_path, to="masks")
    assert done.classes == {"background": 0, "bottle": 1, "bus": 2, "car": 3, "person": 4}
    assert len(done.written) == 2


def faulty(folder: Path) -> Project:
    """Make a project with one fault of every kind that check looks for."""
    rng = np.random.default_rng(0)
    for number in range(8):
        image = rng.integers(0, 255, (80, 90), dtype=np.uint8)
        if number == 6:
            image[:] = 5
        if number == 7:
            image[:40] = 255
        split = "val" if number < 2 else "train"
        for kind, pixels in (("images", image), ("masks", np.zeros((80, 90), np.uint8))):
            if kind == "masks":
                pixels[:9, :9] = 1
            file = folder / kind / split / f"im{number}a.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    leaked = folder / "images" / "train" / "im9a.png"
    leaked.write_bytes((folder / "images/val/im0a.png").read_bytes())
    Image.fromarray(np.zeros((80, 90), np.uint8)).save(folder / "masks/train/im9a.png")
    data = "".join(
        f'[[data]]\nimages = "images/{s}"\nmasks = "masks/{s}"\nsplit = "{s}"\n'
        for s in ("train", "val")
    )
    return project_at(folder, data)


def test_check_names_every_fault_with_file_and_remedy(tmp_path: Path) -> None:
    report = check_project(faulty(tmp_path))
    told = {(Path(one.file).name, one.what) for one in report.findings}
    assert any(name == "im6a.png" and "constant" in what for name, what in told)
    assert any(name == "im7a.png" and "highest value" in what for name, what in told)
    assert any('class "small" never occurs' in what for _, what in told)
    (leak,) = report.errors
    assert "the same image" in leak.what
    assert report.exit_code == 2
    assert all(one.remedy for one in report.findings)
    assert all("\n" not in one.text for one in report.findings)
    msgspec.json.encode(report)
    shares = {(c.split, c.name): c.share for c in report.classes}
    assert shares["val", "large"] == pytest.approx(81 / (80 * 90))


def test_check_calls_the_dry_run_only_on_sound_data(shared_data: Path, tmp_path: Path) -> None:
    calls: list[Project] = []

    def dry_run(project: Project) -> list[Finding]:
        calls.append(project)
        return [Finding.error("x", "does not fit")]

    check_project(faulty(tmp_path), dry_run=dry_run)
    assert not calls
    source = shared_data / "superalloy-sem"
    data = f'[[data]]\nimages = "{source}/images/train"\nmasks = "{source}/masks/train"\n'
    report = check_project(project_at(tmp_path, data), dry_run=dry_run)
    assert len(calls) == 1
    assert [one.what for one in report.errors] == ["does not fit"]


def test_check_sees_bad_shapes(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8)).save(
        tmp_path / "a.png"
    )
    shapes = {
        "crossing": [[10, 10], [40, 40], [40, 10], [10, 40]],
        "outside": [[50, 50], [200, 50], [200, 60], [50, 60]],
        "flat": [[5, 5], [9, 5], [7, 5]],
        "under": [[10, 60], [50, 60], [50, 80], [10, 80]],
        "over": [[30, 60], [80, 60], [80, 80], [30, 80]],
    }
    labels = {"over": "small"}
    document = {
        "version": "5.5.0",
        "shapes": [
            {"label": labels.get(name, "large"), "points": points, "shape_type": "polygon"}
            for name, points in shapes.items()
        ],
        "imagePath": "a.png",
        "imageHeight": 90,
        "imageWidth": 90,
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    report = check_project(project_at(tmp_path, '[[data]]\nimages = "."\nannotations = "."\n'))
    what = " ".join(one.what for one in report.findings)
    assert "1 shapes have an outline that crosses itself: 1 (large)" in what
    assert "1 shapes have points outside the image: 2 (large)" in what
    assert "1 shapes have no area: 3 (large)" in what
    assert "4 (large) and 5 (small) share" in what


def test_the_contact_sheet_shows_images_labels_and_patches(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "superalloy-sem"
    data = f'[[data]]\nimages = "{source}/images/train"\nmasks = "{source}/masks/train"\n'
    patch = (np.zeros((64, 64), np.float32), np.ones((64, 64), np.uint8))
    shown = contact_sheet(project_at(tmp_path, data), tmp_path / "sheet.png", patches=[patch])
    assert shown == 13
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (1280, 4 * 336 + 24)


def test_inspect_tells_micrographs_and_annotations_apart(shared_data: Path) -> None:
    zeiss = inspect_file(
        shared_data / "microscope-formats/tiff-vendor/zeiss/test_tiff_Zeiss_SEM_512pix.tif"
    )
    assert (zeiss.kind, zeiss.shape, zeiss.info_bar_rows) == ("micrograph", (384, 512), 33)
    assert "pixel size: 11.65 nm across" in zeiss.text
    drawn = inspect_file(shared_data / "annotation-formats/labelme/primitives/primitives.json")
    assert (drawn.kind, drawn.labels["rectangle"]) == ("annotation", 2)
    msgspec.json.encode(drawn)


def test_inspect_refuses_what_is_none_of_ours(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no model file, micrograph or annotation"):
        inspect_file(shared_data / "superalloy-sem" / "README.md")
    with pytest.raises(InputError, match="no such file"):
        inspect_file(tmp_path / "none.tif")


def link_pairs(source: Path, folder: Path, names: list[str]) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for name in names:
            (folder / kind / f"{name}.png").symlink_to(source / kind / f"{name}.png")


def by_hand(tmp_path: Path) -> Project:
    tables = [
        f'[[data]]\nimages = "{split}/images"\nmasks = "{split}/masks"\nsplit = "{split}"\n'
        for split in ("train", "val")
    ]
    classes = "in = 0\nmembrane = 1\nglia = 2\nmitochondrion = 3\nsynapse = 4"
    return project_at(tmp_path, "".join(tables), classes)


def test_interleaved_serial_sections_are_warned_about(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "vnc-sstem"
    link_pairs(source, tmp_path / "train", ["00", "02", "04", "06"])
    link_pairs(source, tmp_path / "val", ["01", "03", "05"])
    words = [one.what for one in check_project(by_hand(tmp_path)).findings]
    assert any("6 times a training image lies beside a validation image" in what for what in words)


def test_a_second_check_reads_no_pixels_again_but_of_what_changed(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared_data / "vnc-sstem"
    link_pairs(source, tmp_path / "train", ["00", "02", "04", "06"])
    link_pairs(source, tmp_path / "val", ["01", "03", "05"])
    for link in tmp_path.glob("*/*/*.png"):
        content = link.read_bytes()
        link.unlink()
        link.write_bytes(content)
    first = check_project(by_hand(tmp_path))
    read: list[Path] = []
    monkeypatch.setattr(FactsCache, "put", lambda _, path, *__: read.append(path))
    assert check_project(by_hand(tmp_path)).findings == first.findings
    assert not read
    file = tmp_path / "train" / "images" / "02.png"
    status, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:200] + bytes(len(content) - 200))  # damaged
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    faults = [one for one in check_project(by_hand(tmp_path)).findings if one.level == "error"]
    assert [Path(one.file or "").name for one in faults] == ["02.png"]


def test_one_block_of_sections_for_validation_is_not_warned_about(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "vnc-sstem"
    link_pairs(source, tmp_path / "train", ["00", "01", "02", "03"])
    link_pairs(source, tmp_path / "val", ["04", "05"])
    words = [one.what for one in check_project(by_hand(tmp_path)).findings]
    assert not any("look" in what for what in words)


def test_a_training_image_saved_again_for_validation_is_found(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "vnc-sstem"
    link_pairs(source, tmp_path / "train", ["00", "05"])
    link_pairs(source, tmp_path / "val", ["10"])
    pixels = np.asarray(Image.open(source / "images/05.png")).astype(float)
    noise = np.random.default_rng(0).normal(0, 5, pixels.shape)
    brighter = (pixels * 0.8 + 30 + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(tmp_path / "val/images/again.png")
    (tmp_path / "val/masks/again.png").symlink_to(source / "masks/05.png")
    findings = check_project(by_hand(tmp_path)).findings
    found = [one for one in findings if "looks like 05.png, which trains" in one.what]
    assert [Path(one.file).name for one in found] == ["again.png"]


def convert_at_the_terminal(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emcfsys_engine", "convert", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_classes_are_named_on_the_command_line(shared_data: Path, tmp_path: Path) -> None:
    masks = str(shared_data / "superalloy-sem/masks/val")
    classes = ("--class", "matrix=0", "--class", "big=1", "--class", "tiny=2")
    done = convert_at_the_terminal(masks, "--to", "labelme", "--out", str(tmp_path), *classes)
    assert done.returncode == 0, done.stderr
    shapes = json.loads(min(tmp_path.glob("*.json")).read_text())["shapes"]
    assert {shape["label"] for shape in shapes} == {"big", "tiny"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--class", "pore"), "write NAME=VALUE"),
        (("--class", "pore=255"), "from 0 to 254"),
        (("--class", "a=1", "--class", "b=1"), "given already"),
        (("--class", "a=1", "--project", "."), "exclude each other"),
    ],
)
def test_classes_without_sense_are_refused(
    given: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = convert_at_the_terminal("x", "--to", "masks", "--out", str(out), *given)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert not out.exists()


def test_no_two_images_are_converted_to_one_name(tmp_path: Path) -> None:
    names = ("x.tif", "x.png", "x.tif.jpg", "X.png", "y.tif", "y.0001.png")
    (tmp_path / "in").mkdir()
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
        kind = "JPEG" if name.endswith("jpg") else None
        two = {"save_all": True, "append_images": [Image.fromarray(pixels)]}
        more = two if name == "y.tif" else {}
        Image.fromarray(pixels).save(tmp_path / "in" / name, kind, **more)
    for overwrite in (False, True):
        done = convert_images(str(tmp_path / "in"), tmp_path / "out", overwrite=overwrite)
        assert done.skipped == ()
        assert len({file.casefold() for file in done.written}) == len(names) + 1
