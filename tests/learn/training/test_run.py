"""Training through the real worker: it learns, ends as asked, and resumes exactly."""

import errno
import json
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

from emcfsys_engine.files import write_whole
from emcfsys_engine.learn.model_file import load_model, verify_model
from emcfsys_engine.learn.training import checkpoint, trainer
from emcfsys_engine.learn.training.losses import Loss, Measured
from emcfsys_engine.learn.training.metrics import Scores
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import (
    CheckpointSaved,
    RunFinished,
    StepDone,
    ValidationDone,
    WarningGiven,
)
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.groups import models_of, new_trainings
from emcfsys_engine.run.records import TrainRequest
from tests.learn.conftest import run_here

CLI = [sys.executable, "-m", "emcfsys_engine"]


def _train(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [*CLI, "train", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def _run_of(done: "subprocess.CompletedProcess[str]") -> Run:
    return Run(Path(done.stdout.splitlines()[-1]))


def _wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 100
    pause = random.Random(0)
    while not condition():
        assert process.poll() is None, "the process ended before the condition held"
        assert time.monotonic() < deadline, "the condition never held"
        try:
            process.wait(0.01 + pause.random() / 100)
        except subprocess.TimeoutExpired:
            continue


def test_a_project_becomes_models_events_and_a_plan(project_folder: Path) -> None:
    done = _train(project_folder)
    assert done.returncode == 0, done.stderr
    run = _run_of(done)
    assert run.folder == project_folder / "runs" / "run-0001"
    assert run.outcome() == ("done", "steps")
    events = run.events()
    validations = [event for event in events if isinstance(event, ValidationDone)]
    assert [event.step for event in validations] == [4, 8]
    assert any(isinstance(event, StepDone) for event in events)
    assert run.best_model.exists()
    assert run.final_model.exists()
    plan = json.loads(run.plan_file.read_text())
    assert plan["train_images"] == ["train0", "train1", "train2"]
    assert plan["reasons"]["precision"]
    saved = {(event.role, event.step) for event in events if isinstance(event, CheckpointSaved)}
    assert {("last", 8), ("final", 8)} <= saved
    assert not list(run.folder.glob(".*tmp"))
    verified = subprocess.run(
        [*CLI, "inspect", str(run.best_model), "--verify"], capture_output=True, check=False
    )
    assert verified.returncode == 0, verified.stderr


def test_ctrl_c_saves_and_exits_130_and_the_run_resumes(project_folder: Path) -> None:
    command = [*CLI, "train", str(project_folder), "--set", "training.steps=100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        run = Run(project_folder / "runs" / "run-0001")
        _wait_for(lambda: any(isinstance(e, StepDone) for e in run.events()), process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
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
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert run.outcome() == ("interrupted", "terminated")
    assert run.checkpoint_file.exists()


def _worker(run: Run) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "emcfsys_engine.learn.worker", str(run.folder)]
    with run.log_file.open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def _new_training(folder: Path, steps: int) -> Run:
    overrides = [f"training.steps={steps}", "training.validate_every=3", "training.patience=0"]
    project = load_project(folder, overrides)
    return new_run(folder / "runs", TrainRequest(), project=project)


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
    cut = _new_training(folder, steps)
    for step in kills:
        process = _worker(cut)
        _wait_for(lambda step=step: _reached(cut) >= step, process)  # type: ignore[misc]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    assert _worker(cut).wait(100) == 0, cut.log_file.read_text()
    assert cut.outcome() == whole.outcome()
    assert _numbers(cut) == _numbers(whole)
    ours, theirs = load_file(cut.final_model), load_file(whole.final_model)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_killed_run_resumes_to_the_same_weights_to_the_bit(project_folder: Path) -> None:
    whole = _new_training(project_folder, 40)
    assert run_here(whole) == 0
    _kill_and_resume(project_folder, whole, 40, [6])


@pytest.mark.long
def test_ten_kills_at_random_steps_change_nothing(project_folder: Path) -> None:
    whole = _new_training(project_folder, 320)
    assert run_here(whole) == 0
    # The last kill lies well before the end: a busy machine may look late.
    kills = sorted(random.Random(1).sample(range(1, 160), 10))
    _kill_and_resume(project_folder, whole, 320, kills)


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda f: (f / "masks/train/train1.png").unlink(), "train1"),
        (lambda f: (f / "images/val/val0.png").write_bytes(b""), "val0.png"),
        (lambda f: (f / "masks/val/val0.png").unlink(), "val0"),
    ],
)
def test_bad_data_is_one_line_a_fault_and_exit_2_before_the_first_step(
    project_folder: Path, break_it: Callable[[Path], object], sentence: str
) -> None:
    break_it(project_folder)
    run = new_run(project_folder, TrainRequest(), project=load_project(project_folder))
    assert run_here(run) == 2
    state, reason = run.outcome()
    assert state == "failed"
    assert sentence in reason
    assert all(": " in line for line in reason.splitlines())
    assert not run.best_model.exists()
    assert not any(isinstance(event, StepDone) for event in run.events())


def test_a_finished_run_is_not_trained_again(project_folder: Path) -> None:
    run = _new_training(project_folder, 2)
    assert run_here(run) == 0
    again = _train("--resume", run.folder)
    assert again.returncode == 0
    assert _run_of(again).folder == run.folder
    assert run.outcome() == ("done", "steps")


def test_a_finished_run_is_extended_by_more_steps_and_by_nothing_else(
    project_folder: Path,
) -> None:
    run = _new_training(project_folder, 4)
    assert run_here(run) == 0
    refused = _train("--resume", run.folder, "--set", "model.head=pspnet")
    assert refused.returncode == 2
    assert "cannot change a resumed run" in refused.stderr
    done = _train("--resume", run.folder, "--set", "training.steps=9")
    assert done.returncode == 0, done.stderr
    ending = run.ending()
    assert isinstance(ending, RunFinished)
    assert ending.step == 9
    steps = [event.step for event in run.events() if isinstance(event, ValidationDone)]
    assert steps == sorted(set(steps))


def test_folds_train_one_after_the_other_and_an_unfinished_group_goes_on(
    project_folder: Path,
) -> None:
    overrides = ["training.kfold=2", "training.steps=2"]
    runs = new_trainings(load_project(project_folder, overrides))
    assert run_here(runs[0]) == 0
    done = _train("--resume", project_folder / "runs" / "kfold-0001")
    assert done.returncode == 0, done.stderr
    assert _run_of(done).folder == runs[1].folder
    assert "fold 2 of 2" in done.stderr
    plans = [json.loads(run.plan_file.read_text()) for run in runs]
    assert [(plan["fold"], plan["folds"]) for plan in plans] == [(1, 2), (2, 2)]
    for plan, other in (plans, plans[::-1]):
        assert sorted(plan["val_images"]) == sorted(other["train_images"])
    listed = subprocess.run(
        [*CLI, "runs", str(project_folder), "--json"], capture_output=True, text=True, check=True
    )
    rows = json.loads(listed.stdout)["runs"]
    assert [(row["group"], row["fold"]) for row in rows] == [("kfold-0001", 1), ("kfold-0001", 2)]
    assert models_of(runs[0].folder) == tuple(run.best_model for run in runs)


def test_an_auxiliary_head_guides_training_and_is_in_no_model_file(project_folder: Path) -> None:
    overrides = ["model.auxiliary=true", "training.steps=2", "training.schedule=trapezoid"]
    overrides += ["model.head=pspnet", "model.backbone=resnet10t"]  # reads no level that it reads
    project = load_project(project_folder, overrides)
    run = new_run(project_folder / "runs", TrainRequest(), project=project)
    assert run_here(run) == 0
    plan = json.loads(run.plan_file.read_text())
    assert (plan["network"]["auxiliary"], plan["schedule"]) == (True, "trapezoid")
    assert any("auxiliary_head" in name for name in load_file(run.checkpoint_file))
    network, card = load_model(run.final_model)
    assert not card.network.auxiliary
    assert not any("auxiliary" in name for name in network.state_dict())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the run: sums over 1×1 maps depend on how they are shared out
    try:
        assert verify_model(run.best_model).startswith("identical to the bit")
    finally:
        torch.set_num_threads(threads)


def test_a_full_disk_keeps_the_previous_best_and_is_told(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _new_training(project_folder, 12)
    written: list[Path] = []

    def once_only(file: Path, content: bytes) -> None:
        if file.name == "best.safetensors" and file in written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(file)
        write_whole(file, content)

    monkeypatch.setattr(checkpoint, "write_whole", once_only)
    # Every validation beats the one before, so that each wants to save a best model.
    scores = iter(range(1, 100))
    monkeypatch.setattr(Scores, "score", lambda self, best_by: float(next(scores)))
    assert run_here(run) == 0
    assert load_model(run.best_model)[1].step == 3
    warnings = [event.message for event in run.events() if isinstance(event, WarningGiven)]
    assert any("No space left" in text and "whole" in text for text in warnings)
    assert run.final_model.exists()


def test_a_non_finite_loss_rolls_back_once_and_then_fails(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _new_training(project_folder, 30)
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


def test_one_image_smaller_than_the_patch_is_enough(project_folder: Path) -> None:
    for name in ("train1.png", "train2.png"):
        (project_folder / "images" / "train" / name).unlink()
        (project_folder / "masks" / "train" / name).unlink()
    project = load_project(project_folder, ["training.patch_px=96", "training.steps=2"])
    run = new_run(project_folder / "runs", TrainRequest(), project=project)
    assert run_here(run) == 0


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
