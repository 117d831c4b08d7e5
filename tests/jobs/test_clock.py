"""The wall clock of daemon, keeper and worker jumps by an hour: every outcome stays true."""

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from emcfsys_engine.hotfolder.status import best_model
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import RunFinished, StepDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.tools.demo import make_demo
from tests.jobs.conftest import Bench, wait_for
from tests.thorough import tries
from tests.waiting import PATIENCE_S
from tests.wrong_clock import WrongClock


@pytest.fixture
def clock(tmp_path: Path) -> WrongClock:
    return WrongClock(tmp_path)


@pytest.fixture
def with_wrong_clock(clock: WrongClock, monkeypatch: pytest.MonkeyPatch) -> WrongClock:
    """Whatever is started from here on has the wrong clock; this process keeps its own."""
    for name, text in clock.environment.items():
        monkeypatch.setenv(name, text)
    return clock


def test_the_clock_of_a_child_is_the_one_that_was_set(clock: WrongClock) -> None:
    clock.set_hours(-1)
    said = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env={**os.environ, **clock.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert abs(float(said.stdout) - (time.time() - 3600)) < 60


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_job_ends_as_it_ended_when_the_clock_jumps_under_it(
    hours: int, bench: Bench, with_wrong_clock: WrongClock
) -> None:
    bench.start()
    run = bench.run(seconds=0)
    (run.folder / "hold").touch()
    job_id = bench.add(run)
    bench.wait(job_id, "running")
    wait_for(lambda: bench.starts(run) == 1)
    with_wrong_clock.set_hours(hours)
    (run.folder / "hold").unlink()
    job = bench.wait(job_id, "done", "failed", "lost", "interrupted")
    assert job.state == "done", job
    with_wrong_clock.set_hours(-hours)
    again = bench.add(bench.run("crash", times=1), retries=1)
    assert bench.wait(again, "done", "failed", "lost").state == "done"
    bench.kill_daemon()
    with_wrong_clock.set_hours(0)
    bench.start()
    assert bench.state(job_id) == "done"
    assert bench.starts(run) == 1


@pytest.mark.long
def test_jobs_under_kills_of_the_daemon_and_a_clock_that_jumps_all_end_true(
    bench: Bench, with_wrong_clock: WrongClock
) -> None:
    bench.configure("cpu_slots = 4\ngrace_s = 5\nretry_wait_s = 0.05")
    bench.start()
    turns = tries(5, 12)
    runs = [bench.run(seconds=0.1) for _ in range(5 * turns)]
    jobs = [bench.add(run) for run in runs]
    for turn in range(turns):
        with_wrong_clock.set_hours((-1, 1, 0)[turn % 3])
        wait_for(lambda turn=turn: sum(bench.state(job) == "done" for job in jobs) >= 4 * turn)
        bench.kill_daemon()
        bench.start()
    for job in jobs:
        assert bench.wait(job, "done", "failed", "lost", "interrupted").state == "done"
    assert [bench.starts(run) for run in runs] == [1] * len(runs)


@pytest.mark.long
def test_a_training_whose_clock_is_set_back_and_forth_is_finished_and_gives_the_best_model(
    tmp_path: Path, clock: WrongClock
) -> None:
    project = tmp_path / "p"
    make_demo(project, num_train=2, num_val=1)
    sets = ("steps=12", "validate_every=4", "patch_px=64", "batch=2")
    options = [f"training.{one}" for one in sets]
    options += ["compute.gpus=0", "compute.threads=1", "model.weights=none"]
    options.append("model.backbone=mobilenetv3_small_050")
    loaded = load_project(project, options)
    run = new_run(loaded.runs_folder, TrainRequest(), project=loaded)
    words = [sys.executable, "-m", "emcfsys_engine.launch.keeper", str(run.folder), "--"]
    words += [sys.executable, "-m", "emcfsys_engine.learn.worker", str(run.folder)]
    environment = {**os.environ, **clock.environment}
    process = subprocess.Popen(words, env=environment)
    for step, hours in ((1, -1), (5, 1), (9, -2)):
        wait_for(lambda step=step: process.poll() is not None or _steps(run) >= step)
        clock.set_hours(hours)
    assert process.wait(PATIENCE_S) == 0, run.log_file.read_text()
    times = [json.loads(line)["time"] for line in run.events_file.read_text().splitlines()]
    assert min(b - a for a, b in pairwise(times)) < -3000  # it did jump
    assert isinstance(run.events()[-1], RunFinished)
    assert run.outcome()[0] == "done"
    assert best_model(loaded) == run.best_model


def _steps(run: Run) -> int:
    try:
        return sum(isinstance(event, StepDone) for event in run.events())
    except OSError:
        return 0
