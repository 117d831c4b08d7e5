"""Numbers of an image: worked by hand, the same in bands as at once, and out where not known."""

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.inference.bands import OpenImage, open_image
from emcfsys_engine.learn.watch.numbers import (
    GreyValues,
    grey_values,
    numbers_of,
    numbers_of_objects,
    unlike_training,
)
from emcfsys_engine.model_card import ModelCard, NetworkSpec, TrainingStatistics


def seen(folder: Path, pixels: np.ndarray, rows_a_strip: int = 16) -> GreyValues:
    file = folder / "a.tif"
    tifffile.imwrite(file, pixels, rowsperstrip=rows_a_strip)
    image = open_image(ImageRef(path=file), Normaliser())
    try:
        return grey_values(image)
    finally:
        image.close()


def test_grey_values_are_those_worked_by_hand(tmp_path: Path) -> None:
    pixels = np.tile(np.array([0, 0, 90, 90], np.uint8), (40, 10))
    told = seen(tmp_path, pixels)
    assert (told.mean, told.contrast) == pytest.approx((45, 45))
    # Along a row every difference is 90, along a column none: 38 and 40 pairs a line.
    across, along = 40 * 38, 38 * 40
    assert told.sharpness == pytest.approx(90**2 * across / (across + along) / (2 * 45**2))
    assert told.saturation == 1.0


def test_bands_give_the_same_as_the_whole_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(100, 4000, (300, 70), np.uint16)
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, pixels, rowsperstrip=7)
    image = open_image(ImageRef(path=file), Normaliser())
    whole = grey_values(image)
    rows = image.rows

    class InBands:
        in_memory, block_rows = False, 7
        height, width = pixels.shape

        @staticmethod
        def read(first: int, last: int) -> np.ndarray:
            return rows.read(first, last)

    image.rows = InBands()  # type: ignore[assignment]
    banded = grey_values(image)
    rows.close()
    assert banded.named() == pytest.approx(whole.named())


def test_defocus_lowers_sharpness_and_brightness_and_contrast_do_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sharp = ndimage.gaussian_filter(rng.normal(size=(128, 128)), 1.0)
    sharp = 128 + 40 * sharp / sharp.std() + rng.normal(0, 2, sharp.shape)
    blurred = ndimage.gaussian_filter(sharp, 3.0)
    of = [
        seen(tmp_path, image.astype(np.float32)).sharpness
        for image in (sharp, 3 * sharp + 500, blurred)
    ]
    assert of[0] == pytest.approx(of[1], rel=1e-3)
    assert of[2] < of[0] / 4


def test_saturation_is_the_share_that_was_clipped(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).normal(200, 30, (100, 100)).clip(0, 255).astype(np.uint8)
    clipped = (pixels == 255).mean()
    assert seen(tmp_path, pixels).saturation == pytest.approx(clipped, abs=1e-3)
    twelve_bit = np.random.default_rng(2).integers(0, 4096, (100, 100)).astype(np.uint16)
    assert seen(tmp_path, twelve_bit).saturation < 0.01


def test_an_image_of_one_value_or_of_none_is_no_error(tmp_path: Path) -> None:
    flat = seen(tmp_path, np.full((40, 40), 7, np.uint8))
    assert (flat.contrast, flat.sharpness, flat.saturation) == (0, 0, 1)
    nothing = replace(flat, mean=math.nan, sharpness=math.nan)
    assert set(nothing.named()) == {"contrast", "saturation"}


def test_what_is_not_known_is_left_out() -> None:
    assert numbers_of(None, math.nan, {"grain": 0.25}) == {"grain_fraction": 0.25}
    assert numbers_of((2.0, 8.0), 0.9, {}) == {"confidence": 0.9, "pixel_nm": 4.0}
    told = {"grain": {"px": 3, "objects": 2, "diameter_px": "", "diameter_nm": "4.5"}}
    assert numbers_of_objects(told) == {"grain_objects": 2.0, "grain_diameter_nm": 4.5}


KNOWN = TrainingStatistics(
    num_images=4, mean=100, mean_deviation=5, contrast=20, contrast_deviation=2,
    confidence=0.9, confidence_deviation=0.02,
)  # fmt: skip


def card(statistics: TrainingStatistics | None = KNOWN) -> ModelCard:
    return ModelCard(
        network=NetworkSpec(head="unet", backbone="resnet10t", num_classes=2),
        classes=("a", "b"),
        class_values=(0, 1),
        colours=((0, 0, 0), (255, 255, 255)),
        patch_px=64,
        pixel_nm=5.0,
        statistics=statistics,
    )


def image(folder: Path, mean: float, contrast: float, pixel_nm: float = 5.0) -> OpenImage:
    pixels = np.random.default_rng(0).normal(mean, contrast, (80, 90)).clip(0, 255)
    sizes = {f"PhysicalSize{axis}": pixel_nm for axis in "YX"}
    units = {f"PhysicalSize{axis}Unit": "nm" for axis in "YX"}
    metadata = {"axes": "YX", **sizes, **units}
    tifffile.imwrite(folder / "a.tif", pixels.astype(np.uint8), ome=True, metadata=metadata)
    return open_image(ImageRef(path=folder / "a.tif"), Normaliser())


@pytest.mark.parametrize(
    ("mean", "contrast", "confidence", "told"),
    [
        (104, 21, 0.88, ""),
        (160, 20, 0.9, "mean 159.5, training 100"),
        (100, 50, 0.9, "contrast"),
        (100, 20, 0.5, "confidence 0.50, validation 0.90"),
    ],
)
def test_what_differs_is_named(
    mean: float, contrast: float, confidence: float, told: str, tmp_path: Path
) -> None:
    found = unlike_training(image(tmp_path, mean, contrast), confidence, card())
    assert found.startswith(told)
    assert bool(found) == bool(told)


def test_a_model_that_knows_nothing_of_its_training_says_nothing(tmp_path: Path) -> None:
    assert unlike_training(image(tmp_path, 250, 1), 0.1, card(None)) == ""


def test_another_pixel_size_is_named_unless_the_model_brings_images_to_its_own(
    tmp_path: Path,
) -> None:
    other = image(tmp_path, 100, 20, pixel_nm=12.0)
    assert "pixel size 12 nm, trained at 5 nm" in unlike_training(other, 0.9, card())
    assert unlike_training(other, 0.9, msgspec.structs.replace(card(), rescales=True)) == ""
