"""Prediction: any size, any type, masks where they belong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.worker import reason_of
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def predictor(model_file: Path) -> Predictor:
    return Predictor(model_file, gpus=0, tile_px=64)


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (31, 33), (64, 64), (130, 97)])
def test_a_mask_has_the_size_of_its_image(predictor: Predictor, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    mask = predictor(image)
    assert mask.shape == shape
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 7}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_the_type_of_the_pixels_does_not_matter(predictor: Predictor, dtype: type) -> None:
    image = np.random.default_rng(1).integers(0, 200, (80, 90))
    assert np.array_equal(predictor(image.astype(dtype)), predictor(image.astype(np.uint8)))


def test_gain_and_offset_of_the_camera_do_not_matter(predictor: Predictor) -> None:
    image = np.random.default_rng(1).integers(0, 200, (80, 90)).astype(np.float32)
    plain, changed = predictor(image), predictor(image * 37.5 + 1000)
    assert (plain != changed).mean() < 0.001


def test_nan_constant_and_colour_images_are_predicted(predictor: Predictor) -> None:
    rng = np.random.default_rng(2)
    image = rng.normal(size=(64, 64)).astype(np.float32)
    image[3, 4], image[5, 6] = np.nan, np.inf
    assert predictor(image).shape == (64, 64)
    assert predictor(np.full((64, 64), 9, np.uint8)).shape == (64, 64)
    grey = rng.integers(0, 255, (64, 64), np.uint8)
    assert np.array_equal(predictor(np.stack([grey] * 3, -1)), predictor(grey))


def test_shares_and_confidence_describe_the_mask(predictor: Predictor) -> None:
    image = np.random.default_rng(3).integers(0, 255, (64, 96), np.uint8)
    found = predictor.predict(image, probabilities=True)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["grain"] == pytest.approx((found.mask == 7).mean())
    assert 0.5 <= found.confidence <= 1
    assert found.probabilities is not None
    assert (
        np.array_equal(found.probabilities[1] > 127, found.mask == 7)
        or ((found.probabilities[1] > 127) == (found.mask == 7)).mean() > 0.99
    )


def test_a_batch_that_does_not_fit_is_halved(model_file: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 300), np.uint8)
    expected = Predictor(model_file, gpus=0, tile_px=64)(image)
    small = Predictor(model_file, gpus=0, tile_px=64, batch=5)
    network = small._calls[0]

    def fits_two(tiles: torch.Tensor) -> torch.Tensor:
        if len(tiles) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(tiles)

    small._calls = [fits_two]
    assert np.mean(small(image) != expected) <= 1e-3
    assert small.batch <= 2


def test_an_image_without_pixels_is_refused(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="no pixels"):
        predictor(np.zeros((0, 5), np.uint8))


def _cli(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "emcfsys_engine", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.mark.long
def test_one_bad_file_among_many_is_reported_and_the_others_are_done(
    model_file: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images with spaces"
    (images / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 50), np.uint8)).save(images / "a.png")
    tifffile.imwrite(images / "sub" / "b.tif", rng.integers(0, 60000, (40, 50)).astype(np.uint16))
    (images / "bad.png").write_bytes((images / "a.png").read_bytes()[:300])
    out = images / "out"  # inside the input folder: its masks are no input
    for attempt in range(2):
        done = _cli("predict", model_file, images, "--out", out, "--overlay", "--json")
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("failed: ") == 1
        assert "bad.png" in done.stderr
        made = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
        assert made == ["a.overlay.png", "a.png", "sub/b.overlay.png", "sub/b.png"], attempt
    with Image.open(out / "sub" / "b.png") as mask:
        assert mask.size == (50, 40)


@pytest.mark.long
def test_images_that_all_lie_in_the_output_folder_are_said_to(
    model_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "sub" / "a.png")
    for images in (tmp_path, tmp_path / "sub"):
        done = _cli("predict", model_file, images, "--out", tmp_path)
        assert done.returncode == 2
        assert f"inside the output folder {tmp_path}" in done.stderr
        assert "--out" in done.stderr


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError) as caught:
        full.write(b"x")
    assert str(tmp_path) in reason_of(caught.value, tmp_path)
    assert "disk is full" in reason_of(caught.value, tmp_path)
    assert reason_of(ValueError("odd"), tmp_path) == "ValueError: odd"


def test_a_model_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = _cli("predict", tmp_path / "no.safetensors", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "there is no such file" in done.stderr
    assert not (tmp_path / "out").exists()
