"""runs: lists, compares and reports what run folders say, one damaged one among them."""

import errno
import json
import os
from pathlib import Path
from typing import NoReturn

import pytest

from emcfsys_engine.commands.runs import report, runs
from emcfsys_engine.project import load_project
from emcfsys_engine.run import folder as folder_of_runs
from emcfsys_engine.run.events import EventWriter, RunFinished, RunStarted, ValidationDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_tui.engine.run_history import RunHistory
from tests.commands.made import say
from tests.tools.report.test_page import validation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "images"\n'
        'masks = "images"\n'
    )
    return tmp_path


def trained(folder: Path, score: float, *overrides: str) -> Run:
    project = load_project(folder, overrides)
    run = new_run(project.runs_folder, TrainRequest(), project=project)
    with EventWriter(run.events_file) as events:
        events.write(RunStarted(run=run.id, does="train", project="p", device="cpu"))
        events.write(validation(10, score, best=True))
        events.write(RunFinished(reason="steps", step=10))
    return run


def test_runs_are_listed_with_state_and_score_and_a_damaged_one_hides_none(folder: Path) -> None:
    trained(folder, 0.75)
    damaged = trained(folder, 0.5)
    damaged.record_file.write_text("{")
    listed = json.loads(say(runs, str(folder), "--json"))["runs"]
    assert [(row["run"], row["state"], row["score"]) for row in listed] == [
        ("run-0001", "done", 0.75),
        ("run-0002", "unreadable", None),
    ]
    assert "0.750" in say(runs, "list", str(folder))


def test_a_colleague_who_may_not_read_a_record_sees_how_its_run_went(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(folder, 0.75)

    def refused(file: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))

    monkeypatch.setattr(folder_of_runs, "read_own", refused)
    (row,) = json.loads(say(runs, str(folder), "--json"))["runs"]
    assert (row["state"], row["score"], row["step"]) == ("done", 0.75, 10)
    history = RunHistory(run)
    history.read_new()
    assert (history.row().state, history.row().score) == ("done", 0.75)


def test_compared_runs_show_only_the_settings_in_which_they_differ(folder: Path) -> None:
    one, other = (trained(folder, 0.5, f"training.steps={steps}") for steps in (10, 20))
    words = ["compare", str(one.folder), str(other.folder), "--json"]
    found = json.loads(say(runs, *words))
    assert found["settings"] == {"training.steps": [10, 20]}
    assert "training.steps" in say(runs, *words[:-1])


def test_a_report_is_one_page(folder: Path) -> None:
    run = trained(folder, 0.75)
    page = Path(json.loads(say(report, str(run.folder), "--json"))["page"])
    assert page.read_text().startswith("<!")
    assert isinstance(run.events()[1], ValidationDone)
