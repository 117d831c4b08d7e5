"""`predict --region`: a part of an image has the pixels that the whole image's mask has there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.learn.inference import bands
from emcfsys_engine.run.events import ImageDone, ImageFailed, WarningGiven
from emcfsys_engine.run.folder import new_run
from tests.learn.conftest import run_here
from tests.learn.inference.test_mosaic import (
    MOST,
    differing,
    done_by,
    image,
    mask_in,
    model,
    pixels_of,
    request_of,
    write_image,
    write_model,
)
from tests.shards.made import here

__all__ = ["here", "image", "model"]  # fixtures


@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "bigtiff", "strips", "mrc", "png"])
@pytest.mark.parametrize("is_large", [True, False])
def test_a_region_is_what_the_whole_images_mask_has_there(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(bands, "LARGE_PX", 100_000)
    image = write_image(tmp_path, pixels_of(500, 640), kind)
    done_by(request_of(image, model, "out", 0, mask_format="png"))
    whole = mask_in(tmp_path / "out", "x.png")
    assert len(np.unique(whole)) == 2
    for region, found in (("100:301,250:640", "r100-301.c250-640"), (":7,:", "r-7.c-")):
        options = {"mask_format": "png", "region": region, "overlay": True}
        run = done_by(request_of(image, model, "out", 0, **options))
        rows, columns = (
            slice(*(int(end) if end else None for end in axis.split(":")))
            for axis in region.split(",")
        )
        part = mask_in(tmp_path / "out", f"x.{found}.png")
        assert differing(part, whole[rows, columns]) <= MOST
        (told,) = (event for event in run.events() if isinstance(event, ImageDone))
        assert told.shares["grain"] == pytest.approx((part == 7).mean())
        overlay = mask_in(tmp_path / "out", f"x.{found}.overlay.png")
        assert overlay.shape == (*part.shape, 3)
        blended = mask_in(tmp_path / "out", f"x.{found}.overlay.png")[..., 0].astype(int)
        assert blended.std() > 5  # it shows the image
    assert np.array_equal(mask_in(tmp_path / "out", "x.png"), whole)


def test_a_region_in_ome_zarr_says_where_it_lies(tmp_path: Path, model: Path, image: Path) -> None:
    done_by(request_of(image, model, "out", 0, region="100:300,50:"))
    group = zarr.open_group(tmp_path / "out/x.r100-300.c50-.ome.zarr", mode="r")
    about: Any = group.attrs["ome"]
    assert about["multiscales"][0]["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [4.0, 4.0]},
        {"type": "translation", "translation": [400.0, 200.0]},
    ]


def test_a_region_of_an_image_of_other_pixel_size_and_with_an_info_bar_is_the_wholes(
    tmp_path: Path, model: Path
) -> None:
    pixels = pixels_of(500, 640)
    pixels[460:] = 0
    pixels[470:480, 20:300:3] = 255
    image = write_image(tmp_path, pixels, "png")
    info = PngInfo()
    info.add_text("pixel_nm", "2.6 2.6")
    Image.fromarray(pixels).save(image, pnginfo=info)
    options = {"mask_format": "png", "rescale": True}
    done_by(request_of(image, model, "out", 0, **options))
    done_by(request_of(image, model, "out", 0, region="300:,100:400", **options))
    whole, part = (
        mask_in(tmp_path / "out", "x.png"),
        mask_in(tmp_path / "out", "x.r300-.c100-400.png"),
    )
    assert len(np.unique(whole)) == 2
    assert differing(part, whole[300:, 100:400]) <= MOST


def test_a_region_that_leaves_an_image_fails_it_alone(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, size in (("a", 300), ("b", 200)):
        Image.fromarray(pixels_of(size, size)).save(tmp_path / f"in/{name}.png")
    request = request_of(
        tmp_path / "in", model, "out", 0, mask_format="png", region="250:300,0:100"
    )
    run = new_run(tmp_path / "out/.emcfsys", request)
    assert run_here(run) == 1
    (failed,) = (event for event in run.events() if isinstance(event, ImageFailed))
    assert "b.png: has 200 rows and 200 columns: region 250:300,0:100 leaves it" in failed.reason
    assert mask_in(tmp_path / "out", "a.r250-300.c0-100.png").shape == (50, 100)


def test_objects_of_a_region_are_those_of_the_region(tmp_path: Path, image: Path) -> None:
    model = write_model(tmp_path / "objects.safetensors", ("grain",))
    done_by(request_of(image, model, "out", 0, region="0:300,0:300", mask_format="png"))
    numbers = read_micrograph(
        ImageRef(path=tmp_path / "out/x.ome.r0-300.c0-300.instances.tif")
    ).pixels
    assert numbers.shape == (300, 300)
    assert numbers.max() > 5


def test_a_regions_mask_is_no_mask_of_the_image_in_coco(tmp_path: Path, model: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels_of(200, 200)).save(tmp_path / name / f"{name}.png")
    one = request_of(tmp_path / "a", model, "out", 0, mask_format="png", region=":100,:100")
    done_by(one)
    options: dict[str, Any] = {"mask_format": "png", "vectors": ("coco",)}
    done_by(request_of(tmp_path / "b", model, "out", 0, **options))
    said = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [Path(each["file_name"]).name for each in said["images"]] == ["b.png"]


def test_shards_and_a_region_deal_images_of_which_only_that_is_done(
    tmp_path: Path, model: Path, image: Path, here: None
) -> None:
    run = done_by(request_of(image, model, "out", 3, region="0:300,0:300"))
    told = [event.message for event in run.events() if isinstance(event, WarningGiven)]
    assert any("one task predicts all of it, for --region" in words for words in told)
    assert mask_in(tmp_path / "out", "x.r0-300.c0-300.ome.zarr").shape == (300, 300)
