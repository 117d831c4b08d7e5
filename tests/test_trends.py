"""Control charts against the handbook's worked examples, and shifts that are known to be there."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.trends import (
    Limits,
    ewma,
    individual_limits,
    shifts,
    signals,
)

# NIST/SEMATECH e-Handbook 6.3.2.2 (flow rates) and 6.3.2.4 (EWMA).
FLOW = [49.6, 47.6, 49.9, 51.3, 47.8, 51.2, 52.6, 52.4, 53.6, 52.1]
LONG = [52.0, 47.0, 53.0, 49.3, 50.1, 47.0, 51.0, 50.1, 51.2, 50.5, *FLOW]


def test_limits_of_individuals_are_those_of_the_handbook() -> None:
    limits = individual_limits(FLOW)
    assert limits.centre == pytest.approx(50.81)
    assert limits.high == pytest.approx(55.8041, abs=1e-3)
    assert limits.low == pytest.approx(45.8159, abs=1e-3)
    assert signals(FLOW, limits) == []


def test_weighted_means_are_those_of_the_handbook() -> None:
    found = ewma(LONG, Limits(centre=50, sigma=2.0539), weight=0.3)
    told = [
        50.60, 49.52, 50.56, 50.18, 50.16, 49.21, 49.75, 49.85, 50.26, 50.33,
        50.11, 49.36, 49.52, 50.05, 49.38, 49.92, 50.73, 51.23, 51.94, 51.99,
    ]  # fmt: skip
    assert found.means == pytest.approx(told, abs=6e-3)
    assert (found.low, found.high) == pytest.approx((47.4115, 52.5884), abs=1e-3)


@pytest.mark.parametrize(
    ("zs", "place", "rule"),
    [
        ([0, 3.1], 1, "beyond 3"),
        ([2.1, 0, 2.2], 2, "2 of 3"),
        ([1.1, 1.2, 0, 1.3, 1.4], 4, "4 of 5"),
        ([0.1] * 8, 7, "8 on one side"),
        ([-0.5, -0.3, -0.2, 0.1, 0.3, 0.5], 5, "6 rising"),
    ],
)
def test_each_rule_is_broken_by_its_own_pattern_on_both_sides(
    zs: list[float], place: int, rule: str
) -> None:
    limits = Limits(centre=10, sigma=2)
    for side in (1, -1):
        (found,) = signals([10 + side * 2 * z for z in zs], limits)
        assert found.place == place
        assert rule in found.rule
    assert signals([10, 12.1, 9, 11, 8], limits) == []


def test_a_value_that_never_changed_and_does_is_told() -> None:
    limits = individual_limits([5.0] * 10)
    assert [one.place for one in signals([5.0, 5.0, 6.0], limits)] == [2]


def test_shifts_are_named_where_they_begin_and_end() -> None:
    chance = random.Random(1)
    values = [chance.gauss(0, 1) for _ in range(200)]
    for place in range(80, 110):
        values[place] -= 6
    first, second = shifts(values)
    assert abs(first.place - 80) <= 1
    assert abs(second.place - 110) <= 1
    assert first.after < -5
    steps = shifts([4.0] * 40 + [8.0] * 40)
    assert [(one.place, one.before, one.after) for one in steps] == [(40, 4.0, 8.0)]


@given(seed=st.integers(0, 10_000), outlier=st.integers(0, 119))
def test_chance_and_a_single_outlier_are_no_shift(seed: int, outlier: int) -> None:
    chance = random.Random(seed)
    values = [chance.gauss(0, 1) for _ in range(120)]
    values[outlier] += 30
    assert shifts(values) == []
    assert shifts(values[:9]) == []
    assert shifts([3.0] * 50) == []


def test_a_small_shift_that_no_other_rule_sees_is_told_by_the_weighted_mean() -> None:
    limits = Limits(centre=10, sigma=2)
    for side in (1, -1):
        zs = [1.9, 0.9, 1.9, 0.9, 1.9, 0.9, 1.9]
        found = signals([10 + side * 2 * z for z in zs], limits)
        assert {one.rule for one in found} == {"weighted mean beyond its limits"}
        assert found[-1].place == 6


@given(value=st.floats(-1e6, 1e6), number=st.integers(2, 40))
def test_what_never_changes_has_itself_as_centre_and_weighted_mean(
    value: float, number: int
) -> None:
    limits = individual_limits([value] * number)
    assert (limits.centre, limits.sigma) == (value, 0)
    assert signals([value] * number, limits) == []
    assert {*ewma([value] * number, limits).means} == {value}
