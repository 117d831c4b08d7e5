"""The two-point correlation of one image says how far its fraction may be from the material's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.tools.measure.standards.two_point import fraction_interval, fraction_of
from tests.tools.measure.standards.simulated import blobs


def all_of(inside: np.ndarray) -> np.ndarray:
    return np.ones(inside.shape, bool)


def test_pixels_by_chance_have_the_variance_of_as_many_throws() -> None:
    inside = np.random.default_rng(0).random((300, 200)) < 0.3
    one = fraction_of(inside, all_of(inside))
    assert one is not None
    assert one.value == inside.mean()
    assert one.variance == pytest.approx(0.3 * 0.7 / inside.size, rel=0.1)


def test_blocks_by_chance_have_the_variance_of_as_many_blocks() -> None:
    # 1,600 blocks of 8 × 8 pixels, each of the phase or not: p (1 - p) / 1,600.
    inside = (np.random.default_rng(1).random((40, 40)) < 0.5).repeat(8, 0).repeat(8, 1)
    one = fraction_of(inside, all_of(inside))
    assert one is not None
    assert one.variance == pytest.approx(0.25 / 1600, rel=0.3)


def test_the_sum_of_covariances_by_hand() -> None:
    # Two columns of 4 pixels, φ = ½: at r = 0 the 8 products are ¼, Σ = 2. At 1 ≤ r < 2 there are
    # 12 along the columns (+¼), 8 across and 12 slantwise (-¼): Σ = -2, and nothing is left. The
    # larger of (2 / 8²) / (1 - 8 / 8²) and (0 / 8²) / (1 - 40 / 8²) is taken.
    inside = np.array([[1, 0]] * 4, bool)
    one = fraction_of(inside, all_of(inside))
    assert one is not None
    assert one.variance == pytest.approx((2 / 64) / (1 - 8 / 64))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100))
def test_phase_and_rest_are_equally_sure(seed: int) -> None:
    inside = blobs(np.random.default_rng(seed), 96, 3, 0.3)
    one, rest = fraction_of(inside, all_of(inside)), fraction_of(~inside, all_of(inside))
    assert one is not None
    assert rest is not None
    assert one.variance == pytest.approx(rest.variance)
    (low, high), (other_low, other_high) = fraction_interval(one), fraction_interval(rest)
    assert (low, high) == (pytest.approx(1 - other_high), pytest.approx(1 - other_low))
    assert 0 < low < one.value < high < 1


def test_a_large_image_in_blocks_is_as_sure_as_its_pixels() -> None:
    inside = blobs(np.random.default_rng(3), 500, 8, 0.4)
    small = fraction_of(inside, all_of(inside))
    fine = inside.repeat(4, 0).repeat(4, 1)
    large = fraction_of(fine, all_of(fine))
    assert small is not None
    assert large is not None
    assert large.variance == pytest.approx(small.variance, rel=0.05)


def test_what_is_not_labelled_is_no_part_of_the_fraction() -> None:
    inside = blobs(np.random.default_rng(4), 128, 3, 0.4)
    labelled = np.zeros(inside.shape, bool)
    labelled[:, :64] = True
    half, alone = fraction_of(inside, labelled), fraction_of(inside[:, :64], labelled[:, :64])
    assert half is not None
    assert alone is not None
    assert half.value == alone.value
    assert half.variance == pytest.approx(alone.variance)
    assert fraction_of(inside, ~all_of(inside)) is None


def test_an_image_without_the_phase_has_no_interval() -> None:
    nothing = np.zeros((40, 40), bool)
    one = fraction_of(nothing, all_of(nothing))
    assert one is not None
    assert (one.value, one.variance, fraction_interval(one)) == (0, None, None)


def share_held(cases: int, side: int, width: float, fraction: float) -> float:
    held = 0
    for seed in range(cases):
        inside = blobs(np.random.default_rng(seed), side, width, fraction)
        one = fraction_of(inside, all_of(inside))
        ends = fraction_interval(one) if one is not None else None
        held += ends is not None and ends[0] <= fraction <= ends[1]
    return held / cases


@pytest.mark.long
@pytest.mark.parametrize(("width", "fraction"), [(3.0, 0.3), (4.0, 0.5), (5.0, 0.3), (3.0, 0.1)])
def test_the_interval_of_one_image_holds_the_truth_in_930_of_1000_materials(
    width: float, fraction: float
) -> None:
    assert share_held(1000, 192, width, fraction) >= 0.93


def test_the_interval_of_one_image_holds_the_truth_of_most_materials() -> None:
    assert share_held(100, 128, 3.0, 0.3) >= 0.9
