"""From sums over an image to the IoU that is expected, and the reason why it is low."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.learn.inference.evidence import AXES, OF_CELLS, OF_CLASS, agreement
from emcfsys_engine.learn.inference.expected import (
    _agreement,
    _at_most,
    expected,
    in_event,
    odds,
    resemblance,
    share,
    signals,
)
from emcfsys_engine.learn.training.trust import TrustRow, fitted
from emcfsys_engine.model_card import Trust
from tests.learn.training.test_trust import empty_trust, rows

CLASSES = ("resin", "grain")


@pytest.fixture(scope="module")
def trust() -> Trust:
    return fitted(empty_trust(), rows())


def evidence(overlap: float, place: float = 0.0) -> np.ndarray:
    """Return sums of an image whose mask overlaps so well by its probabilities."""
    sure = 200 * overlap / (1 + overlap)
    half = [100.0, sure, 100.0, 0.0, 100.0, 100.0]
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


def fair_trust() -> Trust:
    """Return what expects of an image about what its probabilities say."""
    rng = np.random.default_rng(0)
    shown = [
        TrustRow(
            image=image,
            kind=kind,
            signals=signals(evidence(iou)[0]) + rng.normal(0, 0.05, 3 + 3 + 2 + AXES),
            ious=np.array([iou, iou, iou]),
        )
        for image in range(4)
        for kind, iou in (("", 0.9), ("noise", 0.7), ("defocus", 0.5), ("empty", 0.2)) * 3
    ]
    return fitted(empty_trust(), shown)


def test_an_image_nearer_to_those_of_the_training_than_any_trial_is_no_worse() -> None:
    trust, seen = fair_trust(), evidence(0.9)
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


def test_an_iou_is_told_alike_whatever_the_last_digits_of_its_sums_were(trust: Trust) -> None:
    seen = evidence(0.83)
    told = {
        (found.iou, found.low, found.high, *found.classes.values())
        for off in (-1e-13, 0.0, 1e-13)  # as other numbers of threads add up
        if (found := expected((trust,), seen * (1 + off), CLASSES)) is not None
    }
    assert len(told) == 1


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


def test_models_that_are_each_sure_of_another_mask_are_not_believed() -> None:
    trust = fair_trust()
    alone = expected((trust,), evidence(0.9), CLASSES)
    assert alone is not None
    assert alone.iou > 0.8
    rows_MX = np.concatenate((evidence(0.9), evidence(0.9)))
    of_classes_MC6 = rows_MX[:, :-OF_CELLS].reshape(2, 2, OF_CLASS)
    of_classes_MC6[..., 5] = 40  # of 100 pixels in each mask: an overlap of a quarter
    rows_MX[:, :-OF_CELLS] = of_classes_MC6.reshape(2, -1)
    both = expected((trust, trust), rows_MX, CLASSES)
    assert both is not None
    assert both.iou == pytest.approx(1 - alone.iou + 0.25)
    assert both.classes["grain"] == pytest.approx(1 - alone.classes["grain"] + 0.25)
    assert both.low <= both.iou <= both.high
    assert both.reason == "the models disagree"


def test_a_class_that_no_mask_has_is_no_disagreement() -> None:
    trust = fair_trust()
    rows_MX = np.concatenate((evidence(0.9), evidence(0.9)))
    of_classes_MC6 = rows_MX[:, :-OF_CELLS].reshape(2, 2, OF_CLASS)
    of_classes_MC6[:, 1, (0, 1, 4, 5)] = 0  # no pixel is grain
    rows_MX[:, :-OF_CELLS] = of_classes_MC6.reshape(2, -1)
    alone, both = expected((trust,), rows_MX[:1], CLASSES), expected((trust,) * 2, rows_MX, CLASSES)
    assert alone is not None
    assert both is not None
    assert both.classes == pytest.approx(alone.classes)
    assert both.iou == pytest.approx(alone.iou)


@given(seed=st.integers(0, 2**32 - 1), spoilt=st.tuples(*[st.floats(0, 0.6)] * 3))
def test_no_joint_mask_is_better_than_what_it_shares_with_its_members_allows(
    seed: int, spoilt: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(seed)
    truth_N = rng.integers(0, 2, 400)

    def iou(one_N: np.ndarray, other_N: np.ndarray) -> float:
        return float((one_N & other_N).sum() / max(1, (one_N | other_N).sum()))

    masks_MN = [np.where(rng.random(400) < share, 1 - truth_N, truth_N) for share in spoilt]
    logits_MC = [np.stack((1 - mask, mask)) * rng.uniform(1, 9) for mask in masks_MN]
    logits_MCHW = torch.tensor(np.stack(logits_MC), dtype=torch.float32)[..., None]
    shared_MC2 = agreement(logits_MCHW).numpy()
    joint_N = logits_MCHW.softmax(1).mean(0).max(0).indices.numpy()[:, 0]
    rows_MX = np.zeros((3, 2 * OF_CLASS + OF_CELLS))
    of_classes_MC6 = rows_MX[:, :-OF_CELLS].reshape(3, 2, OF_CLASS)
    of_classes_MC6[..., 0] = [[(mask == value).sum() for value in (0, 1)] for mask in masks_MN]
    of_classes_MC6[..., 4:] = shared_MC2
    alike_M = _agreement(rows_MX)[:, 1]
    assert alike_M == pytest.approx([iou(mask, joint_N) for mask in masks_MN])
    truly_M = [iou(mask, truth_N) for mask in masks_MN]
    most = min(1 - one + alike for one, alike in zip(truly_M, alike_M, strict=True))
    assert iou(joint_N, truth_N) <= most + 1e-9
    assert _at_most(truly_M, alike_M) <= most + 1e-9
