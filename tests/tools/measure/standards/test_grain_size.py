"""G is what E112's formulas make of counts worked by hand, and its intervals hold the truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.tools.measure.standards.grain_size import (
    METHODS,
    count_grains,
    g_of_grains,
    g_of_intercepts,
    grain_sizes,
    measure_grains,
)
from emcfsys_engine.tools.measure.standards.interval import over_fields
from emcfsys_engine.tools.measure.standards.results import (
    Gathered,
    GrainSize,
    StandardSettings,
)
from tests.thorough import tries
from tests.tools.measure.standards.simulated import voronoi_crossings, voronoi_grains


def test_g_as_the_standard_tabulates_it() -> None:
    # G 1 is one grain a square inch at 100 times: 15.5 a mm²; each step doubles them.
    for g in (0, 4, 8, 12):
        assert g_of_grains(15.5 * 2 ** (g - 1)) == pytest.approx(g, abs=0.002)
    # G 0 has a mean intercept of 0.32 mm; each step is √2 finer.
    for g in (0, 5, 10):
        assert g_of_intercepts(math.sqrt(2) ** g / 0.32) == pytest.approx(g, abs=0.002)


def chessboard(tiles: int, side: int) -> np.ndarray:
    number = np.arange(1, tiles**2 + 1, dtype=np.int32).reshape(tiles, tiles)
    return number.repeat(side, 0).repeat(side, 1)


def test_grains_of_a_rectangle_by_hand() -> None:
    # 5 × 5 squares: 9 whole, 12 cut by a side, 4 at a corner: 9 + 12 / 2 + 4 / 4.
    assert count_grains(chessboard(5, 4)) == 16
    # Cut in the middle of squares, each corner square shows a quarter: as much as the area holds.
    assert count_grains(chessboard(6, 4)[2:-2, 2:-2]) == 25
    # One grain that all sides cut counts once, nothing counts nothing.
    assert count_grains(np.ones((4, 4), np.int32)) == 1
    assert count_grains(np.zeros((4, 4), np.int32)) == 0


def test_grains_beside_what_is_not_labelled_are_cut() -> None:
    grains = chessboard(5, 4)
    grains[8:12, 8:12] = -1  # the one in the middle: its four neighbours are whole no longer
    assert count_grains(grains) == 16 - 1 - 4 / 2


def row_of(method: str, pixel_nm: float, grains: np.ndarray) -> GrainSize:
    gathered = Gathered(settings=StandardSettings(standard="e112"))
    found = measure_grains(grains, (pixel_nm, pixel_nm), 90, np.random.default_rng(0))
    gathered.fields.append(("a", found))
    (row,) = (row for row in grain_sizes(gathered, None) if row.method == method and not row.mask)
    return row


def test_planimetric_numbers_of_one_field_by_hand() -> None:
    # 24 × 24 pixels of 100 nm in nine parts of 8 × 8, each cut through 2 × 2 squares of 4 × 4:
    # all four stand at corners, 4 / 4 = 1 grain in (800 nm)².
    row = row_of("planimetric", 100, chessboard(6, 4))
    per_mm2 = 1 / 0.0008**2
    assert row.grains_per_mm2 == pytest.approx(per_mm2)
    assert row.grain_size_nm == pytest.approx(800)
    assert row.g == pytest.approx(3.321928 * math.log10(per_mm2) - 2.954)
    assert (row.g_ci95_low, row.g_ci95_high) == (pytest.approx(row.g), pytest.approx(row.g))
    assert row.relative_accuracy_percent == pytest.approx(0, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), method=st.sampled_from(METHODS))
def test_pixels_twice_as_large_double_the_grain_size_and_lower_g_by_two(
    seed: int, method: str
) -> None:
    grains = voronoi_grains(np.random.default_rng(seed), 120, 150)
    small, large = row_of(method, 10, grains), row_of(method, 20, grains)
    assert large.grain_size_nm == pytest.approx(2 * (small.grain_size_nm or 0))
    assert (small.g or 0) - (large.g or 0) == pytest.approx(2, abs=1e-5)
    assert large.relative_accuracy_percent == pytest.approx(small.relative_accuracy_percent)


def test_one_grain_has_no_intercepts_and_says_so() -> None:
    row = row_of("lines", 10, np.ones((60, 60), np.int32))
    assert (row.crossings_per_mm, row.g, row.grain_size_nm) == (0, None, None)


def test_lines_by_circles_and_planimetry_agree_on_the_same_material() -> None:
    grains = voronoi_grains(np.random.default_rng(5), 500, 400)
    found = {method: row_of(method, 10, grains).g or 0 for method in METHODS}
    assert found["lines"] == pytest.approx(found["circles"], abs=0.2)
    # These cells have more boundary than E112's grains: by 2 log₂(4 / π) - 0.334.
    assert found["lines"] - found["planimetric"] == pytest.approx(0.363, abs=0.15)


@pytest.mark.long
def test_the_interval_of_one_field_holds_the_truth_in_93_of_100_materials() -> None:
    cases = tries(200, 1000)
    area_px = 400.0
    crossed = voronoi_crossings(area_px) * 1e6
    true = {"lines": crossed, "circles": crossed, "planimetric": 1e12 / area_px}
    held = dict.fromkeys(METHODS, 0)
    for seed in range(cases):
        rng = np.random.default_rng(seed)
        found = measure_grains(voronoi_grains(rng, 300, area_px), (1, 1), 90, rng)
        for method in METHODS:
            spread = over_fields([found[method]])
            held[method] += abs(spread.mean - true[method]) <= (spread.half_width or 0)
    assert min(held.values()) >= 0.93 * cases, held
