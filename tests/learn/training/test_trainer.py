"""A training that is ended, killed, or out of numbers and memory goes on or says why."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from emcfsys_engine.learn.training import trainer
from emcfsys_engine.learn.training.losses import Loss, Measured
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import (
    StepDone,
    ValidationDone,
    WarningGiven,
)
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from tests.learn.conftest import run_here
from tests.learn.training.made import CLI, new_training
from tests.thorough import tries
from tests.waiting import PATIENCE_S


def _wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    pause = random.Random(0)
    while not condition():
        assert process.poll() is None, "the process ended before the condition held"
        assert time.monotonic() < deadline, "the condition never held"
        try:
            process.wait(0.01 + pause.random() / 100)
        except subprocess.TimeoutExpired:
            continue


def test_ctrl_c_saves_and_exits_130_and_the_run_resumes(project_folder: Path) -> None:
    command = [*CLI, "train", str(project_folder), "--set", "training.steps=100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        run = Run(project_folder / "runs" / "run-0001")
        _wait_for(lambda: any(isinstance(e, StepDone) for e in run.events()), process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert out.decode().splitlines()[-1] == str(run.folder)
    assert run.outcome()[0] == "cancelled"
    assert run.checkpoint_file.exists()
    assert not run.is_alive()


def test_a_term_from_elsewhere_is_an_interruption(project_folder: Path) -> None:
    command = [*CLI, "train", str(project_folder), "--set", "training.steps=100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        run = Run(project_folder / "runs" / "run-0001")
        _wait_for(lambda: any(isinstance(e, StepDone) for e in run.events()), process)
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert run.outcome() == ("interrupted", "terminated")
    assert run.checkpoint_file.exists()


def _worker(run: Run) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "emcfsys_engine.learn.worker", str(run.folder)]
    with run.log_file.open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def _numbers(run: Run) -> list[tuple[int, float, float | None]]:
    return [
        (event.step, event.train_loss, event.mean_iou)
        for event in run.events()
        if isinstance(event, ValidationDone)
    ]


def _reached(run: Run) -> int:
    steps = [event.step for event in run.events() if isinstance(event, ValidationDone)]
    return max(steps, default=0)


def _kill_and_resume(folder: Path, whole: Run, steps: int, kills: list[int]) -> None:
    """Kill a run at some steps, resume it each time, and compare it with a whole one."""
    cut = new_training(folder, steps)
    for step in kills:
        process = _worker(cut)
        _wait_for(lambda step=step: _reached(cut) >= step, process)  # type: ignore[misc]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
    assert _worker(cut).wait(PATIENCE_S) == 0, cut.log_file.read_text()
    assert cut.outcome() == whole.outcome()
    assert _numbers(cut) == _numbers(whole)
    ours, theirs = load_file(cut.final_model), load_file(whole.final_model)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_killed_run_resumes_to_the_same_weights_to_the_bit(project_folder: Path) -> None:
    whole = new_training(project_folder, 40)
    assert run_here(whole) == 0
    _kill_and_resume(project_folder, whole, 40, [6])


@pytest.mark.long
def test_kills_at_random_steps_change_nothing(project_folder: Path) -> None:
    steps = tries(72, 320)
    whole = new_training(project_folder, steps)
    assert run_here(whole) == 0
    # The last kill lies well before the end: a busy machine may look late.
    kills = sorted(random.Random(1).sample(range(1, steps // 2), tries(3, 10)))
    _kill_and_resume(project_folder, whole, steps, kills)


def test_a_non_finite_loss_rolls_back_once_and_then_fails(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_training(project_folder, 30)
    value = Loss.value
    calls = iter(range(10_000))

    def poisoned(self: Loss, measured: Measured) -> torch.Tensor:
        return value(self, measured) * (float("nan") if next(calls) in (20, 26) else 1.0)

    monkeypatch.setattr(Loss, "value", poisoned)
    monkeypatch.setattr(trainer, "_STEP_EVENT_EVERY_S", 0.0)
    assert run_here(run) == 1
    state, reason = run.outcome()
    assert state == "failed"
    assert "the loss became nan at step" in reason
    warnings = [event.message for event in run.events() if isinstance(event, WarningGiven)]
    assert sum("half the rate" in text for text in warnings) == 1


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = load_project(project_folder, ["training.batch=4", "training.steps=3"])
    run = new_run(project_folder / "runs", TrainRequest(), project=project)
    measure = Loss.measure

    def limited(self: Loss, logits: torch.Tensor, target: torch.Tensor) -> Measured:
        if len(logits) > 1 and logits.requires_grad:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(self, logits, target)

    monkeypatch.setattr(Loss, "measure", limited)
    assert run_here(run) == 0
    messages = [event.message for event in run.events() if isinstance(event, WarningGiven)]
    assert [text for text in messages if "instead of" in text] == [
        "Out of memory at step 1: 2 instead of 4 patches at a time from now on, 4 a step as before",
        "Out of memory at step 1: 1 instead of 2 patches at a time from now on, 4 a step as before",
    ]
