"""What the network is fed: items at one pixel size, labels that stay labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.learn.training.dataset import Item, resampled


def make_item(labels: np.ndarray, pixel_nm: tuple[float, float] | None) -> Item:
    image = labels[..., None].astype(np.float32)
    return Item(image=image, labels=labels, pixel_nm=pixel_nm, raw_mean=0, raw_deviation=1)


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
