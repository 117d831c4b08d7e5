"""A run that was moved, refused, extended, resumed and evaluated is told alike everywhere."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from emcfsys_engine.commands.jobs import table_of
from emcfsys_engine.jobs import transitions
from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.machine import Machine
from emcfsys_engine.jobs.queue import Queue, submit_extension
from emcfsys_engine.jobs.transitions import judge, outcome_of
from emcfsys_engine.learn.training.plan import read_plan
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import end_of_events
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import new_trainings
from emcfsys_engine.settings import JobSettings
from emcfsys_engine.tools.report.page import report_page
from emcfsys_engine.tools.report.summary import read_summary
from emcfsys_tui.engine.run_history import RunHistory
from emcfsys_tui.view_models import RunRow
from tests.learn.conftest import run_here
from tests.learn.training.test_kept_split import _swap_sides


def _as_the_daemon_does(queue: Queue, run: Run, steps: int) -> Job:
    """Queue an extension and run it in this process; return the job as it ended."""
    number = submit_extension(queue, run, (f"training.steps={steps}",))
    job = queue.get(number)
    offset = end_of_events(run.events_file)
    assert transitions.claim(
        queue.store, job, token=f"token{number}", gpu_ids=(), events_offset=offset
    )
    run_here(run)
    job = queue.get(number)
    outcome = outcome_of(run, job)
    verdict = judge(job, outcome, JobSettings(), ran_s=1.0)
    assert transitions.settle(queue.store, job, outcome, verdict)
    return queue.get(number)


def _line(run: Run) -> RunRow:
    history = RunHistory(run)
    history.read_new()
    return history.row()


def _tell_one_story(run: Run, steps: int, engine: Callable[..., str]) -> None:
    (row,) = json.loads(engine("runs", run.folder.parent.parent, "--json"))["runs"]
    line, summary, plan = _line(run), read_summary(run), read_plan(run)
    best, card = summary.best, read_card(run.best_model)
    assert best is not None
    assert {row["state"], line.state, summary.state, run.state()} == {"done"}
    assert {row["reason"], line.reason, summary.reason} == {"steps"}
    assert {row["step"], line.step, summary.step, line.total_steps, summary.total_steps} == {steps}
    project = run.record().project
    assert project is not None
    assert (plan.total_steps, project.training.steps) == (steps, steps)
    assert row["score"] == line.score == best.score == pytest.approx(card.scores["mean_iou"])
    assert line.best_step == best.step == card.step
    page = report_page(run)
    assert f"steps of {steps}" in page
    assert f"step {best.step}" in page
    assert (tuple(card.trained_on), tuple(card.validated_on)) == (
        plan.train_images,
        plan.val_images,
    )
    words = ("evaluate", run.best_model, run.folder.parent.parent, "--json")
    found = json.loads(engine(*words))
    assert (found["split_of"], found["images"]) == ("model", len(plan.val_images))
    assert found["scores"]["mean_iou"] == pytest.approx(best.score, abs=0.02)  # bfloat16


def test_a_run_tells_one_story(
    dealt: Project, tmp_path: Path, engine_here: Callable[..., str]
) -> None:
    (begun,) = new_trainings(dealt)
    assert run_here(begun) == 0
    place = dealt.folder.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    run = Run(place / "runs" / begun.id)
    _tell_one_story(run, 2, engine_here)
    with Queue.open(place / "queue", machine=Machine()) as queue:
        _swap_sides(run)
        refused = _as_the_daemon_does(queue, run, 4)
        assert refused.state == "failed"
        assert refused.reason.splitlines()[0] in table_of(queue.list(), width=2000)
        _swap_sides(run)
        _tell_one_story(run, 2, engine_here)
        assert _as_the_daemon_does(queue, run, 4).state == "done"
        _tell_one_story(run, 4, engine_here)
    engine_here("train", "--resume", run.folder, "--set", "training.steps=6")
    _tell_one_story(run, 6, engine_here)
