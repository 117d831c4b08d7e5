"""An image unlike those of the training is told by what differs, and only such a one."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.inference.bands import OpenImage, open_image
from emcfsys_engine.learn.watch.unlike import unlike_training
from emcfsys_engine.model_card import ModelCard, NetworkSpec, TrainingStatistics

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
