"""From sums over an image to the IoU that is expected, and the reason why it is low."""

import numpy as np
import pytest

from emcfsys_engine.learn.inference.evidence import AXES, OF_CELLS
from emcfsys_engine.learn.inference.expected import (
    expected,
    in_event,
    odds,
    resemblance,
    share,
    signals,
)
from emcfsys_engine.learn.training.trust import Row, fitted
from emcfsys_engine.model_card import Trust
from tests.learn.training.test_trust import empty_trust, rows

CLASSES = ("resin", "grain")


@pytest.fixture(scope="module")
def trust() -> Trust:
    return fitted(empty_trust(), rows())


def evidence(overlap: float, place: float = 0.0) -> np.ndarray:
    """Return sums of an image whose mask overlaps so well by its probabilities."""
    sure = 200 * overlap / (1 + overlap)
    half = [100.0, sure, 100.0, 0.0]
    return np.array([[*half, *half, 4.0, *[0.0] * 3, *[4 * place] * (OF_CELLS - 4)]])


def test_odds_and_shares_are_each_others_inverse_and_a_thing_resembles_itself_most() -> None:
    assert share(odds(0.3)) == pytest.approx(0.3)
    alike = resemblance(np.eye(3), np.eye(3), 2.0)
    assert np.allclose(np.diag(alike), 1)
    assert (alike <= 1).all()


def test_an_image_that_resembles_no_trial_is_expected_to_be_poor_and_it_is_said(
    trust: Trust,
) -> None:
    far = expected((trust,), evidence(0.9, place=50.0), CLASSES)
    assert far is not None
    assert far.iou == pytest.approx(0.1, abs=0.02)
    assert far.reason == "unlike the training images"


def test_an_image_nearer_to_those_of_the_training_than_any_trial_is_no_worse() -> None:
    rng = np.random.default_rng(0)
    shown = [
        Row(
            image=image,
            kind=kind,
            signals=signals(evidence(iou)[0]) + rng.normal(0, 0.05, 3 + 3 + 2 + AXES),
            ious=np.array([iou, iou, iou]),
        )
        for image in range(4)
        for kind, iou in (("", 0.9), ("noise", 0.7), ("defocus", 0.5), ("empty", 0.2)) * 3
    ]
    trust = fitted(empty_trust(), shown)
    seen = evidence(0.9)
    near, far = seen.copy(), seen.copy()
    near[0, -OF_CELLS + 1 : -OF_CELLS + 4] = -11.0 * 4  # as the network's own training images
    far[0, -OF_CELLS + 1 : -OF_CELLS + 4] = 11.0 * 4
    one, other, usual = (expected((trust,), each, CLASSES) for each in (near, far, seen))
    assert one is not None
    assert other is not None
    assert usual is not None
    assert usual.iou == pytest.approx(0.9, abs=0.05)
    assert one.iou == pytest.approx(usual.iou, abs=0.02)
    assert not one.reason
    assert other.iou < 0.3


def test_no_number_no_pixel_and_no_trust_mean_that_it_cannot_be_told(trust: Trust) -> None:
    nothing = np.zeros_like(evidence(0.9))
    assert expected((trust,), nothing, CLASSES) is None
    assert expected((trust,), nothing * np.nan, CLASSES) is None
    assert expected((), evidence(0.9), CLASSES) is None
    assert expected((empty_trust(),), evidence(0.9), CLASSES) is None
    assert in_event(None) == {}


def test_an_ensemble_expects_the_mean_and_the_widest_interval(trust: Trust) -> None:
    rows_MX = np.concatenate((evidence(0.9), evidence(0.9, place=50.0)))
    both = expected((trust, trust), rows_MX, CLASSES)
    each = [expected((trust,), row[None], CLASSES) for row in rows_MX]
    assert both is not None
    assert each[0] is not None
    assert each[1] is not None
    assert both.iou == pytest.approx((each[0].iou + each[1].iou) / 2)
    assert both.low == min(each[0].low, each[1].low)
