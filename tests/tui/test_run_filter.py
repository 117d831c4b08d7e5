"""The filter of runs: scores, settings, words."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_tui.run_filter import filter_of
from emcfsys_tui.view_models import RunRow


def _run(number: int, score: float | None, backbone: str, **more: str) -> RunRow:
    return RunRow(
        id=f"run-{number:04d}",
        folder=Path("runs"),
        does="train",
        state=more.get("state", "done"),
        network=f"unet/{backbone}",
        score=score,
        settings=(("model.backbone", backbone), ("training.minutes", more.get("minutes", "5"))),
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
