"""How common classes are, where only some pixels are labelled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.learn.training.shares import em_shares, weights_for

MEANS = np.array([0.0, 2.0, 4.0])


def _probabilities(values_N: np.ndarray, taught_C: np.ndarray) -> np.ndarray:
    """What a perfect network says that was taught classes in these shares."""
    likely_NC = np.exp(-0.5 * (values_N[:, None] - MEANS) ** 2) * taught_C
    return likely_NC / likely_NC.sum(axis=1, keepdims=True)


@given(
    st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
    st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
)
def test_true_shares_are_found_whatever_shares_were_taught(
    true: list[float], taught: list[float]
) -> None:
    shares, others = (np.array(one) / sum(one) for one in (true, taught))
    rng = np.random.default_rng(0)
    classes = rng.choice(3, 20_000, p=shares)
    values = rng.normal(MEANS[classes], 1)
    found = em_shares(_probabilities(values, others), others)
    assert found == pytest.approx(shares, abs=0.04)
    assert found.sum() == pytest.approx(1)


def test_where_everything_is_labelled_a_class_of_a_hundredth_counts_ten_times_one_of_all() -> None:
    shares = np.array([0.81, 0.18, 0.01])
    weights = weights_for(shares, shares)
    assert weights[2] / weights[0] == pytest.approx(9.0, rel=1e-3)
    assert float(np.dot(weights, shares)) == pytest.approx(1, rel=1e-3)


def test_a_rare_class_that_was_drawn_much_counts_less_a_pixel() -> None:
    alike = np.array([0.5, 0.5])
    weights = weights_for(np.array([0.99, 0.01]), alike)
    assert weights[0] / weights[1] == pytest.approx(np.sqrt(99), rel=1e-3)
