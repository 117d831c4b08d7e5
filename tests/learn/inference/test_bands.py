"""A large image is predicted in bands of rows, with the mask that it has as a whole."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image

from emcfsys_engine.images import rows, writers
from emcfsys_engine.learn.inference import bands
from emcfsys_engine.learn.inference.bands import WantedMaps, sent
from emcfsys_engine.learn.inference.files import Counted, find_inputs, predict_files
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.run.events import ImageDone, WarningGiven
from emcfsys_engine.run.records import PredictRequest
from tests.learn.inference.made import Predict, drawn, mask_in


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_large_image_in_bands_gets_the_mask_of_the_image_in_memory(
    predict: Predict, predictor: Predictor, tmp_path: Path, in_bands: None, dtype: str
) -> None:
    image = drawn((517, 301), dtype=dtype)
    image[-40:] = 0  # a constant border is no specimen
    options = {"compression": "zlib", "rowsperstrip": 20}
    tifffile.imwrite(tmp_path / "in" / "a.tif", image, **options)
    count, said = predict(overlay=True, probability=True, uncertainty=True)
    assert count == Counted(done=1, skipped=0, failed=0), said
    expected = predictor.predict(image, probabilities=True, uncertainty=True)
    assert expected.probabilities is not None
    assert expected.uncertainty is not None
    out = tmp_path / "out"
    assert np.mean(mask_in(out / "a.png") != expected.mask) <= 1e-5
    assert np.abs(mask_in(out / "a.uncertainty.png") - expected.uncertainty.astype(int)).max() <= 1
    for name, plane in zip(("resin", "grain"), expected.probabilities, strict=True):
        assert np.abs(mask_in(out / f"a.prob-{name}.png") - plane.astype(int)).max() <= 1
    with Image.open(out / "a.overlay.png") as overlay:
        assert overlay.size == (301, 517)
    (done,) = said
    assert isinstance(done, ImageDone)
    assert done.confidence == pytest.approx(expected.confidence, abs=1e-4)
    assert done.shares == pytest.approx(expected.shares, abs=1e-4)


@pytest.mark.long
def test_the_height_of_bands_and_the_batch_do_not_matter(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "LARGE_PX", 1000)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", drawn((400, 333)), rowsperstrip=7)
    masks = []
    for number, (block, batch) in enumerate([(2_000, 1), (50_000, 3), (10_000_000, 8)]):
        monkeypatch.setattr(rows, "_BLOCK_BYTES", block)
        out = tmp_path / str(number)
        request = PredictRequest(model="m", inputs=(str(tmp_path / "in"),), out=str(out))
        predictor = Predictor(model_file, gpus=0, tile_px=96, batch=batch)
        predict_files(request, find_inputs(request), predictor, lambda event: None, lambda: None)
        masks.append(mask_in(out / "a.png"))
    for mask in masks[1:]:
        assert np.mean(mask != masks[0]) <= 1e-5


@pytest.mark.parametrize("where", ["memory", "bands"])
def test_rescaled_images_keep_their_size(
    predict: Predict, predictor: Predictor, tmp_path: Path, where: str, monkeypatch: Any
) -> None:
    if where == "bands":
        monkeypatch.setattr(bands, "LARGE_PX", 1000)
    image = drawn((150, 131), dtype="uint8")
    file = writers.writer_for(tmp_path / "in" / "a.ome.tif", (150, 131), (8.0, 8.0))
    file.write(image)  # 8 nm, the model has 4
    file.finish()
    _, said = predict()
    warnings = [event for event in said if isinstance(event, WarningGiven)]
    assert len(warnings) == 1
    assert "its pixels are 8 nm, the model was trained at 4 nm" in warnings[0].message
    count, said = predict(rescale=True, force=True)
    assert count.done == 1
    assert not [event for event in said if isinstance(event, WarningGiven)]
    expected = predictor.predict(image, scale=2.0).mask
    mask = mask_in(tmp_path / "out" / "a.ome.png")
    assert mask.shape == (150, 131)
    assert np.mean(mask != expected) <= 1e-4


def test_an_image_that_cannot_be_rescaled_as_asked_is_named(
    predict: Predict, tmp_path: Path
) -> None:
    file = writers.writer_for(tmp_path / "in" / "a.png", (64, 64), None)
    file.write(drawn((64, 64), dtype="uint8"))
    file.finish()
    _, said = predict(rescale=True)
    (told,) = [event for event in said if isinstance(event, WarningGiven)]
    assert told.message.endswith("a.png: it does not say its pixel size: it is not rescaled")
    _, said = predict(force=True)
    assert not [event for event in said if isinstance(event, WarningGiven)]


def test_pixels_that_are_not_square_are_brought_to_the_models_along_each_axis(
    predict: Predict, predictor: Predictor, tmp_path: Path
) -> None:
    """As trainings bring them; by one factor for both a square would have stayed an oblong."""
    image = drawn((150, 131), dtype="uint8")
    file = writers.writer_for(tmp_path / "in" / "a.ome.tif", (150, 131), (8.0, 2.0))
    file.write(image)  # as large as the model's 4 nm × 4 nm
    file.finish()
    _, said = predict()
    (told,) = [event for event in said if isinstance(event, WarningGiven)]
    assert "its pixels are 2 × 8 nm, the model was trained at 4 nm" in told.message
    _, said = predict(rescale=True, force=True)
    (done,) = [event for event in said if isinstance(event, ImageDone)]
    assert done.confidence == pytest.approx(predictor.predict(image, scale=(2, 0.5)).confidence)
    assert done.confidence != pytest.approx(predictor.predict(image).confidence)
    assert mask_in(tmp_path / "out" / "a.ome.png").shape == (150, 131)


def test_a_model_that_was_adapted_at_its_pixel_size_brings_images_to_it_unasked(
    predict: Predict, predictor: Predictor, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(predictor, "card", msgspec.structs.replace(predictor.card, rescales=True))
    image = drawn((150, 131), dtype="uint8")
    file = writers.writer_for(tmp_path / "in" / "a.ome.tif", (150, 131), (8.0, 8.0))
    file.write(image)
    file.finish()
    _, said = predict()
    assert not [event for event in said if isinstance(event, WarningGiven)]
    expected = predictor.predict(image, scale=2.0).mask
    assert np.mean(mask_in(tmp_path / "out" / "a.ome.png") != expected) <= 1e-4


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((200, 1), 9, np.uint8),
        np.full((1, 200), 9, np.uint8),
        np.full((90, 90), 7, np.uint16),
        np.where(np.eye(90) > 0, np.inf, drawn((90, 90), dtype="float32")).astype(np.float32),
        np.stack([drawn((90, 90), n, "uint8") for n in range(3)], axis=-1),
    ],
    ids=["1 px wide", "1 px high", "constant", "infinite", "RGB"],
)
@pytest.mark.parametrize("where", ["memory", "bands"])
def test_odd_images_get_a_mask_of_their_size(
    predict: Predict, tmp_path: Path, pixels: np.ndarray, where: str, monkeypatch: Any
) -> None:
    if where == "bands":
        monkeypatch.setattr(bands, "LARGE_PX", 10)
    colour = {"photometric": "rgb"} if pixels.ndim == 3 else {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "in" / "a.tif", pixels, **colour)
    count, said = predict(overlay=True, uncertainty=True)
    assert count.done == 1, said
    assert mask_in(tmp_path / "out" / "a.png").shape == pixels.shape[:2]


def test_zarr_and_stacks_are_read_in_bands(
    predict: Predict, predictor: Predictor, tmp_path: Path, in_bands: None
) -> None:
    image = drawn((200, 150))
    made = zarr.create_array(
        store=str(tmp_path / "in" / "a.zarr"), shape=(200, 150), chunks=(64, 64), dtype="u2"
    )
    made[:] = image
    assert predict()[0].done == 1
    assert np.mean(mask_in(tmp_path / "out" / "a.png") != predictor(image)) <= 1e-4


@pytest.mark.long
def test_memory_does_not_grow_with_the_height_of_an_image(model_file: Path, tmp_path: Path) -> None:
    """The peak of two processes, one with an image of four times the height, differs little."""
    code = (
        "import resource, sys\n"
        "from emcfsys_engine.learn.inference import bands\n"
        "from emcfsys_engine.images import rows\n"
        "bands.LARGE_PX, rows._BLOCK_BYTES = 1000, 1 << 20\n"
        "from emcfsys_engine.learn.inference.predictor import Predictor\n"
        "from emcfsys_engine.learn.inference.files import *\n"
        "from emcfsys_engine.run.records import PredictRequest\n"
        "request = PredictRequest(model='m', inputs=(sys.argv[2],), out=sys.argv[3])\n"
        "predictor = Predictor(sys.argv[1], gpus=0, tile_px=256)\n"
        "predictor.forward = lambda tiles: __import__('torch').cat([tiles, -tiles], 1)\n"
        "count = predict_files(request, find_inputs(request), predictor, print, lambda: None)\n"
        "assert count.done == 1\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for height in (2_000, 24_000):
        file = tmp_path / f"{height}.tif"
        tifffile.imwrite(file, np.tile(drawn((500, 2000), dtype="uint8"), (height // 500, 1)))
        command = [sys.executable, "-c", code, str(model_file), str(file), str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 60, peaks  # MiB; the image is 46 MiB, as floats 183


@pytest.mark.parametrize("classes", [1, 2, 3, 40])
def test_a_pixel_is_of_the_first_class_with_the_largest_share(classes: int) -> None:
    logits = torch.randint(0, 4, (classes, 20, 30)).float()
    values = torch.arange(classes).flip(0).to(torch.uint8)
    band = sent(0, logits, values, 15, WantedMaps()).band()
    expected = logits.numpy().argmax(0)
    expected[15:] = 0  # an info bar, whose pixels are counted for no class
    assert np.array_equal(band.mask, values.numpy()[expected])
    assert band.counts.tolist() == np.bincount(expected[:15].ravel(), minlength=classes).tolist()
    assert band.sure == pytest.approx(float(logits.softmax(0).amax(0)[:15].sum()), rel=1e-5)
