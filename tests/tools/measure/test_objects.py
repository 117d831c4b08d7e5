"""Objects have scikit-image's numbers, in the specimen's units, whatever the pixels' shape."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import label, perimeter_crofton, regionprops, regionprops_table

from emcfsys_engine.errors import ShapeError
from emcfsys_engine.tools.measure.objects import (
    convex_areas_px,
    feret_diameters,
    hulls_of,
    measure_objects,
)
from emcfsys_engine.tools.measure.runs import contacts_of, objects_of, runs_of
from tests.tools.drawn_masks import SMALL_MASKS, blobs, disc

SAME_AS_REGIONPROPS = {
    "area": "area",
    "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length",
    "solidity": "solidity",
    "centroid_y": "centroid-0",
    "centroid_x": "centroid-1",
    "mean_intensity": "mean_intensity",
}


@given(ids=SMALL_MASKS, seed=st.integers(0, 99), down=st.sampled_from([1.0, 0.7, 3.0]))
def test_objects_have_the_numbers_of_regionprops(ids: np.ndarray, seed: int, down: float) -> None:
    grey = np.random.default_rng(seed).integers(0, 60_000, ids.shape).astype(np.uint16)
    found = measure_objects(ids, [1, 2], pixel=(down, 2.0), grey=grey)
    labels = label(ids, background=0, connectivity=2)
    names = ("area", "axis_major_length", "axis_minor_length", "solidity", "mean_intensity")
    truth = regionprops_table(
        labels, grey, properties=(*names, "centroid", "coords"), spacing=(down, 2.0)
    )
    assert len(found) == len(truth["area"])
    order = np.lexsort([[c[0][1] for c in truth["coords"]], [c[0][0] for c in truth["coords"]]])
    for ours, theirs in SAME_AS_REGIONPROPS.items():
        assert np.allclose(getattr(found, ours), truth[theirs][order], atol=1e-6), ours


@given(ids=SMALL_MASKS)
def test_perimeters_of_square_pixels_are_croftons(ids: np.ndarray) -> None:
    found = measure_objects(ids, [1, 2])
    labels = label(ids, background=0, connectivity=2)
    truth = [perimeter_crofton(np.pad(region.image, 1), 4) for region in regionprops(labels)]
    assert np.allclose(sorted(found.perimeter), sorted(truth))


@given(ids=SMALL_MASKS, factor=st.integers(2, 3))
def test_pixels_twice_as_high_measure_as_if_drawn_twice(ids: np.ndarray, factor: int) -> None:
    flat = measure_objects(ids, [1, 2], pixel=(float(factor), 1.0))
    drawn = measure_objects(np.repeat(ids, factor, axis=0), [1, 2])
    assert np.array_equal(flat.area, drawn.area)
    # the middles of the first and last row drawn lie (factor - 1) / 2 from that of the high pixel
    assert np.allclose(flat.centroid_y + (factor - 1) / 2, drawn.centroid_y)
    assert np.allclose(flat.centroid_x, drawn.centroid_x)
    assert np.allclose(flat.neighbour_distance, drawn.neighbour_distance, equal_nan=True)


@given(ids=SMALL_MASKS)
def test_the_order_of_sizes_always_holds(ids: np.ndarray) -> None:
    found = measure_objects(ids, [1, 2])
    assert found.area_px.sum() == (ids > 0).sum()
    assert (found.feret_min <= found.feret_max + 1e-9).all()
    assert (found.minor_axis <= found.major_axis + 1e-9).all()
    assert (found.solidity <= 1).all()
    assert ((found.eccentricity >= 0) & (found.eccentricity <= 1)).all()


def test_feret_diameters_are_those_of_regionprops_within_a_pixel(shared_data: Path) -> None:
    mask = min((shared_data / "superalloy-sem/masks/val").glob("*.png"))
    ids = np.array(Image.open(mask))
    found = measure_objects(ids, [1, 2], min_px=30)
    truth = [r.feret_diameter_max for r in regionprops(label(ids, connectivity=2)) if r.area >= 30]
    assert len(truth) == len(found)
    assert np.abs(np.sort(found.feret_max) - np.sort(truth)).max() < 1


def test_a_drawn_disc_has_the_diameter_perimeter_and_shape_of_a_disc() -> None:
    found = measure_objects(disc((90, 90), (44.3, 45.1), 30).astype(np.uint8), [1])
    for diameter in (found.equivalent_diameter, found.feret_max, found.feret_min):
        assert diameter[0] == pytest.approx(60, rel=0.02)
    assert found.perimeter[0] == pytest.approx(60 * math.pi, rel=0.02)
    assert found.circularity[0] == pytest.approx(1, abs=0.03)
    assert found.eccentricity[0] < 0.1


def test_a_disc_imaged_with_oblong_pixels_is_still_a_disc() -> None:
    rows, columns = np.indices((60, 180))
    ids = (np.hypot(rows * 3.0 - 90, columns - 90.0) <= 60).astype(np.uint8)
    found = measure_objects(ids, [1], pixel=(3.0, 1.0))
    for diameter in (found.equivalent_diameter, found.feret_max, found.feret_min):
        assert diameter[0] == pytest.approx(120, rel=0.03)
    assert found.perimeter[0] == pytest.approx(120 * math.pi, rel=0.03)
    assert found.major_axis[0] / found.minor_axis[0] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("degrees", "step"), [(0, (0, 1)), (45, (-1, 1)), (90, (1, 0)), (135, (1, 1))]
)
def test_orientation_is_the_angle_that_one_sees(degrees: int, step: tuple[int, int]) -> None:
    ids = np.zeros((21, 21), np.uint8)
    for n in range(-8, 9):
        ids[10 + n * step[0], 10 + n * step[1]] = 1
    assert measure_objects(ids, [1]).orientation_deg[0] == pytest.approx(degrees)


def test_an_object_without_a_direction_has_no_orientation() -> None:
    ids = np.zeros((9, 9), np.uint8)
    ids[2:5, 2:5] = 1
    assert math.isnan(measure_objects(ids, [1]).orientation_deg[0])


def test_intensity_is_of_the_objects_own_pixels() -> None:
    ids = np.zeros((6, 8), np.uint8)
    ids[1:3, 1:4] = 1
    grey = np.full((6, 8), np.nan)
    grey[1:3, 1:4] = [[1, 2, 3], [4, 5, 6]]
    found = measure_objects(ids, [1], grey=grey)
    assert (found.mean_intensity, found.integrated_intensity) == (3.5, 21.0)
    with pytest.raises(ShapeError):
        measure_objects(ids, [1], grey=grey[:5])


def test_the_nearest_neighbour_is_of_the_same_class() -> None:
    ids = np.zeros((5, 40), np.uint8)
    ids[2, 2] = ids[2, 12] = ids[2, 30] = 1
    ids[2, 4] = 2
    found = measure_objects(ids, [1, 2], pixel=(2.0, 2.0))
    assert found.neighbour_distance[found.class_value == 1].tolist() == [20, 20, 36]
    assert math.isnan(found.neighbour_distance[found.class_value == 2][0])


def test_small_and_cut_objects_are_left_out_on_request() -> None:
    ids = np.zeros((30, 30), np.uint8)
    ids[0:4, 5:9] = ids[10:14, 10:14] = ids[20, 20] = 1
    assert len(measure_objects(ids, [1])) == 3
    assert measure_objects(ids, [1]).touches_border.tolist() == [True, False, False]
    kept = measure_objects(ids, [1], min_px=2, exclude_border=True)
    assert kept.area_px.tolist() == [16]
    assert kept.perimeter[0] == measure_objects(ids[9:15, 9:15], [1]).perimeter[0]
    assert math.isnan(kept.neighbour_distance[0])


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
