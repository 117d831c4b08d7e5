"""Files in, files out: any size, any format, nothing half, nothing twice."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.images import writers
from emcfsys_engine.learn.inference import bands
from emcfsys_engine.learn.inference.files import Counted, find_inputs
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.run.events import ImageFailed
from emcfsys_engine.run.records import PredictRequest
from tests.learn.inference.made import Predict, drawn, mask_in


def _names(folder: Path) -> list[str]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(file) for file in files if file.parts[0] != ".emcfsys")


@pytest.mark.parametrize(
    ("mask_format", "name"),
    [("png", "a.png"), ("tiff", "a.tif"), ("tif", "a.tif"), ("ome-tiff", "a.ome.tif"),
     ("ome-zarr", "a.ome.zarr")],
)  # fmt: skip
def test_every_format_holds_the_same_mask_and_is_not_made_twice(
    predict: Predict, predictor: Predictor, tmp_path: Path, mask_format: str, name: str
) -> None:
    image = drawn((70, 90), dtype="uint8")
    Image.fromarray(image).save(tmp_path / "in" / "a.png")
    assert predict(mask_format=mask_format, overlay=True)[0].done == 1
    assert np.mean(mask_in(tmp_path / "out" / name) != predictor(image)) <= 1e-4
    assert (tmp_path / "out" / "a.overlay.png").is_file()
    assert predict(mask_format=mask_format)[0] == Counted(done=0, skipped=1, failed=0)
    assert predict(mask_format=mask_format, force=True)[0].done == 1


def test_slices_of_a_stack_have_masks_of_their_own(predict: Predict, tmp_path: Path) -> None:
    stack = np.stack([drawn((64, 70), seed) for seed in range(3)])
    tifffile.imwrite(tmp_path / "in" / "s.tif", stack, photometric="minisblack")
    assert predict()[0].done == 3
    assert _names(tmp_path / "out") == ["s.0000.png", "s.0001.png", "s.0002.png"]


def test_outlines_go_where_their_tools_find_them(
    predict: Predict, tmp_path: Path, predictor: Predictor
) -> None:
    Image.fromarray(drawn((64, 70), 1, "uint8")).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "sub").mkdir()
    tifffile.imwrite(tmp_path / "in" / "sub" / "b.tif", drawn((60, 64), 2))
    formats = ("labelme", "coco", "geojson", "imagej")
    assert predict(vectors=formats)[0].done == 2
    out = tmp_path / "out"
    assert _names(out) == [
        "a.geojson", "a.json", "a.png", "a.zip", "annotations.json",
        "sub/b.geojson", "sub/b.json", "sub/b.png", "sub/b.view.png", "sub/b.zip",
    ]  # fmt: skip
    for json_file, size in (("a.json", (70, 64)), ("sub/b.json", (64, 60))):
        labelme = json.loads((out / json_file).read_text())
        shown = (out / json_file).parent / labelme["imagePath"].replace("\\", "/")
        with Image.open(shown) as picture:
            assert picture.size == size
            assert picture.mode == "L"
        assert {shape["label"] for shape in labelme["shapes"]} <= {"grain"}
    images = json.loads((out / "annotations.json").read_text())["images"]
    assert sorted(image["file_name"] for image in images) == ["a.png", "sub/b.tif"]
    faults: list[Any] = []
    assert find_annotations(str(out / "a.json"), tmp_path, faults, [])
    assert not faults
    # COCO has one file for all: images that were done before stay in it.
    Image.fromarray(drawn((64, 70), 3, "uint8")).save(tmp_path / "in" / "c.png")
    assert predict(vectors=("coco",))[0] == Counted(done=1, skipped=2, failed=0)
    images = json.loads((out / "annotations.json").read_text())["images"]
    assert sorted(image["file_name"] for image in images) == ["a.png", "c.png", "sub/b.tif"]


@pytest.mark.parametrize("mask_format", ["png", "tiff", "ome-zarr"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_a_full_disk_leaves_nothing_half_and_the_run_can_go_on(
    predict: Predict, tmp_path: Path, monkeypatch: Any, mask_format: str, size: str
) -> None:
    if size == "large":
        monkeypatch.setattr(bands, "LARGE_PX", 1000)
    for name in ("a", "b", "c"):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", drawn((300, 100)), rowsperstrip=10)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writers.os, "fsync", full)
        count, said = predict(mask_format=mask_format, overlay=True)
    assert count == Counted(done=0, skipped=0, failed=3)
    for event in said:
        assert isinstance(event, ImageFailed)
        assert "No space left on device. Free some space" in event.reason
    assert not list((tmp_path / "out").rglob(".*.tmp"))
    assert not list((tmp_path / "out").glob("?.png"))
    count, _ = predict(mask_format=mask_format, overlay=True)
    assert count == Counted(done=3, skipped=0, failed=0)


def test_ending_within_a_large_image_leaves_nothing_half(
    predict: Predict, tmp_path: Path, in_bands: None
) -> None:
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", drawn((900, 100)), rowsperstrip=10)
    asked = iter([None] * 5)
    count, said = predict(asked=lambda: next(asked, "cancel"))
    assert count.done == 0
    assert not said
    assert _names(tmp_path / "out") == []
    assert predict()[0].done == 2


@pytest.mark.parametrize("where", ["memory", "bands"])
def test_an_image_without_a_number_is_reported_and_gets_no_mask(
    predict: Predict, tmp_path: Path, where: str, monkeypatch: Any
) -> None:
    if where == "bands":
        monkeypatch.setattr(bands, "LARGE_PX", 10)
    tifffile.imwrite(tmp_path / "in" / "a.tif", np.full((90, 90), np.nan, np.float32))
    tifffile.imwrite(tmp_path / "in" / "b.tif", drawn((90, 90)))
    count, said = predict()
    assert (count.done, count.failed) == (1, 1)
    (failed,) = (event for event in said if isinstance(event, ImageFailed))
    assert "a.tif: holds no finite number" in failed.reason
    assert _names(tmp_path / "out") == ["b.png"]


def test_what_the_commands_summary_says_is_json(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(drawn((64, 70), 1, "uint8")).save(tmp_path / "in" / "a.png")
    words = ["predict", str(model_file), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    more = ["--json", "--uncertainty", "--vectors", "geojson", "--format", "ome-tiff"]
    command = [sys.executable, "-m", "emcfsys_engine", *words, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    (one,) = msgspec.json.decode(done.stdout)["done"]
    assert one["mask"].endswith("a.ome.tif")
    made = {"a.geojson", "a.ome.tif", "a.uncertainty.png"}
    assert made <= set(_names(tmp_path / "out"))
    bad = subprocess.run(
        [*command[:-4], "--vectors", "svg"],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert bad.returncode == 2
    assert "'svg' is no format" in bad.stderr


def test_pictures_of_every_kind_are_predicted_and_others_said_to_be_left_out(
    predict: Predict, predictor: Predictor, tmp_path: Path
) -> None:
    image = drawn((64, 72), dtype="uint8")
    for name in ("a.gif", "b.webp", "c.jp2", "d.pgm"):
        options = {"lossless": True} if name == "b.webp" else {}
        Image.fromarray(image).save(tmp_path / "in" / name, **options)
    film = [Image.fromarray(image), Image.fromarray(image[::-1])]
    film[0].save(tmp_path / "in" / "e.webp", save_all=True, append_images=film[1:], lossless=True)
    (tmp_path / "in" / "f.heic").write_bytes(b"no picture for us")
    count, _ = predict()
    assert (count.done, count.failed) == (6, 0)
    wanted = predictor.predict(image).mask
    for name in ("a", "b", "c", "d", "e.0000"):
        assert np.array_equal(mask_in(tmp_path / "out" / f"{name}.png"), wanted), name
    left_out: list[Path] = []
    request = PredictRequest(model="m", inputs=(str(tmp_path / "in"),), out=str(tmp_path / "out"))
    find_inputs(request, left_out)
    assert [path.name for path in left_out] == ["f.heic"]


def test_an_image_or_stack_that_became_another_is_predicted_again_unasked(
    tmp_path: Path, predict: Predict
) -> None:
    def stack(planes: int, seed: int) -> None:
        pixels = np.stack([drawn((64, 64), seed + number) for number in range(planes)])
        tifffile.imwrite(tmp_path / "in" / "s.tif", pixels, photometric="minisblack")

    tifffile.imwrite(tmp_path / "in" / "a.tif", drawn((64, 64), 1))
    stack(5, 2)
    assert predict()[0].done == 6
    assert predict()[0] == Counted(done=0, skipped=6, failed=0)
    stack(2, 3)
    assert predict()[0] == Counted(done=2, skipped=1, failed=0)
    tifffile.imwrite(tmp_path / "in" / "a.tif", drawn((64, 64), 4))
    corrected = tmp_path / "out" / "a.png"
    corrected.write_bytes(corrected.read_bytes() + b"by a person")
    assert predict()[0] == Counted(done=0, skipped=3, failed=0)  # a person's mask stays
