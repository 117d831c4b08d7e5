"""train, plan, adapt: what is refused before anything is made, and what is told of folds."""

import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.train import adapt, plan, train
from emcfsys_engine.errors import EmcfError
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import EventWriter, RunFinished, RunStarted
from emcfsys_engine.run.groups import new_trainings
from emcfsys_engine.run.outcome import ExitRecord


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose folder of images is empty."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "images"\n'
        'masks = "images"\n'
    )
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        [],
        [".", "--resume", "runs/run-0001"],
        ["--resume", "runs/run-0001", "--follow"],
        ["--resume", "runs/run-0001", "--from", "best.safetensors"],
    ],
)
def test_what_makes_no_sense_together_is_refused(words: list[str], empty: Path) -> None:
    assert CliRunner().invoke(train, words).exit_code == 2
    assert not (empty / "runs").exists()


@pytest.mark.parametrize(
    "words",
    [["--resume", "runs/run-0001"], [".", "--from", "none.safetensors"], [".", "--set", "x.y=1"]],
)
def test_what_is_not_there_is_named_and_no_run_is_made(words: list[str], empty: Path) -> None:
    told = CliRunner().invoke(train, words)
    assert isinstance(told.exception, EmcfError)
    assert not (empty / "runs").exists()


def test_a_plan_of_a_project_that_would_be_refused_says_why_and_makes_nothing(
    empty: Path,
) -> None:
    before = sorted(empty.rglob("*"))
    told = CliRunner().invoke(plan, ["."])
    assert told.exit_code == 2
    assert "error: " in told.output
    assert sorted(empty.rglob("*")) == before


def test_adapt_names_the_model_that_is_missing(empty: Path) -> None:
    told = CliRunner().invoke(adapt, ["none.safetensors", "a.tif"])
    assert isinstance(told.exception, EmcfError)
    assert "none.safetensors" in str(told.exception)


def test_folds_that_are_all_done_tell_the_mean_of_all_and_which_are_gone(empty: Path) -> None:
    """Also of folds that another call trained."""
    (empty / "masks").mkdir()
    runs = new_trainings(load_project(empty, ["training.kfold=3"]))
    for run, score in zip(runs, (0.5, 0.6, 0.8), strict=True):
        run.checkpoint_file.touch()
        with EventWriter(run.events_file) as events:
            events.write(RunStarted(run=run.id, does="train"))
            events.write(RunFinished(reason="steps", step=1, score=score))
        run.exit_file.write_bytes(msgspec.json.encode(ExitRecord(exit_code=0)))
    place = empty / "runs" / "kfold-0001"
    told = CliRunner().invoke(train, ["--resume", str(place)])
    assert told.stderr.splitlines() == [
        "3 folds: best score 0.633 ± 0.153 (mean ± standard deviation)",
        f"together they are one model: {place}",
    ]
    shutil.rmtree(runs[1].folder)
    told = CliRunner().invoke(train, ["--resume", str(place)])
    assert told.stderr.splitlines() == [
        "2 folds: best score 0.650 ± 0.212 (mean ± standard deviation)",
        f"{place} has 2 of its 3 folds: the others are gone",
    ]
