"""E562 and E1245 by hand: points and pixels become fractions with Student's interval."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.tools.measure.standards.interval import FieldValue
from emcfsys_engine.tools.measure.standards.phase_fraction import (
    count_points,
    fraction_interval,
    fraction_of,
    measure_areas,
    phase_fractions,
    point_grid,
)
from emcfsys_engine.tools.measure.standards.results import (
    Calibration,
    Gathered,
    PhaseFraction,
    Standard,
    StandardSettings,
)
from tests.thorough import tries
from tests.tools.measure.standards.simulated import blobs

PHASES = [(1, "pore")]


def over(values: list[float], standard: Standard = "e1245") -> PhaseFraction:
    gathered = Gathered(settings=StandardSettings(standard=standard))
    gathered.fields += [(f"{at}", {"pore": FieldValue(value=v)}) for at, v in enumerate(values)]
    *each, together = phase_fractions(gathered, None)
    assert [row.fraction for row in each] == values
    return together


def test_fraction_interval_and_relative_accuracy_by_hand() -> None:
    row = over([0.10, 0.14, 0.12, 0.16, 0.08])
    sd = math.sqrt((0.0004 + 0.0004 + 0 + 0.0016 + 0.0016) / 4)
    half = 2.7764451 * sd / math.sqrt(5)  # Student's t of 4 degrees of freedom
    assert row.fraction == pytest.approx(0.12)
    assert row.sd == pytest.approx(sd)
    assert row.fraction_ci95_low == pytest.approx(0.12 - half)
    assert row.fraction_ci95_high == pytest.approx(0.12 + half)
    assert row.relative_accuracy_percent == pytest.approx(100 * half / 0.12)


def test_an_interval_never_leaves_what_a_fraction_can_be() -> None:
    row = over([0.0, 0.02, 0.0])
    assert row.fraction_ci95_low == 0
    assert over([1.0, 0.98, 1.0]).fraction_ci95_high == 1


def test_points_on_a_phase_are_counted_by_hand() -> None:
    ids = np.zeros((40, 40), np.uint8)
    ids[:, :20] = 1  # every grid of 16 points has two of its four columns on each half
    (found,) = count_points(ids, PHASES, 16, np.random.default_rng(0)).values()
    assert found.value == 0.5
    area = measure_areas(ids, PHASES)["pore"]
    assert found.variance == pytest.approx((area.variance or 0) + 0.25 / 16)
    ids[:, 30:] = 255  # what is not labelled has no points
    (found,) = count_points(ids, PHASES, 16, np.random.default_rng(0)).values()
    assert found.value == pytest.approx(2 / 3)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(20, 200),
    width=st.integers(20, 200),
    num=st.integers(4, 100),
    seed=st.integers(0, 99),
)
def test_a_grid_has_about_as_many_points_as_asked_for_all_within(
    height: int, width: int, num: int, seed: int
) -> None:
    grid = point_grid((height, width), num, np.random.default_rng(seed))
    assert (grid >= 0).all()
    assert (grid < (height, width)).all()
    rows, columns = (side / math.sqrt(height * width / num) for side in (height, width))
    assert (math.floor(rows)) * math.floor(columns) <= len(grid)
    assert len(grid) <= math.ceil(rows) * math.ceil(columns)


def test_point_counts_have_no_bias() -> None:
    inside = blobs(np.random.default_rng(1), 256, 6, 0.3)
    ids = inside.astype(np.uint8)
    shares = [
        count_points(ids, PHASES, 100, np.random.default_rng(seed))["pore"].value
        for seed in range(60)
    ]
    assert np.mean(shares) == pytest.approx(inside.mean(), abs=0.012)


def test_the_models_errors_move_the_fraction_and_widen_its_interval() -> None:
    gathered = Gathered(settings=StandardSettings(standard="e1245"))
    for at, value in enumerate([0.30, 0.32, 0.34]):
        gathered.fields.append((f"{at}", {"pore": FieldValue(value=value)}))
    calibration = Calibration(
        predicted=[{"pore": FieldValue(value=0.3)}, {"pore": FieldValue(value=0.4)}, {}],
        true=[{"pore": FieldValue(value=0.28)}, {"pore": FieldValue(value=0.31)}, {}],
    )
    plain, powered = phase_fractions(gathered, None)[-1], phase_fractions(gathered, calibration)[-1]
    assert powered.fraction == pytest.approx(0.32 - (0.02 + 0.09 + 0) / 3)
    assert (powered.relative_accuracy_percent or 0) > (plain.relative_accuracy_percent or 0)


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
def test_the_interval_of_one_image_holds_the_truth_in_93_of_100_materials(
    width: float, fraction: float
) -> None:
    assert share_held(tries(250, 1000), 192, width, fraction) >= 0.93


def test_the_interval_of_one_image_holds_the_truth_of_most_materials() -> None:
    assert share_held(100, 128, 3.0, 0.3) >= 0.9
