"""E562 and E1245 by hand: points and pixels become fractions with Student's interval."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.tools.measure.standards.interval import FieldValue
from emcfsys_engine.tools.measure.standards.phase_fraction import (
    count_points,
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
