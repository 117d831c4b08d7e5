"""What a prediction is said to take is reckoned from images that were really done."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.inference.forecast import forecast
from emcfsys_engine.run.records import PredictRequest


def _request(folder: Path, model: Path) -> PredictRequest:
    return PredictRequest(
        model=str(model),
        inputs=(str(folder / "in"),),
        out=str(folder / "out"),
        gpus=0,
        threads=1,
        tile_px=64,
        shards=6,
        shards_at_once=2,
    )


def test_a_forecast_counts_all_images_and_leaves_nothing(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    found = forecast(_request(tmp_path, model_file))
    assert (found.images, found.pixels, found.tasks, found.at_once) == (10, 10 * 64**2, 6, 2)
    assert found.read_bytes == sum(file.stat().st_size for file in (tmp_path / "in").iterdir())
    assert found.tried == 3
    assert found.seconds == pytest.approx(5 * 64**2 / found.pixels_a_second)
    assert found.written_bytes > 0
    assert found.memory_bytes > 1 << 20
    assert "10 images" in found.lines[0]
    assert "6 tasks, 2 at a time" in found.lines[1]
    assert not (tmp_path / "out").exists()


def test_images_of_which_none_can_be_predicted_are_said(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    with pytest.raises(InputError, match="none of 2 images that were tried"):
        forecast(_request(tmp_path, model_file))


def test_a_forecast_tells_the_regions_of_a_large_image_and_tries_only_some(
    tmp_path: Path, model_file: Path
) -> None:
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (700, 900), np.uint8)
    tifffile.imwrite(tmp_path / "in/x.tif", pixels, tile=(128, 128))
    asked = msgspec.structs.replace(
        _request(tmp_path, model_file), mask_format="ome-zarr", region_px=256
    )
    found = forecast(asked)
    assert (found.images, found.regions, found.tasks) == (1, 12, 6)
    assert found.pixels == 700 * 900
    assert found.tried == 3
    assert found.looked_s > 0
    assert found.written_bytes > 0
    assert "1 images, 1 megapixels, the large ones in 12 regions" in found.lines[0]
    assert "for their numbers" in found.lines[1]
    assert "measured here on 3 regions" in found.lines[-1]
    assert not (tmp_path / "out").exists()
