"""check names every fault with file and remedy."""

import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.dataset.facts_cache import FactsCache
from emcfsys_engine.project import Project
from emcfsys_engine.tools.check import check_project
from emcfsys_engine.tools.check_data import Finding
from tests.tools.made import project_at

pytestmark = pytest.mark.usefixtures("own_cache")


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
    assert "1 shape has an outline that crosses itself: 1 (large)" in what
    assert "1 shape has points outside the image: 2 (large)" in what
    assert "1 shape has no area: 3 (large)" in what
    assert "4 (large) and 5 (small) share" in what


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
