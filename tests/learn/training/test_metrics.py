"""Scores against a slow count, pixel by pixel."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.learn.training.metrics import (
    boundary_counts,
    boundary_f1,
    confusion_matrix,
    middle_line_counts,
    scores,
)


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


def _slow_boundary(
    plane: list[list[int]], labels: list[list[int]], index: int
) -> set[tuple[int, int]]:
    """Walk over the pixels: those of a class beside a labelled pixel of another class."""
    found: set[tuple[int, int]] = set()
    size = range(len(plane))
    for y, x in itertools.product(size, size):
        for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if (
                v in size
                and u in size
                and 255 not in (labels[y][x], labels[v][u])
                and plane[y][x] == index != plane[v][u]
            ):
                found.add((y, x))
    return found


def _near(ones: set[tuple[int, int]], others: set[tuple[int, int]], tolerance: float) -> int:
    return sum(any(math.dist(one, other) <= tolerance for other in others) for one in ones)


@given(
    seed=st.integers(0, 2**32 - 1),
    tolerance=st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.0]),
    num_classes=st.sampled_from([2, 3, 11]),
)
def test_boundary_f1_agrees_with_walking_over_the_pixels(
    seed: int, tolerance: float, num_classes: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    guess = torch.randint(0, num_classes, (3, 3), generator=generator)
    truth = torch.randint(0, num_classes, (3, 3), generator=generator)
    guess, truth = (p.repeat_interleave(3, 0).repeat_interleave(3, 1) for p in (guess, truth))
    truth[torch.rand(truth.shape, generator=generator) < 0.1] = 255
    counts = boundary_counts(guess, truth, num_classes, tolerance)
    found = boundary_f1(counts, [str(index) for index in range(num_classes)])
    labels = truth.tolist()
    for index in range(num_classes):
        ours = _slow_boundary(guess.tolist(), labels, index)
        theirs = _slow_boundary(labels, labels, index)
        near = (_near(ours, theirs, tolerance), _near(theirs, ours, tolerance))
        assert counts[index].tolist() == [len(ours), near[0], len(theirs), near[1]]
        if not ours and not theirs:
            assert found[str(index)] is None
            continue
        precision, recall = near[0] / max(1, len(ours)), near[1] / max(1, len(theirs))
        both = precision + recall
        expected = 2 * precision * recall / both if both else 0.0
        assert found[str(index)] == pytest.approx(expected)


def test_a_boundary_within_the_tolerance_is_perfect_and_one_outside_is_none() -> None:
    truth = torch.zeros(20, 20, dtype=torch.int64)
    truth[:, 10:] = 1
    for shift, expected in ((0, 1.0), (2, 1.0), (3, 0.0)):
        counts = boundary_counts(truth.roll(shift, 1)[:, 5:], truth[:, 5:], 2, 2.0)
        assert boundary_f1(counts, ("a", "b")) == {"a": expected, "b": expected}


def test_middle_lines_by_hand() -> None:
    """A wire of 3 × 20, of which the second half is missing, is wide, or is unlabelled."""
    truth, guess = torch.zeros(2, 9, 26, dtype=torch.uint8)
    truth[3:6, 3:23] = 1
    guess[2:7, 3:23] = 1  # wide: hangs together
    wide = middle_line_counts(guess, truth, 2)[1].tolist()
    assert wide[0] == wide[1] > 10
    assert wide[2] == wide[3] > 10
    guess[:, 13:] = 0
    half = middle_line_counts(guess, truth, 2)[1].tolist()
    assert half[0] == half[1]
    assert half[3] == pytest.approx(half[2] / 2, abs=1.5)
    assert boundary_f1(torch.tensor([[0] * 4, half]), ("a", "b"))["b"] == pytest.approx(
        2 * (half[3] / half[2]) / (1 + half[3] / half[2])
    )
    truth[:, 13:] = 255
    nothing_missing = middle_line_counts(guess, truth, 2)[1].tolist()
    assert nothing_missing[2] == nothing_missing[3]


def test_a_class_that_is_nowhere_has_no_middle_line() -> None:
    nothing = torch.zeros(8, 8, dtype=torch.uint8)
    counts = middle_line_counts(nothing, nothing, 2)
    assert counts[1].tolist() == [0, 0, 0, 0]
    assert boundary_f1(counts, ("a", "b"))["b"] is None
