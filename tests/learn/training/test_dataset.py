"""What the network is fed: items at one pixel size, labels that stay labels."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.launch.start import Place
from emcfsys_engine.learn.pixels_on_device import statistics_to_use
from emcfsys_engine.learn.training.dataset import Dataset, Item, PatchSampler, _cut, resampled
from emcfsys_engine.learn.training.distributed import Ranks


def make_item(labels: np.ndarray, pixel_nm: tuple[float, float] | None) -> Item:
    image = labels[..., None].astype(np.float32)
    return Item(pixels=image, labels=labels, pixel_nm=pixel_nm, raw_mean=0, raw_deviation=1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    down=st.floats(0.2, 5, allow_nan=False),
    across=st.floats(0.2, 5, allow_nan=False),
)
def test_resampled_labels_gain_no_value(seed: int, down: float, across: float) -> None:
    labels = np.random.default_rng(seed).choice(np.array([0, 3, 255], np.uint8), (17, 23))
    item = resampled(make_item(labels, (down, across)), 1.0)
    assert set(np.unique(item.labels)) <= {0, 3, 255}
    assert item.image.shape == (*item.labels.shape, 1)


def test_resampling_follows_both_pixel_sides() -> None:
    labels = np.full((100, 200), 7, np.uint8)
    item = resampled(make_item(labels, (5.0, 10.0)), 10.0)
    assert item.labels.shape == (50, 200)
    assert item.image == pytest.approx(7)
    assert item.pixel_nm == (10.0, 10.0)


def test_a_pixel_size_that_is_unknown_or_nearly_right_changes_nothing() -> None:
    labels = np.zeros((10, 10), np.uint8)
    for item in (make_item(labels, None), make_item(labels, (10.1, 10.0))):
        assert resampled(item, 10.0) is item


def test_making_an_image_smaller_averages_instead_of_skipping_pixels() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    small = resampled(make_item(stripes, (1.0, 1.0)), 4.0).image
    assert small[2:-2, 2:-2] == pytest.approx(100, abs=5)


@pytest.mark.parametrize("kinds", [("uint8",), ("uint16",), ("uint8", "uint16")])
def test_crops_of_any_type_are_what_the_normalised_image_shows(kinds: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    items: list[Item] = []
    for kind in kinds:
        pixels = rng.integers(0, 200, (90, 80, 1)).astype(kind)
        statistics = statistics_to_use(Normaliser().per_channel(pixels))
        labels = rng.integers(0, 3, (90, 80), np.uint8)
        item = Item(
            pixels=pixels,
            labels=labels,
            pixel_nm=None,
            raw_mean=0,
            raw_deviation=1,
            statistics=statistics,
        )
        np.testing.assert_array_equal(item.image, Normaliser().apply(pixels))
        items.append(item)
    sampler = PatchSampler(cast(Dataset, _Items(items)), 32, 6, 0)
    images, labels = sampler.crops(1).on(torch.device("cpu"))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.uint8)
    shown = [view for item in items for view in _views(item.image[..., 0], 48)]
    for image, label in zip(images.numpy(), labels.numpy(), strict=True):
        if (label != 255).all():  # inside
            assert any((view == image[0]).all() for view in shown)
    again, _ = sampler.crops(1).on(torch.device("cpu"))
    assert torch.equal(images, again)


def test_processes_cut_the_patches_that_one_would_cut_each_its_own() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (90, 80), np.uint8)
    items = cast(Dataset, _Items([make_item(labels, None)]))
    whole = PatchSampler(items, 32, 5, 0).crops(7)
    for rank in range(2):
        own = Ranks(Place(rank, 2)).own(5)
        part = PatchSampler(items, 32, 5, 0, own).crops(7)
        assert len(part.images) == (3, 2)[rank]
        for here, there in zip(part, whole, strict=True):
            assert torch.equal(here, there[list(own)])


class _Items(list[Item]):
    """Items that need no files."""

    project = SimpleNamespace(data=[SimpleNamespace(weight=1.0)])

    @property
    def samples(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(source=0)] * len(self)


def _views(image: np.ndarray, side: int) -> list[np.ndarray]:
    views = np.lib.stride_tricks.sliding_window_view(image, (side, side))
    return list(views.reshape(-1, side, side))


def test_a_constant_image_is_zeros() -> None:
    pixels = np.full((40, 40, 1), 7, np.uint8)
    statistics = statistics_to_use(Normaliser().per_channel(pixels))
    labels = pixels[..., 0]
    item = Item(
        pixels=pixels,
        labels=labels,
        pixel_nm=None,
        raw_mean=7,
        raw_deviation=0,
        statistics=statistics,
    )
    assert not item.image.any()


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    start=st.tuples(st.integers(-30, 50), st.integers(-30, 50)),
    crop_px=st.integers(1, 48),
    seed=st.integers(0, 2**31),
)
def test_a_crop_is_a_plain_copy_mirrored_where_it_leaves_the_image(
    size: tuple[int, int], start: tuple[int, int], crop_px: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels, labels = (rng.integers(0, 255, size, np.uint8) for _ in range(2))
    item = Item(pixels=pixels[..., None], labels=labels, pixel_nm=None, raw_mean=0, raw_deviation=1)
    rows, columns = (
        np.arange(crop_px) + min(at, side - 1) for at, side in zip(start, size, strict=True)
    )
    image, planes = (
        np.empty(shape, np.uint8) for shape in ((crop_px, crop_px, 1), (1, crop_px, crop_px))
    )
    _cut(item, rows, columns, image, planes)
    reach = 100
    wide = np.pad(pixels, reach, mode="reflect")
    marked = np.pad(labels, reach, constant_values=255)
    there = np.ix_(rows + reach, columns + reach)
    np.testing.assert_array_equal(image[..., 0], wide[there])
    np.testing.assert_array_equal(planes[0], marked[there])
