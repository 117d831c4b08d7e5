"""The real worker under the real daemon, a few times: torch is in it, so these are long."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from emcfsys_engine.jobs import supervisor
from emcfsys_engine.jobs.control import DaemonLock, ensure_daemon, stop_daemon
from emcfsys_engine.jobs.job import Ask, Job
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.launch.processes import MOST_GRACES, Activity
from emcfsys_engine.launch.start import holder
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import StepDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from tests.jobs.conftest import wait_for
from tests.jobs.made import job_with

DEMO = Path(__file__).parents[2] / "projects/demo"


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    monkeypatch.setenv("PYTHONPATH", str(DEMO.parents[1]))
    shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("runs"))
    with Queue.open(tmp_path / "state") as opened:
        yield opened
        stop_daemon(opened.folder, jobs=True)


def _training(queue: Queue, steps: int) -> Run:
    training = [f"steps={steps}", "patch_px=64", "batch=2", "validate_every=5"]
    overrides = [f"training.{one}" for one in training]
    overrides += ["model.backbone=mobilenetv3_small_050", "model.weights=none"]
    project = load_project(queue.folder.parent / "demo", [*overrides, "compute.threads=1"])
    return new_run(project.runs_folder, TrainRequest(), project=project, resume="auto")


def _steps(run: Run) -> list[int]:
    return [event.step for event in run.events() if isinstance(event, StepDone)]


def _wait(queue: Queue, job_id: int, *states: str) -> Job:
    wait_for(lambda: queue.get(job_id).state in states, seconds=200, what=f"job {job_id}")
    return queue.get(job_id)


@pytest.mark.long
def test_training_outlives_its_daemon_and_is_done_once(queue: Queue) -> None:
    run = _training(queue, 20)
    job_id = queue.add(run.folder, project_name="demo", gpus=0)
    ensure_daemon(queue.folder)
    wait_for(lambda: _steps(run))
    pid = DaemonLock(queue.folder).status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not DaemonLock(queue.folder).status().running)
    assert run.is_alive()
    ensure_daemon(queue.folder)
    job = _wait(queue, job_id, "done", "failed", "lost")
    assert (job.state, job.starts) == ("done", 1)
    assert run.final_model.exists()


@pytest.mark.long
def test_killed_training_goes_on_and_cancel_ends_it(queue: Queue) -> None:
    run = _training(queue, 100_000)
    job_id = queue.add(run.folder, project_name="demo", gpus=0, retries=1)
    ensure_daemon(queue.folder)
    wait_for(lambda: run.checkpoint_file.exists())
    held_by = holder(run)
    assert held_by is not None
    reached = max(_steps(run))
    os.kill(held_by.worker, signal.SIGKILL)
    wait_for(lambda: queue.get(job_id).starts == 2)
    wait_for(lambda: _steps(run) and max(_steps(run)) > reached)
    queue.cancel(job_id)
    assert _wait(queue, job_id, "cancelled", "failed", "lost").state == "cancelled"
    assert not run.is_alive()
    assert [line.state for line in queue.history(job_id)] == [
        "queued",
        "running",
        "queued",
        "running",
        "stopping",
        "cancelled",
    ]


@pytest.mark.long
def test_paused_training_frees_the_machine_and_goes_on(queue: Queue) -> None:
    run = _training(queue, 100_000)
    job_id = queue.add(run.folder, project_name="demo", gpus=0)
    ensure_daemon(queue.folder)
    wait_for(lambda: _steps(run))
    queue.pause(job_id)
    _wait(queue, job_id, "paused", "failed")
    assert not run.is_alive()
    reached = max(_steps(run))
    queue.resume(job_id)
    wait_for(lambda: max(_steps(run)) > reached)
    queue.stop(job_id)
    assert _wait(queue, job_id, "done", "failed").reason == "stopped"


@pytest.mark.parametrize(("ask", "is_killed"), [("stop", False), ("cancel", True)])
def test_a_stop_leaves_time_for_the_last_steps_while_they_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask, is_killed: bool
) -> None:
    now, killed = [0.0], list[int]()
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Activity, "goes_on", lambda self: True)
    start = supervisor.Start(job_with(1, run=str(tmp_path), token="t"))
    monkeypatch.setattr(start, "holder", lambda: killed.append(1))
    start.ask(ask, 30)
    killed.clear()
    for _ in range(3 * MOST_GRACES):
        now[0] += 31
        start.kill_if_due()
    assert start.was_killed == bool(killed) == is_killed
