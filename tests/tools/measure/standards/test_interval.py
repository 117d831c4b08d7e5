"""Intervals are Student's, hold as often as they say, and know the model's own errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.measure.standards.interval import (
    FieldValue,
    field_of_parts,
    over_fields,
    prediction_powered,
    t_95,
)

_CASES = 1000


def fields_of(values: np.ndarray) -> list[FieldValue]:
    return [FieldValue(value=float(value)) for value in values]


def test_the_interval_over_fields_is_t_s_over_root_n() -> None:
    spread = over_fields(fields_of(np.array([10.0, 12.0, 14.0, 12.0])))
    sd = math.sqrt((4 + 0 + 4 + 0) / 3)
    half = 3.1824463 * sd / 2  # Student's t of 3 degrees of freedom
    assert (spread.mean, spread.sd, spread.num_fields) == (12.0, pytest.approx(sd), 4)
    assert spread.half_width == pytest.approx(half)
    assert spread.relative_accuracy_percent == pytest.approx(100 * half / 12)


def test_one_field_has_the_interval_of_its_parts_and_one_without_parts_none() -> None:
    one = field_of_parts([1.0, 2.0, 3.0])
    spread = over_fields([one])
    assert spread.half_width == pytest.approx(4.3026527 * math.sqrt(1 / 3))
    assert spread.sd is None
    assert over_fields([field_of_parts([2.0])]).half_width is None


def test_prediction_powered_by_hand() -> None:
    fields = fields_of(np.array([0.30, 0.34, 0.32]))
    spread = prediction_powered(fields, [0.30, 0.40], [0.27, 0.36])
    # The model says 0.03 and 0.04 too much: 0.32 - 0.035.
    assert spread.mean == pytest.approx(0.285)
    of_fields, of_errors = 0.0004 / 3, 0.00005 / 2
    total = of_fields + of_errors
    freedom = total**2 / (of_fields**2 / 2 + of_errors**2 / 1)
    assert spread.half_width == pytest.approx(t_95(freedom) * math.sqrt(total))


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=12), st.floats(0.1, 100))
def test_intervals_scale_with_the_unit(values: list[float], factor: float) -> None:
    plain = over_fields(fields_of(np.array(values)))
    scaled = over_fields(fields_of(factor * np.array(values)))
    assert scaled.mean == pytest.approx(factor * plain.mean)
    assert scaled.half_width == pytest.approx(factor * (plain.half_width or 0), abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_a_model_without_errors_changes_nothing_but_the_freedom(values: list[float]) -> None:
    fields = fields_of(np.array(values))
    plain, powered = over_fields(fields), prediction_powered(fields, [0.1, 0.5], [0.1, 0.5])
    assert powered.mean == pytest.approx(plain.mean)
    assert powered.half_width == pytest.approx(plain.half_width, abs=1e-9)


def test_over_fields_holds_the_truth_in_950_of_1000_cases() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(_CASES):  # 40 grains a field, of which 30 % are of the phase
        spread = over_fields(fields_of(rng.binomial(40, 0.3, 6) / 40))
        held += abs(spread.mean - 0.3) <= (spread.half_width or 0)
    assert held >= 0.93 * _CASES


def test_prediction_powered_holds_the_truth_of_a_wrong_model_in_950_of_1000_cases() -> None:
    rng = np.random.default_rng(2)
    held = naive = 0
    for _ in range(_CASES):
        true = rng.beta(6, 14, 20 + 8)  # mean 0.3
        guess = 0.05 + 0.9 * true + 0.02 * rng.standard_normal(true.size)
        fields = fields_of(guess[:20])
        spread = prediction_powered(fields, guess[20:].tolist(), true[20:].tolist())
        held += abs(spread.mean - 0.3) <= (spread.half_width or 0)
        plain = over_fields(fields)
        naive += abs(plain.mean - 0.3) <= (plain.half_width or 0)
    assert held >= 0.93 * _CASES
    assert naive < held  # without validation images the model's bias is taken for the truth


def test_errors_of_one_image_are_refused() -> None:
    with pytest.raises(InputError, match="1 validation images have a number in both"):
        prediction_powered(fields_of(np.array([1.0, 2.0])), [1.0], [2.0])
