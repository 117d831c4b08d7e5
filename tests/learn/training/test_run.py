"""Training through the real worker: it learns, ends as asked, and resumes exactly."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.learn.model_file import load_model, verify_model
from emcfsys_engine.learn.training.run import pixel_size_of
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import (
    CheckpointSaved,
    RunFinished,
    StepDone,
    ValidationDone,
)
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.groups import extend, models_of, new_trainings
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.tools.clean_runs import clean_runs
from tests.learn.conftest import run_here
from tests.learn.training.made import CLI, new_training


def _train(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [*CLI, "train", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def _run_of(done: "subprocess.CompletedProcess[str]") -> Run:
    return Run(Path(done.stdout.splitlines()[-1]))


def test_a_project_becomes_models_events_and_a_plan(
    project_folder: Path, engine_here: Callable[..., str]
) -> None:
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
    engine_here("inspect", run.best_model, "--verify")


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
    run = new_training(project_folder, 2)
    assert run_here(run) == 0
    again = _train("--resume", run.folder)
    assert again.returncode == 0
    assert _run_of(again).folder == run.folder
    assert run.outcome() == ("done", "steps")


def test_a_run_whose_checkpoint_was_cleaned_away_never_begins_anew_over_its_models(
    project_folder: Path,
) -> None:
    run = new_training(project_folder, 2)
    assert run_here(run) == 0
    clean_runs(run.folder, remove=True)
    assert not run.checkpoint_file.exists()
    models = [file.read_bytes() for file in (run.best_model, run.final_model)]
    with pytest.raises(RunFolderError, match="no checkpoint to go on from"):
        extend(run, ("training.steps=9",))
    assert run_here(run) == 2  # as a copy of the queue would start it, or a person in the interface
    assert [file.read_bytes() for file in (run.best_model, run.final_model)] == models
    assert run.outcome() == ("done", "steps")


@pytest.mark.long
def test_a_finished_run_is_extended_by_more_steps_and_by_nothing_else(
    project_folder: Path,
) -> None:
    run = new_training(project_folder, 4)
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


@pytest.mark.long
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


def test_one_image_smaller_than_the_patch_is_enough(project_folder: Path) -> None:
    for name in ("train1.png", "train2.png"):
        (project_folder / "images" / "train" / name).unlink()
        (project_folder / "masks" / "train" / name).unlink()
    project = load_project(project_folder, ["training.patch_px=96", "training.steps=2"])
    run = new_run(project_folder / "runs", TrainRequest(), project=project)
    assert run_here(run) == 0


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([(8.0, 8.0), (8.4, 8.4)], 8.2),
        ([(8.0, 8.0), (10.0, 10.0)], None),
        ([(8.0, 4.0), (8.0, 4.0)], None),  # no square of one size was seen
        ([(8.0, 8.0), None], None),
    ],
)
def test_a_model_tells_the_pixel_size_it_was_trained_at_where_all_sides_are_alike(
    project_folder: Path, sizes: list[tuple[float, float] | None], told: float | None
) -> None:
    project = load_project(project_folder)
    unsaid = msgspec.structs.replace(
        project, project=msgspec.structs.replace(project.project, pixel_nm=None)
    )
    items: Any = [SimpleNamespace(pixel_nm=size) for size in sizes]
    assert pixel_size_of(unsaid, items) == (None if told is None else pytest.approx(told))


def test_names_that_are_no_utf8_are_trained_on_and_a_resume_finds_them(
    project_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bytes") / "caf\udce9"
    project_folder.rename(folder)
    for file in [*folder.rglob("*.png")]:
        file.rename(file.with_name(f"\udcff{file.name}"))
    run = new_training(folder, 2)
    assert run_here(run) == 0
    assert json.loads(run.plan_file.read_text())["val_images"] == ["\udcffval0"]
    assert verify_model(run.best_model).startswith("identical")
    extend(run, ("training.steps=3",))
    assert run_here(run) == 0
    assert [e.step for e in run.events() if isinstance(e, StepDone)][-1] == 3
