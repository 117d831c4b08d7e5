"""What the network is fed: items at one pixel size, labels that stay labels."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.launch.start import Place
from emcfsys_engine.learn.training.dataset import (
    Dataset,
    PatchSampler,
    TrainingItem,
    _cut,
    load_item,
    resampled,
)
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.project import load_project
from tests.learn.training.items import Items


def make_item(labels: np.ndarray, pixel_nm: tuple[float, float] | None) -> TrainingItem:
    image = labels[..., None].astype(np.float32)
    return TrainingItem(pixels=image, labels=labels, pixel_nm=pixel_nm, raw_mean=0, raw_deviation=1)


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


def test_an_image_that_does_not_say_its_pixel_size_has_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.eye(20, dtype=np.uint8)).save(tmp_path / folder / "a.png")
    for said, size in (("pixel_nm = 5", (5.0, 5.0)), ("", None)):
        (tmp_path / "project.toml").write_text(
            f'[project]\nname = "t"\n{said}\n[classes]\nresin = 0\ngrain = 1\n'
            '[[data]]\nimages = "images"\nmasks = "masks"\n'
        )
        project = load_project(tmp_path)
        (sample,) = list_samples(project, for_training=False).samples
        assert load_item(sample, project, Normaliser()).pixel_nm == size


def test_making_an_image_smaller_averages_instead_of_skipping_pixels() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    small = resampled(make_item(stripes, (1.0, 1.0)), 4.0).image
    assert small[2:-2, 2:-2] == pytest.approx(100, abs=5)


def test_processes_cut_the_patches_that_one_would_cut_each_its_own() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (90, 80), np.uint8)
    items = cast(Dataset, Items([make_item(labels, None)]))
    whole = PatchSampler(items, 32, 5, 0).crops(7)
    for rank in range(2):
        own = Ranks(Place(rank, 2)).own(5)
        part = PatchSampler(items, 32, 5, 0, own).crops(7)
        assert len(part.images) == (3, 2)[rank]
        for here, there in zip(part, whole, strict=True):
            assert torch.equal(here, there[list(own)])


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
    item = TrainingItem(
        pixels=pixels[..., None], labels=labels, pixel_nm=None, raw_mean=0, raw_deviation=1
    )
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
