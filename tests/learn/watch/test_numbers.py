"""Numbers of an image: worked by hand, the same in bands as at once, and out where not known."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.inference.bands import open_image
from emcfsys_engine.learn.watch.numbers import (
    GreyValues,
    grey_values,
    numbers_of,
    numbers_of_objects,
)


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
