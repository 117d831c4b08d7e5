"""Scores of objects against a slow second account of them, and by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from emcfsys_engine.learn.inference.objects import basins_of
from emcfsys_engine.learn.training.object_scores import (
    GRID,
    THRESHOLDS,
    best_settings,
    counts_of,
    grid_counts,
    overlap_of,
    scores_of,
)
from emcfsys_engine.model_card import ObjectSettings
from emcfsys_engine.run.events import ObjectScores

# Each connected area is one object: heights play no part.
PLAIN = ObjectSettings(seed=0.0, neck=0.0)


def scored(
    found: np.ndarray, truth: np.ndarray, bare: np.ndarray | None = None, nm: float | None = None
) -> ObjectScores:
    """Score objects that do not touch within a class; those of `found` are of class 1."""
    mask = (found > 0).astype(np.uint8)
    labels = (truth > 0).astype(np.uint8)
    if bare is not None:
        labels[bare] = 255
        truth = np.where(bare, 0, truth)
    marks, basins = basins_of(mask, np.stack([mask * 255, mask * 0]), (1,))
    size = None if nm is None else (nm, nm)
    one = overlap_of(marks, basins, truth.astype(np.int32), labels, size)
    return scores_of([counts_of(one, PLAIN, (1,))[0]])


def slowly(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Match object by object, with the best assignment there is."""
    ours, theirs = (
        [ids == n for n in range(1, int(ids.max()) + 1) if (ids == n).any()]
        for ids in (found, truth)
    )
    iou = np.zeros((len(ours), len(theirs)))
    for i, mine in enumerate(ours):
        for j, own in enumerate(theirs):
            iou[i, j] = (mine & own).sum() / (mine | own).sum()
    ap, sums = [], 0.0
    for threshold in THRESHOLDS:
        good = np.where(iou > threshold, iou, 0)
        rows, columns = linear_sum_assignment(-good)
        hit = int((good[rows, columns] > 0).sum())
        ap.append(hit / (len(ours) + len(theirs) - hit))
        sums = good[rows, columns].sum() if threshold == 0.5 else sums
    sizes = [sorted(math.sqrt(4 * one.sum() / math.pi) for one in each) for each in (ours, theirs)]
    steps = np.unique(np.concatenate(sizes))
    error = sum(
        (b - a)
        * abs(
            sum(s <= a for s in sizes[0]) / len(ours) - sum(s <= a for s in sizes[1]) / len(theirs)
        )
        for a, b in itertools.pairwise(steps)
    )
    return {
        "ap50": ap[0],
        "ap50_95": sum(ap) / len(ap),
        "pq": 2 * sums / (len(ours) + len(theirs)),
        "splits": sum(sum((m & o).sum() * 2 > m.sum() for m in ours) > 1 for o in theirs),
        "merges": sum(sum((m & o).sum() * 2 > o.sum() for o in theirs) > 1 for m in ours),
        "size_error": error,
    }


def apart(rng: np.random.Generator) -> np.ndarray:
    """Rectangles in cells of a grid, so that none touch."""
    ids = np.zeros((36, 48), np.int32)
    for number, (row, column) in enumerate(np.ndindex(3, 4), 1):
        if rng.random() < 0.8:
            top, left = row * 12 + rng.integers(1, 4), column * 12 + rng.integers(1, 4)
            ids[top : top + rng.integers(3, 9), left : left + rng.integers(3, 9)] = number
    return ids


@given(st.integers(0, 2**32 - 1))
def test_scores_are_those_of_a_slow_second_account(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = apart(rng), apart(rng)
    if rng.random() < 0.5:  # a true object that two found ones lie in, and the reverse
        truth[1:11, 1:23], found[25:35, 25:47] = truth.max() + 1, found.max() + 1
        truth[25:35, 25:47] = np.where(np.arange(22) < 10, truth.max() + 1, truth[25:35, 25:47])
    if not (truth.any() and found.any()):
        return
    ours, slow = scored(found, truth), slowly(found, truth)
    for name, value in slow.items():
        assert getattr(ours, name) == pytest.approx(value), name
    assert ours.pq == pytest.approx((ours.sq or 0) * (ours.rq or 0))


def test_a_split_a_merge_and_sizes_by_hand() -> None:
    truth, found = np.zeros((2, 10, 40), np.int32)
    truth[:, :10] = 1
    found[:, :4], found[:, 5:10] = 1, 2  # 50 of 100 pixels are no more than half
    truth[:, 15:20], truth[:, 21:26] = 2, 3
    found[:, 15:26] = 3
    one = scored(found, truth, nm=2.0)
    assert (one.splits, one.merges, one.num_found, one.num_true) == (1, 1, 3, 3)
    assert one.ap50 == 0
    diameters = [
        [math.sqrt(4 * area / math.pi) * 2 for area in own]
        for own in ((40, 50, 110), (50, 50, 100))
    ]
    by_hand = sum(abs(a - b) for a, b in zip(*diameters, strict=True)) / 3
    assert one.size_error == pytest.approx(by_hand)
    assert one.size_unit == "nm"


def test_what_nobody_labelled_is_neither_hit_nor_miss() -> None:
    truth, found, bare = (np.zeros((10, 40), np.int32) for _ in range(3))
    truth[2:8, 2:8], found[2:8, 2:8] = 1, 1
    found[2:8, 20:30] = 2
    assert scored(found, truth).ap50 == 0.5
    bare[:, 24:] = 1
    assert scored(found, truth, bare > 0).ap50 == 1
    bare[:, 24:], bare[:, 27:] = 0, 1  # mostly labelled: a false one
    assert scored(found, truth, bare > 0).ap50 == 0.5


def test_the_settings_chosen_are_those_of_the_highest_quality() -> None:
    truth = np.zeros((30, 60), np.int32)
    truth[5:25, 5:25], truth[5:25, 25:45] = 1, 2
    mask = (truth > 0).astype(np.uint8)
    across = np.abs((np.arange(60) - 5) % 20 - 9.5)
    height = mask * (255 - across * 8).astype(np.uint8)  # a shallow valley between the two
    marks, basins = basins_of(mask, np.stack([height, mask * 0]), (1,))
    one = overlap_of(marks, basins, truth, mask, None)
    best = best_settings(grid_counts([one], (1,)))
    assert best in GRID
    assert scores_of([counts_of(one, best, (1,))[0]]).pq == 1


def test_no_object_anywhere_has_no_score() -> None:
    nothing = np.zeros((5, 5), np.int32)
    one = scored(nothing, nothing)
    assert (one.pq, one.ap50, one.sq, one.size_error) == (None, None, None, None)
