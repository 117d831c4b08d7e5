"""Expected beside true IoU: what is promised, and whether it is kept."""

import pytest

from emcfsys_engine.promises import ImageScore, promise_of, table_of, words_of


def score(name: str, iou: float | None, expected: float | None) -> ImageScore:
    if expected is None:
        return ImageScore(image=name, iou=iou)
    return ImageScore(
        image=name, iou=iou, expected=expected, low=expected - 0.1, high=expected + 0.1
    )


def test_a_promise_counts_only_images_of_which_both_are_known() -> None:
    scores = [
        score("a", 0.9, 0.85),
        score("b", 0.5, 0.7),
        score("c", 0.4, 0.45),
        score("d", None, 0.9),
        score("e", 0.1, None),
    ]
    found = promise_of(scores)
    assert found is not None
    assert found.images == 3
    assert found.within == pytest.approx(2 / 3)
    assert found.error == pytest.approx((0.05 + 0.2 + 0.05) / 3)
    assert found.spearman == pytest.approx(1.0)
    lines = table_of(scores, found)
    assert lines[1].split()[:3] == ["b", "0.5000", "0.7000"]  # the largest difference first
    assert "outside" in lines[1]
    assert "67% of 3 images (90% promised), Spearman 1.000" in lines[-1]


def test_equal_ranks_are_shared_and_no_rank_is_no_correlation() -> None:
    tied = [score(str(n), iou, told) for n, (iou, told) in enumerate(
        [(0.1, 0.2), (0.1, 0.3), (0.5, 0.3), (0.9, 0.9)]
    )]  # fmt: skip
    found = promise_of(tied)
    assert found is not None
    assert found.spearman == pytest.approx(0.8333, abs=1e-3)  # scipy.stats.spearmanr
    alike = promise_of([score(str(n), 0.5, 0.5) for n in range(4)])
    assert alike is not None
    assert alike.spearman is None


def test_a_model_that_cannot_tell_promises_nothing_and_it_is_said() -> None:
    assert promise_of([score("a", 0.5, None)]) is None
    assert "cannot tell" in words_of(None)
    assert len(table_of([score("a", 0.5, None)], None)) == 1
