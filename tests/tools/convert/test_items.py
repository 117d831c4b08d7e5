"""What is converted: masks of 0 and 255, one folder of masks a class, and what neither says."""

import json
import os
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.tools.convert.conversion import convert_images, convert_labels, plan_labels
from tests.tools.drawn_masks import blobs, save_mask
from tests.tools.made import GRAINS


def _stencil(file: Path, rows: slice) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((64, 64), np.uint8)
    mask[rows] = 255
    Image.fromarray(mask).save(file)


def test_outlines_point_to_the_image_of_today_and_never_to_a_mask(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    _stencil(tmp_path / "masks" / "a.png", slice(0, 20))
    shown: list[np.ndarray] = []
    for seed in (1, 2):
        grey = np.random.default_rng(seed).integers(0, 60_000, (64, 64)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "images" / "a.tif", grey)
        for out in ("apart", "masks"):
            convert_labels(
                "masks/a.png", tmp_path / out, to="labelme", images="images", base=tmp_path,
                overwrite=True,
            )  # fmt: skip
            document = json.loads((tmp_path / out / "a.json").read_text())
            picture = tmp_path / out / document["imagePath"]
            pixels = np.asarray(Image.open(picture))
            assert np.corrcoef(pixels.ravel(), grey.ravel())[0, 1] > 0.99
            shown.append(pixels)
    assert set(np.unique(np.asarray(Image.open(tmp_path / "masks" / "a.png")))) == {0, 255}
    assert not np.array_equal(shown[0], shown[2])


pytestmark = pytest.mark.usefixtures("own_cache")
CLASSES = {"matrix": 0, "large": 1, "small": 2}


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


@pytest.mark.parametrize("to", ["labelme", "masks", "coco", "geojson", "imagej"])
def test_a_conversion_overwrites_its_own_and_keeps_what_a_person_changed(
    masks: Path, tmp_path: Path, to: str
) -> None:
    out = tmp_path / "out"

    def convert() -> tuple[str, ...]:
        made = convert_labels(str(masks), out, to=to, classes=GRAINS, overwrite=True)  # type: ignore[arg-type]
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
        convert_labels(str(masks), out, to="masks", classes=GRAINS, overwrite=True)
        for name, content in originals.items():
            assert (masks / name).read_bytes() == content


def _masks(folder: Path, *names: str) -> str:
    for number, name in enumerate(names):
        save_mask(folder / f"masks/{name}.png", blobs(number))
    return str(folder / "masks")


def test_a_new_version_beside_a_persons_file_takes_no_other_images_place(tmp_path: Path) -> None:
    source, out = _masks(tmp_path, "x", "x.v2"), tmp_path / "out"
    out.mkdir()
    (out / "x.geojson").write_text("mine")
    made = convert_labels(source, out, to="geojson", overwrite=True)
    assert [Path(file).name for file in made.written] == ["x.v3.geojson", "x.v2.geojson"]
    assert (out / "x.geojson").read_text() == "mine"
    first = (out / "x.v3.geojson").read_bytes()
    assert first != (out / "x.v2.geojson").read_bytes()


def test_what_is_there_or_shares_a_name_goes_nowhere_and_says_why(tmp_path: Path) -> None:
    source, out = _masks(tmp_path, "x", "y"), tmp_path / "out"
    out.mkdir()
    (out / "x.geojson").write_text("mine")
    plan = plan_labels(source, out, to="geojson")
    assert [one.file for one in plan.items] == ["", str(out / "y.geojson")]
    assert "exists already. Give --overwrite" in plan.items[0].why_not
    own = plan_labels(source, tmp_path / "masks", to="masks", overwrite=True)
    assert all("overwritten by its own conversion" in one.why_not for one in own.items)
    assert not list(out.glob("y*"))


def test_cocos_one_file_goes_to_one_place_or_nothing_is_converted(tmp_path: Path) -> None:
    source, out = _masks(tmp_path, "x", "y"), tmp_path / "out"
    out.mkdir()
    (out / "annotations.json").write_text("mine")
    plan = plan_labels(source, out, to="coco")
    assert (plan.items, plan.of_all.whole, len(plan.of_all.skipped)) == ([], "", 1)
    plan = plan_labels(source, out, to="coco", overwrite=True)
    assert plan.of_all.whole == str(out / "annotations.v2.json")
    assert "the new version is annotations.v2.json" in plan.of_all.notes[-1]


def test_no_two_images_are_converted_to_one_name(tmp_path: Path) -> None:
    names = (
        "x.tif",
        "x.png",
        "x.tif.jpg",
        "X.png",
        "\u00e4.png",
        "a\u0308.tif",
        "y.tif",
        "y.0001.png",
    )
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
        assert len({normalize("NFC", file).casefold() for file in done.written}) == len(names) + 1


def test_labels_too_long_for_a_name_are_skipped_and_all_others_written(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("a", "n" * 251, "z"):
        _stencil(tmp_path / "masks" / f"{name}.png", slice(0, 20))
    done = convert_labels("masks", tmp_path / "out", to="labelme", base=tmp_path)
    assert [Path(file).stem for file in done.written] == ["a", "z"]
    (left,) = done.skipped
    assert "too long for a name" in left.why


def test_a_mask_called_like_what_predict_writes_beside_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("a", "a.view"):
        _stencil(tmp_path / "masks" / f"{name}.png", slice(0, 20))
    done = convert_labels("masks", tmp_path / "out", to="masks", base=tmp_path)
    assert [Path(file).name for file in done.written] == ["a.png"]
    assert any("left out (a.view.png)" in note for note in done.notes)
