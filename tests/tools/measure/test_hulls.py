"""Hulls of many objects at once are those that scikit-image and scipy make one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import regionprops

from emcfsys_engine.tools.measure.hulls import (
    contacts_of,
    convex_areas_px,
    feret_diameters,
    hulls_of,
    objects_of,
    overlap_px,
    runs_of,
)


def blobs(seed: int, side: int = 40) -> np.ndarray:
    noise = np.random.default_rng(seed).random((side, side + 7))
    return (ndimage.gaussian_filter(noise, 2) > 0.5).astype(np.uint8)


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


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_convex_areas_are_those_of_scikit_image(seed: int) -> None:
    mask = blobs(seed)
    runs = runs_of(mask, None)
    runs = runs.where(runs.value > 0)
    owner = objects_of(len(runs.row), contacts_of(runs, mask.shape[1]))
    number = int(owner.max(initial=-1)) + 1
    ours = convex_areas_px(hulls_of(runs, owner, number))
    theirs, _ = ndimage.label(mask, np.ones((3, 3)))
    assert sorted(ours) == sorted(one.area_convex for one in regionprops(theirs))


@pytest.mark.parametrize("pixel", [(1.0, 1.0), (2.0, 3.0)])
def test_feret_diameters_of_a_rectangle_by_hand(pixel: tuple[float, float]) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[4:10, 5:17] = 1  # 6 × 12 pixels, each a diamond: the corners are cut
    runs = runs_of(mask, None)
    runs = runs.where(runs.value > 0)
    hulls = hulls_of(runs, np.zeros(len(runs.row), int), 1)
    largest, smallest = feret_diameters(hulls, pixel)
    assert smallest[0] == pytest.approx(6 * pixel[0])
    corners = ConvexHull(hulls.points * (pixel[1], pixel[0])).points
    assert largest[0] == pytest.approx(pdist(corners).max())


def test_nothing_has_no_hull_and_sums_of_grey_follow_the_runs() -> None:
    empty = hulls_of(runs_of(np.zeros((3, 5), np.uint8), None), np.zeros(0, int), 0)
    assert convex_areas_px(empty).size == 0
    runs = runs_of(np.array([[1, 1, 2]]), np.array([[3.0, 4.0, 5.0]]))
    assert runs.grey_sum is not None
    assert runs.grey_sum.tolist() == [7.0, 5.0]
    assert runs.length_px.tolist() == [2, 1]


def test_an_overlap_is_counted_after_a_shift() -> None:
    runs = runs_of(np.array([[1, 1, 0, 0], [1, 1, 1, 1]]), None)
    runs = runs.where(runs.value > 0)
    contacts = contacts_of(runs, 4)
    assert overlap_px(runs, contacts, 0).tolist() == [2]
    assert overlap_px(runs, contacts, 3).tolist() == [1]
