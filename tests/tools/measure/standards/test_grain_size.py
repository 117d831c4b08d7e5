"""Test lines count what E112 counts: by hand, on NIST's segmentations, and on known materials."""

import csv
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.ndimage import maximum_filter, minimum_filter
from skimage.draw import circle_perimeter

from emcfsys_engine.tools.measure.fields import Field
from emcfsys_engine.tools.measure.runs import runs_of
from emcfsys_engine.tools.measure.standards.grain_size import (
    ABRAMS,
    METHODS,
    Grains,
    count_crossings,
    count_grains,
    cross_circles,
    cross_lines,
    g_of_grains,
    g_of_intercepts,
    grain_map,
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

A, B, C = [1] * 5, [2] * 5, [3] * 5


@pytest.mark.parametrize(
    ("met", "count"),
    [
        ([*A, *B, *C], 2),  # grains that touch
        ([*A, 0, *B, 0, 0, *C], 2),  # boundaries of any width
        ([*A, 0, *A], 1),  # a boundary that ends, or is only touched
        ([*A, 0, 1, 0, *B], 1),  # steps of a boundary drawn in pixels
        ([*A, 2, 1, *B], 1),
        ([*A, 2, *C], 2),  # a small grain is one
        ([0, *A, 0, *B, 0], 2),  # two ends on a boundary: ½ each
        ([*A, -1, *B], 0),  # nobody knows what is between
        ([*A, 0, -1, 0, *B], 0),
        ([*A], 0),
        ([0, 0], 0),
        ([], 0),
    ],
)
def test_crossings_of_a_line_by_hand(met: list[int], count: float) -> None:
    assert count_crossings(np.array(met, np.int32)) == count
    assert count_crossings(np.array(met[::-1], np.int32)) == count


@pytest.mark.parametrize(
    ("met", "count"), [([*A, *B], 2), ([*A, *B, *C, *A], 3), ([*A, 0], 1), ([*A], 0), ([0, 0], 0)]
)
def test_crossings_of_a_circle_do_not_depend_on_where_it_begins(
    met: list[int], count: float
) -> None:
    line = np.array(met, np.int32)
    for turn in range(line.size):
        assert count_crossings(np.roll(line, turn), closed=True) == count


def published(folder: Path, name: str, which: str) -> Counter[float]:
    """Return how many segments NIST's script found, by angle or by line."""
    with (folder / f"{name}_distances_{which}.csv").open(newline="") as stream:
        return Counter(float(row[0]) for row in list(csv.reader(stream))[1:])


def short_segments(is_boundary: np.ndarray) -> int:
    """Return how many whole segments have two pixels or less: NIST leaves them out."""
    change = np.flatnonzero(np.diff(is_boundary.astype(int)))
    lengths = np.diff(change)[is_boundary[change[:-1]]] if change.size else np.zeros(0)
    return int((lengths <= 2).sum())


@pytest.mark.parametrize(
    ("name", "first_row"), [("grains_steel_highlighted", 19), ("sem_alpha_beta_ti_6al_4v", 18)]
)
def test_nist_segmentations_give_the_published_number_of_intercepts(
    shared_data: Path, name: str, first_row: int
) -> None:
    folder = shared_data / "grain-size"
    boundary = tifffile.imread(folder / f"{name}_segmented.tif") > 0
    grains, _ = ndimage.label(~boundary)
    lines = published(folder, name, "line_grid")
    whole = 0.0
    for row in range(first_row, boundary.shape[0], 60):  # where NIST's lines lie
        crossed = count_crossings(grains[row], graze=0)
        ends = 0.5 * int(boundary[row, 0]) + 0.5 * int(boundary[row, -1])  # counted by half
        whole += crossed + ends - 1 - short_segments(boundary[row])
    assert whole == lines[0.0]
    side = min(boundary.shape)
    top, left = ((have - side) // 2 for have in boundary.shape)
    square = np.pad(boundary[top : top + side, left : left + side], 1)
    grains, _ = ndimage.label(~square)
    pattern = published(folder, name, "e112")
    middle = (side + 2) // 2
    for line, share in zip((5.0, 6.0, 7.0), ABRAMS, strict=True):
        rows, columns = circle_perimeter(middle, middle, round(share * (side + 2) / 2))
        around = np.argsort(np.arctan2(columns - middle, rows - middle))
        met = grains[rows[around], columns[around]]
        assert count_crossings(met, closed=True) == pattern[line]
    ours = cross_circles(
        Grains.of(grains, (1.0, 1.0))
    ).count  # true circles instead of NIST's pixels
    assert ours == pytest.approx(sum(pattern[line] for line in (5.0, 6.0, 7.0)), rel=0.08)


def field_of(ids: np.ndarray, numbers: np.ndarray | None = None) -> Field:
    numbered = None if numbers is None else runs_of(numbers, None, nothing=0)
    return Field(
        name="a", image="", ids=ids, numbered=numbered, grey=None, pixel=(1, 1), size_HW=ids.shape
    )


def test_a_boundary_one_pixel_wide_parts_grains_also_along_a_diagonal() -> None:
    ids = np.ones((9, 9), np.uint8)
    np.fill_diagonal(ids, 0)
    grains = grain_map(field_of(ids), (1,), split="none", neck=0.75, min_px=1)
    assert grains.max() == 2
    ids[:3, 5:] = 255
    grains = grain_map(field_of(ids), (1,), split="none", neck=0.75, min_px=1)
    assert (grains[:3, 5:] == -1).all()
    small = grain_map(field_of(ids), (1,), split="none", neck=0.75, min_px=30)
    assert len(np.unique(small[small > 0])) == 1


def test_numbered_grains_are_grains_also_where_they_touch_or_fill_the_field() -> None:
    numbers = np.repeat(np.array([[7, 9, 200]]), 5, 0).repeat(4, 1)
    grains = grain_map(
        field_of(np.ones(numbers.shape, np.uint8), numbers), (1,), split="none", neck=1, min_px=1
    )
    assert np.unique(grains).tolist() == [1, 2, 3]


@pytest.mark.parametrize("pixel", [(1.0, 1.0), (2.0, 1.0), (1.0, 3.0)])
def test_lines_and_circles_measure_stripes_of_the_specimen(pixel: tuple[float, float]) -> None:
    # 29 boundaries in 599 pixels of x; lines of all directions cross 2 / π of them.
    grains = np.repeat(np.arange(1, 31), 20)[None].repeat(600, 0).astype(np.int32)
    expected = 2 / np.pi * 29 / (599 * pixel[1])
    met = cross_lines(Grains.of(grains, pixel), 2000, np.random.default_rng(0))
    assert met.count / met.length == pytest.approx(expected, rel=0.01)
    round_about = cross_circles(Grains.of(grains, pixel))
    assert round_about.count / round_about.length == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("wall_px", [0, 2, 3, 6])
def test_crossings_of_a_known_material_have_no_bias_however_wide_boundaries_are_drawn(
    wall_px: int,
) -> None:
    rng, area_px = np.random.default_rng(3), 600.0
    lines = circles = 0.0
    for _ in range(6):
        numbers = voronoi_grains(rng, 400, area_px)
        if wall_px:
            numbers[maximum_filter(numbers, wall_px) != minimum_filter(numbers, wall_px)] = 0
        grains = Grains.of(numbers, (1, 1))
        one, other = cross_lines(grains, 60, rng), cross_circles(grains)
        lines += one.count / one.length / 6
        circles += other.count / other.length / 6
    assert lines == pytest.approx(voronoi_crossings(area_px), rel=0.05)  # small grains drown
    assert circles == pytest.approx(voronoi_crossings(area_px), rel=0.05)


def test_a_boundary_that_ends_within_a_grain_is_crossed_also_when_grains_have_grown() -> None:
    numbers = np.ones((60, 60), np.int32)
    numbers[10:, 30] = 0
    met = Grains.of(numbers, (1, 1)).along(np.full(60, 40.0), np.arange(60.0))
    assert count_crossings(met) == 1


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
