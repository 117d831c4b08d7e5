"""Runs say of objects what their pixels say, whatever rows are read at once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from emcfsys_engine.annotations.numbered import all_numbered, open_numbers, write_numbers
from emcfsys_engine.images.micrograph import ImageRef, Micrograph
from emcfsys_engine.images.rows import rows_of
from emcfsys_engine.tools.measure import runs as runs_module
from emcfsys_engine.tools.measure.runs import (
    contacts_of,
    objects_of,
    overlap_px,
    painted,
    runs_beside,
    runs_of,
)
from tests.tools.drawn_masks import blobs


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_objects_are_connected_components_at_sides_and_corners(seed: int) -> None:
    mask = blobs(seed)
    runs = runs_of(mask, None)
    runs = runs.where(runs.value > 0)
    owner = objects_of(len(runs.row), contacts_of(runs, mask.shape[1]))
    painted = np.zeros(mask.shape, int)
    for n, first, last, row in zip(owner, runs.first, runs.last, runs.row, strict=True):
        painted[row, first : last + 1] = n + 1
    theirs, number = ndimage.label(mask, np.ones((3, 3)))
    assert len(set(zip(painted.ravel(), theirs.ravel(), strict=True))) == number + 1


def test_an_overlap_is_counted_after_a_shift() -> None:
    runs = runs_of(np.array([[1, 1, 0, 0], [1, 1, 1, 1]]), None)
    runs = runs.where(runs.value > 0)
    contacts = contacts_of(runs, 4)
    assert overlap_px(runs, contacts, 0).tolist() == [2]
    assert overlap_px(runs, contacts, 3).tolist() == [1]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), background=st.sampled_from([0, -1]), band_px=st.integers(1, 400))
def test_runs_of_numbers_read_in_bands_are_those_of_all_pixels(
    seed: int, background: int, band_px: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.array([0, 1, 2, 255], np.uint8), (7, 9))
    numbers = np.where((ids == 1) & (rng.random(ids.shape) < 0.7), rng.integers(1, 4, ids.shape), 0)
    grey = rng.integers(0, 99, ids.shape)
    as_masked = ids.copy()
    _, whole = all_numbered(ids.copy(), numbers.astype(np.uint32), background)
    expected = runs_of(whole, grey, nothing=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_module, "_BAND_PX", band_px)
        rows = rows_of(
            Micrograph(
                pixels=numbers.astype(np.uint32),
                pixel_nm=None,
                source="a",
                bit_depth=32,
                info_bar_rows=0,
            )
        )
        found = runs_beside(ids, rows, background, grey)
        assert np.array_equal(painted(found, ids.shape) > 0, whole > 0)
    assert np.array_equal(ids, as_masked)  # what a class covers is what the mask says
    for name in ("row", "first", "last", "grey_sum"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    theirs = set(zip(found.value.tolist(), expected.value.tolist(), strict=True))
    assert len(theirs) == len(set(expected.value.tolist())) == len(set(found.value.tolist()))


def test_a_file_of_numbers_is_read_in_bands(tmp_path: Path) -> None:
    mask = blobs(0, 300)
    numbers, _ = ndimage.label(mask)
    Image.fromarray(mask).save(tmp_path / "a.png")
    write_numbers(tmp_path / "a.instances.tif", mask, numbers)
    rows = open_numbers(ImageRef(path=tmp_path / "a.png"))
    assert rows is not None
    with rows:
        found = runs_beside(mask.copy(), rows, 0, None)
    assert np.array_equal(painted(found, mask.shape), numbers)
