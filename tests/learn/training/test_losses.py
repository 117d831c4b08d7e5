"""Losses: worked by hand, and by laws."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from emcfsys_engine.errors import ShapeError
from emcfsys_engine.learn.training.losses import (
    SORTED,
    SUMMED,
    boundary_of_sums,
    boundary_sums,
    build_loss,
)

ALL = ("ce", "dice", "focal", "tversky", "lovasz", "boundary", "ohem")
SURE = 40.0  # a logit that makes its class certain


def _certain(target_NHW: Tensor, num_classes: int) -> Tensor:
    return torch.nn.functional.one_hot(target_NHW, num_classes).movedim(-1, 1).float() * SURE


def _term(
    name: str, logits_NCHW: Tensor, target_NHW: Tensor, weights_C: Tensor | None = None
) -> Tensor:
    """Return a term as training computes it, in the dtype of the logits."""
    if name in SORTED:
        return SORTED[name](logits_NCHW, target_NHW, weights_C)
    sums, value = SUMMED[name]
    return value(sums(logits_NCHW, target_NHW, weights_C))


def _narrow_boundary(logits_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
    return boundary_of_sums(boundary_sums(logits_NCHW, target_NHW, None, 1))


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[[math.log(3.0), 0.0]], [[0.0, 0.0]]]])  # p = 3/4, 1/2 for class 0
    target = torch.tensor([[[0, 1]]])
    expected = (-math.log(0.75) - math.log(0.5)) / 2
    assert _term("ce", logits, target).item() == pytest.approx(expected)


def test_class_weights_are_a_weighted_mean() -> None:
    logits = torch.tensor([[[[math.log(3.0), 0.0]], [[0.0, 0.0]]]])
    target = torch.tensor([[[0, 1]]])
    weights = torch.tensor([1.0, 3.0])
    expected = (-math.log(0.75) - 3 * math.log(0.5)) / 4
    found = _term("ce", logits, target, weights)
    assert found.item() == pytest.approx(expected)


def test_focal_by_hand() -> None:
    logits = torch.tensor([[[[math.log(3.0)]], [[0.0]]]])
    target = torch.tensor([[[0]]])
    assert _term("focal", logits, target).item() == pytest.approx(0.25**2 * -math.log(0.75))


def test_dice_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 2)  # p = 1/2 everywhere
    target = torch.tensor([[[0, 0]]])
    class_0 = (2 * 1 + 1) / (1 + 2 + 1)  # overlap 1, sums 1 and 2, one pixel of smoothing
    class_1 = (0 + 1) / (1 + 0 + 1)
    expected = 1 - (class_0 + class_1) / 2
    assert _term("dice", logits, target).item() == pytest.approx(expected)


def test_tversky_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    target = torch.tensor([[[0, 0]]])
    class_0 = (1 + 1) / (1 + 0.3 * 0 + 0.7 * 1 + 1)
    class_1 = (0 + 1) / (0 + 0.3 * 1 + 0.7 * 0 + 1)
    assert _term("tversky", logits, target).item() == pytest.approx(1 - (class_0 + class_1) / 2)


def test_lovasz_of_hard_errors_is_one_minus_iou() -> None:
    target = torch.tensor([[[0, 0, 0, 1]]])
    logits = _certain(torch.tensor([[[0, 0, 1, 1]]]), 2)
    expected = 1 - (2 / 3 + 1 / 2) / 2
    assert _term("lovasz", logits, target).item() == pytest.approx(expected, abs=1e-5)


def test_ohem_keeps_only_the_hard_pixels() -> None:
    logits = torch.tensor([[[[SURE, 0.0]], [[0.0, 0.0]]]])  # one certain, one even pixel
    target = torch.tensor([[[0, 0]]])
    assert _term("ohem", logits, target).item() == pytest.approx(math.log(2))


def test_a_shifted_boundary_costs_nothing_within_its_width_and_much_outside() -> None:
    target = torch.zeros(1, 32, 32, dtype=torch.int64)
    target[:, :, 16:] = 1
    near, far = (torch.zeros_like(target) for _ in range(2))
    near[:, :, 18:] = 1
    far[:, :, 28:] = 1
    assert _term("boundary", _certain(near, 2), target).item() < 0.05
    assert _term("boundary", _certain(far, 2), target).item() > 0.9


@pytest.mark.parametrize("name", ALL)
def test_a_perfect_prediction_costs_nothing(name: str) -> None:
    target = torch.zeros(2, 16, 16, dtype=torch.int64)
    target[:, 4:12, 4:12] = 1
    assert build_loss(name)(_certain(target, 2), target).item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("name", ["ce", "dice", "focal", "tversky"])
def test_an_absent_class_that_is_predicted_costs(name: str) -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    wrong = torch.zeros_like(target)
    wrong[:, :2] = 2
    loss = build_loss(name)
    assert loss(_certain(wrong, 3), target) > loss(_certain(target, 3), target) + 0.01


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32 - 1))
def test_unlabelled_pixels_get_no_gradient(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 16, 16, generator=generator, requires_grad=True)
    target = torch.randint(0, 3, (2, 16, 16), generator=generator)
    target[:, :8] = 255
    (gradient,) = torch.autograd.grad(build_loss(name)(logits, target), logits)
    assert torch.isfinite(gradient).all()
    assert not gradient[:, :, :8].any()
    assert gradient[:, :, 8:].any()


@pytest.mark.parametrize("name", ALL)
def test_a_batch_without_labels_costs_nothing_and_moves_nothing(name: str) -> None:
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    target = torch.full((1, 8, 8), 255)
    value = build_loss(name, (1.0, 2.0, 3.0))(logits, target)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", ALL)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    target = torch.zeros(1, 5, 5, dtype=torch.int64)
    target[:, 2:] = 1
    target[:, :, 3:] = 2
    if name != "boundary":  # which leaves out all that is near an unlabelled pixel
        target[0, 0, 0] = 255
    term = _narrow_boundary if name == "boundary" else partial(_term, name)
    assert torch.autograd.gradcheck(lambda x: term(x, target), logits)


def test_a_boundary_by_hand() -> None:
    # Three columns a | b | b, predicted with p(a) = 0.8, 0.5, 0.1: the pixel beside the true edge
    # has 0.5, the first 0.8 - 0.5 more than its neighbour has; likewise for b from the other side.
    shares = torch.tensor([0.8, 0.5, 0.1])
    logits = torch.stack([shares.log(), (1 - shares).log()]).reshape(1, 2, 1, 3)
    target = torch.tensor([[[0, 1, 1]]])
    guess_a = [0.8 - 0.5, 0.5 - 0.1, 0.0]  # what is above the lowest of the neighbours
    guess_b = [0.0, 0.5 - 0.2, 0.9 - 0.5]
    truth_a, truth_b = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    expected = []
    for guess, truth in ((guess_a, truth_a), (guess_b, truth_b)):
        wide = [[max(p[max(0, i - 1) : i + 2]) for i in range(3)] for p in (guess, truth)]
        precision = sum(g * t for g, t in zip(guess, wide[1], strict=True)) / sum(guess)
        recall = sum(t * g for t, g in zip(truth, wide[0], strict=True)) / sum(truth)
        expected.append(2 * precision * recall / (precision + recall))
    found = _narrow_boundary(logits, target).item()
    assert found == pytest.approx(1 - sum(expected) / 2, abs=1e-4)


@pytest.mark.parametrize("name", ["lovasz", "boundary", "ohem"])
def test_an_absent_class_changes_nothing_where_it_is_not_predicted(name: str) -> None:
    target = torch.zeros(1, 12, 12, dtype=torch.int64)
    target[:, 4:8, 4:8] = 1
    torch.manual_seed(0)
    two = torch.randn(1, 2, 12, 12)
    three = torch.cat([two, torch.full((1, 1, 12, 12), -SURE)], dim=1)
    loss = build_loss(name)
    assert loss(three, target).item() == pytest.approx(loss(two, target).item(), rel=1e-4)


def test_a_sum_is_the_sum_of_its_terms() -> None:
    torch.manual_seed(1)
    logits, target = torch.randn(1, 3, 8, 8), torch.randint(0, 3, (1, 8, 8))
    total = build_loss("ce+0.5*dice")(logits, target)
    parts = _term("ce", logits, target) + 0.5 * _term("dice", logits, target)
    assert total.item() == pytest.approx(parts.item())


def test_other_sizes_are_our_mistake() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 9, 8\)"):
        build_loss("ce")(torch.zeros(1, 2, 8, 8), torch.zeros(1, 9, 8, dtype=torch.int64))
