"""A run is read once, and again when anything of it changed."""

import json
import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.runs import list_ as list_runs
from emcfsys_engine.run.events import (
    ImageDone,
    ImageFailed,
    RunCancelled,
    RunFailed,
    RunStarted,
)
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import extend, undo_extension
from emcfsys_tui.engine.run_history import RunHistory
from tests.tui.conftest import made_run, say, step, validation
from tests.tui.runs_made import rows_of


def test_a_run_that_ended_is_read_once(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_run(demo)
    made_run(demo, steps=40)
    before = rows_of(demo)
    assert [row.step for row in before] == [40, 100]
    monkeypatch.setattr(RunHistory, "read_new", lambda self: pytest.fail("its events were read"))
    assert rows_of(demo) == before


def test_whatever_changes_in_a_run_is_seen(demo: Path) -> None:
    run = made_run(demo, steps=20)
    assert rows_of(demo)[0].score is not None
    changes = [
        lambda: say(run, RunStarted(run=run.id, does="train", total_steps=60), step(30)),
        lambda: say(run, validation(40, 0.9), RunFailed(reason="the disk is full")),
        lambda: run.exit_file.write_text('{"exit_code": 0}'),
        lambda: run.best_model.write_bytes(b"a model"),
        lambda: say(run, RunStarted(run=run.id, does="train"), RunCancelled(step=40)),
        lambda: os.truncate(run.events_file, 200),
    ]
    for change in changes:
        change()
        (kept,) = rows_of(demo)
        history = RunHistory(Run(run.folder))
        history.read_new()
        assert kept == history.row()


def test_a_run_that_waits_for_more_steps_says_so_and_no_longer_once_it_does_not(demo: Path) -> None:
    run = made_run(demo, steps=20)
    history = RunHistory(Run(run.folder))
    history.read_new()
    assert (history.row().state, history.row().reason) == ("done", "steps")
    extend(run, ("training.steps=90",))
    history.read_new()
    assert history.row().reason == "waits to go on to 90 steps"
    undo_extension(run)
    history.read_new()
    assert history.row().reason == "steps"


def test_images_that_are_tried_again_are_counted_once(demo: Path) -> None:
    run = made_run(demo, steps=20)
    started = RunStarted(run=run.id, does="predict", total_steps=2)
    done = ImageDone(image="a.tif", mask="a.png", seconds=1, shares={})
    say(run, started, done, *[ImageFailed(image="b.tif", reason="is away")] * 2)
    history = RunHistory(run)
    history.read_new()
    before = history.row().step
    say(run, started, ImageDone(image="b.tif", mask="b.png", seconds=1, shares={}))
    history.read_new()
    assert (before, history.row().step) == (22, 22)


def test_no_other_number_stands_for_a_score_that_is_not_known(demo: Path) -> None:
    run = made_run(demo, steps=4)  # by the IoU of a class that no validation image has
    unknown = msgspec.structs.replace(validation(4, 0.8, best=False), score=None)
    say(run, unknown)
    (row,) = rows_of(demo)
    assert (row.score, row.best_step) == (None, None)
    told = CliRunner().invoke(list_runs, [str(demo), "--json"])
    assert json.loads(told.stdout)["runs"][0]["score"] is None
