"""A run keeps its letter and colour."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_tui.view_models import RunRow
from emcfsys_tui.widgets.run_rows import filter_of, folds_of, folds_words, own_places


def test_a_run_keeps_its_letter_and_colour_whatever_is_drawn_beside_it() -> None:
    alone = own_places(["run-0003", "run-0004"], 6)
    more = own_places(["run-0001", "run-0003", "run-0004", "run-0012"], 6)
    assert alone == {"run-0003": 2, "run-0004": 3}
    assert alone.items() <= more.items()
    assert len(set(own_places([f"run-{n * 6:04d}" for n in range(1, 7)], 6).values())) == 6


def _run(number: int, score: float | None, backbone: str, **more: str) -> RunRow:
    return RunRow(
        id=f"run-{number:04d}",
        folder=Path("runs"),
        does="train",
        state=more.get("state", "done"),
        network=f"unet/{backbone}",
        score=score,
        group=more.get("group", ""),
        fold=int(more.get("fold", "0")),
        is_copy="copy" in more,
        settings=(("model.backbone", backbone), ("training.minutes", more.get("minutes", "5")))
        + ((("training.kfold", "3"),) if "fold" in more else ()),
    )


RUNS = (
    _run(1, 0.91, "resnet18"),
    _run(2, 0.70, "resnet50", minutes="30"),
    _run(3, None, "convnext_tiny", state="failed"),
)


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("", [1, 2, 3]),
        ("iou>.8 backbone:resnet*", [1]),
        ("backbone:resnet", [1, 2]),
        ("minutes>=30", [2]),
        ("training.minutes=5", [1, 3]),
        ("FAILED", [3]),
        ("state!=failed", [1, 2]),
        ("iou<1", [1, 2]),  # a run without a score is neither
        ("nothing:x*", []),
    ],
)
def test_a_filter_keeps_the_runs_for_which_every_word_holds(words: str, numbers: list[int]) -> None:
    holds = filter_of(words)
    assert [int(run.id[-4:]) for run in RUNS if holds(run)] == numbers


def test_a_comparison_without_a_number_is_refused_with_an_example() -> None:
    with pytest.raises(InputError, match=r"iou>\.8"):
        filter_of("iou>high")


def test_copies_of_a_fold_do_not_count_twice_and_folds_that_are_gone_are_told() -> None:
    fold = {"group": "kfold-0001"}
    runs = [
        _run(9, 0.99, "resnet18", fold="1", copy="yes", **fold),
        _run(1, 0.9, "resnet18", fold="1", **fold),
        _run(2, 0.8, "resnet18", fold="2", state="interrupted", **fold),
        _run(4, 0.5, "resnet18"),
    ]
    folds = folds_of("kfold-0001", runs)
    assert [run.id for run in folds] == ["run-0001", "run-0002"]
    words = "kfold-0001: 2 of 3 folds, best 0.850 ± 0.071 of 2; 1 not done"
    assert folds_words("kfold-0001", folds) == words
    third = _run(3, 0.7, "resnet18", fold="3", **fold)
    assert folds_words("kfold-0001", [runs[1], third, third]).startswith(
        "kfold-0001: 3 folds, best "
    )
    assert [run.id for run in folds_of("kfold-0001", [runs[0]])] == ["run-0009"]  # renamed
