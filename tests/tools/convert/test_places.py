"""Where all files go is decided before the first is written: no two meet."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.tools.convert.conversion import convert_images, convert_labels, plan_labels
from tests.tools.drawn_masks import blobs, save_mask

pytestmark = pytest.mark.usefixtures("own_cache")


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
