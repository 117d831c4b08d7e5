"""Reduction of long series: nothing that was in them is lost."""

import math
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_tui.series import Series, smoothed

_VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=500)


def _series(values: list[float]) -> Series:
    series = Series()
    series.extend(range(len(values)), values)
    return series


@settings(deadline=None)
@given(_VALUES, st.integers(1, 40))
def test_extremes_of_columns_are_those_of_the_values(values: list[float], columns: int) -> None:
    found = _series(values).view().columns(0, len(values) - 1, columns)
    assert min(column.low for column in found) == min(values)
    assert max(column.high for column in found) == max(values)
    assert len(found) <= columns + 1


@settings(deadline=None)
@given(_VALUES, st.data())
def test_extremes_of_any_part_are_right(values: list[float], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(values) - 1))
    end = data.draw(st.integers(start + 1, len(values)))
    low, high, _ = _series(values).extremes(start, end)
    assert (low, high) == (min(values[start:end]), max(values[start:end]))


def test_a_view_does_not_change_when_its_series_grows() -> None:
    series = _series([1.0, 2.0])
    view = series.view()
    series.extend([2.0], [99.0])
    assert view.last == 2.0
    assert view.columns(0, 10, 5)[-1].high == 2.0


def test_a_resume_leaves_the_points_up_to_its_step() -> None:
    series = _series([float(n) for n in range(300)])
    kept = series.cut_after(150)
    assert kept.view().span == (0.0, 150.0)
    assert series.view().count == 300


def test_smoothing_a_constant_changes_nothing() -> None:
    columns = _series([2.0] * 50).view().columns(0, 49, 100)
    assert all(abs(column.mean - 2.0) < 1e-12 for column in smoothed(columns, 3))


def test_a_million_points_are_reduced_in_no_time() -> None:
    series = Series()
    series.extend(range(1_000_000), map(float, range(1_000_000)))
    began = time.process_time()
    series.view().columns(0, 999_999, 300)
    assert time.process_time() - began < 0.25


def test_what_no_chart_can_show_is_left_out_of_a_series() -> None:
    series = _series([1.0, math.inf, -1e308, 1e308, math.nan, 2.0])
    assert list(series.xs) == [0.0, 5.0] and list(series.ys) == [1.0, 2.0]
