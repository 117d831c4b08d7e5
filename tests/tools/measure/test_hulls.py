"""Hulls of many objects at once are those that scikit-image and scipy make one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import regionprops

from emcfsys_engine.tools.measure.hulls import convex_areas_px, feret_diameters, hulls_of
from emcfsys_engine.tools.measure.runs import contacts_of, objects_of, runs_of
from tests.tools.drawn_masks import blobs


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
