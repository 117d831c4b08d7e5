"""Pixels of any type become the same normalised input."""

from typing import cast

import numpy as np
import pytest
import torch

from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.pixels_on_device import statistics_to_use
from emcfsys_engine.learn.training.dataset import Dataset, PatchSampler, TrainingItem
from tests.learn.training.items import Items


@pytest.mark.parametrize("kinds", [("uint8",), ("uint16",), ("uint8", "uint16")])
def test_crops_of_any_type_are_what_the_normalised_image_shows(kinds: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    items: list[TrainingItem] = []
    for kind in kinds:
        pixels = rng.integers(0, 200, (90, 80, 1)).astype(kind)
        statistics = statistics_to_use(Normaliser().per_channel(pixels))
        labels = rng.integers(0, 3, (90, 80), np.uint8)
        item = TrainingItem(
            pixels=pixels,
            labels=labels,
            pixel_nm=None,
            raw_mean=0,
            raw_deviation=1,
            statistics=statistics,
        )
        np.testing.assert_array_equal(item.image, Normaliser().apply(pixels))
        items.append(item)
    sampler = PatchSampler(cast(Dataset, Items(items)), 32, 6, 0)
    images, labels = sampler.crops(1).on(torch.device("cpu"))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.uint8)
    shown = [view for item in items for view in _views(item.image[..., 0], 48)]
    for image, label in zip(images.numpy(), labels.numpy(), strict=True):
        if (label != 255).all():  # inside
            assert any((view == image[0]).all() for view in shown)
    again, _ = sampler.crops(1).on(torch.device("cpu"))
    assert torch.equal(images, again)


def _views(image: np.ndarray, side: int) -> list[np.ndarray]:
    views = np.lib.stride_tricks.sliding_window_view(image, (side, side))
    return list(views.reshape(-1, side, side))


def test_a_constant_image_is_zeros() -> None:
    pixels = np.full((40, 40, 1), 7, np.uint8)
    statistics = statistics_to_use(Normaliser().per_channel(pixels))
    labels = pixels[..., 0]
    item = TrainingItem(
        pixels=pixels,
        labels=labels,
        pixel_nm=None,
        raw_mean=7,
        raw_deviation=0,
        statistics=statistics,
    )
    assert not item.image.any()
