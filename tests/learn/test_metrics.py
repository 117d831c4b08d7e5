"""Scores against a slow count, pixel by pixel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.learn.metrics import confusion_matrix, scores


@given(
    pixels=st.lists(st.tuples(st.sampled_from([0, 1, 2, 255]), st.integers(0, 2)), min_size=1),
)
def test_scores_agree_with_counting_sets(pixels: list[tuple[int, int]]) -> None:
    truth = torch.tensor([pair[0] for pair in pixels])
    guess = torch.tensor([pair[1] for pair in pixels])
    found = scores(confusion_matrix(guess, truth, 3), ("a", "b", "c"))
    labelled = [(t, g) for t, g in pixels if t != 255]
    ious = []
    for index, name in enumerate(("a", "b", "c")):
        hit = sum(t == g == index for t, g in labelled)
        either = sum(index in (t, g) for t, g in labelled)
        expected = hit / either if either else None
        assert found.iou[name] == (None if expected is None else pytest.approx(expected))
        if expected is not None:
            ious.append(expected)
            total = sum(t == index for t, _ in labelled) + sum(g == index for _, g in labelled)
            assert found.f1[name] == pytest.approx(2 * hit / total)
    assert found.mean_iou == (pytest.approx(sum(ious) / len(ious)) if ious else None)
    assert found.pixels == len(labelled)
    if labelled:
        assert found.accuracy == pytest.approx(sum(t == g for t, g in labelled) / len(labelled))


def test_a_class_in_neither_has_no_iou_and_enters_no_mean() -> None:
    truth = torch.tensor([0, 0, 1, 1])
    found = scores(confusion_matrix(truth, truth, 3), ("a", "b", "c"))
    assert found.iou == {"a": 1.0, "b": 1.0, "c": None}
    assert (found.mean_iou, found.mean_foreground_iou) == (1.0, 1.0)


def test_best_by_names_one_number() -> None:
    truth = torch.tensor([0, 0, 1, 1])
    guess = torch.tensor([0, 1, 1, 1])
    found = scores(confusion_matrix(guess, truth, 2), ("a", "b"))
    assert found.score("iou:b") == pytest.approx(2 / 3)
    assert found.score("mean_foreground_iou") == pytest.approx(2 / 3)
    assert found.score("mean_iou") == pytest.approx((1 / 2 + 2 / 3) / 2)
