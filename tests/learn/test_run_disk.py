"""A training outlives what happens to its run's folder: nothing that can be kept is lost."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from emcfsys_engine.learn import run_disk
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.training import checkpoint, trainer
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import (
    CheckpointSaved,
    RunStarted,
    StepDone,
    ValidationDone,
)
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.run.rescue import rescue_folder
from tests.learn.conftest import run_here
from tests.learn.hot import warnings_of
from tests.learn.watch.test_survival import mounted

STEPS = 8


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the disk before every step, and say every step."""
    monkeypatch.setattr(run_disk, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint, "_RETRY_S", 0.1)
    monkeypatch.setattr(checkpoint, "_LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(trainer, "_STEP_EVENT_EVERY_S", 0.0)


def training(folder: Path) -> Run:
    overrides = [f"training.steps={STEPS}", "training.validate_every=2"]
    project = load_project(folder, overrides)
    return new_run(folder / "runs", TrainRequest(), project=project)


def at_steps(monkeypatch: pytest.MonkeyPatch, does: dict[int, Callable[[], object]]) -> None:
    """Do something just before a step."""
    step = trainer.Trainer.step

    def wrapped(self: trainer.Trainer, *given: object) -> object:
        does.get(self.state.step + 1, lambda: None)()
        return step(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.Trainer, "step", wrapped)


def remove(folder: Path) -> None:
    """Remove a folder at once: its training is writing into it."""
    shutil.rmtree(folder.rename(folder.with_name("removed")))


def everything_is_there(run: Run) -> None:
    events = run.events()
    assert isinstance(events[0], RunStarted)
    assert [e.step for e in events if isinstance(e, StepDone)] == list(range(1, STEPS + 1))
    assert [e.step for e in events if isinstance(e, ValidationDone)] == [2, 4, 6, 8]
    assert run.outcome() == ("done", "steps")
    assert load_model(run.final_model)[1].step == STEPS
    saved = [e.step for e in events if isinstance(e, CheckpointSaved) and e.role == "best"]
    assert load_model(run.best_model)[1].step == saved[-1]
    state = checkpoint.read_checkpoint(run.checkpoint_file)[1]
    assert (state.step, state.best_step) == (STEPS, saved[-1])


@pytest.mark.parametrize("what", ["run", pytest.param("runs", marks=pytest.mark.long)])
def test_a_runs_folder_that_is_removed_under_its_training_is_made_again(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    run = training(project_folder)
    before = run.record_file.read_bytes()
    gone = run.folder if what == "run" else run.folder.parent
    lives: list[bool] = []
    at_steps(monkeypatch, {4: lambda: remove(gone), 7: lambda: lives.append(run.is_alive())})
    assert run_here(run) == 0
    everything_is_there(run)
    assert "was removed while the run was under way, and is made again" in warnings_of(run)
    assert run.record_file.read_bytes() == before
    assert run.plan_file.exists()
    assert lives == [True]  # nobody else may resume it meanwhile
    assert not run.is_alive()


def test_a_training_whose_place_another_run_took_writes_nothing_there(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training(project_folder)
    others: dict[str, bytes] = {}

    def replace() -> None:
        remove(run.folder)
        other = training(project_folder)
        assert other.folder == run.folder
        others.update((file.name, file.read_bytes()) for file in other.folder.iterdir())

    at_steps(monkeypatch, {4: replace})
    assert run_here(run) == 0
    assert {file.name: file.read_bytes() for file in run.folder.iterdir()} == others
    kept = Run(run.folder.with_name("run-0002"))
    everything_is_there(kept)
    assert f"has another run in it: see {kept.folder}" in warnings_of(kept)


def read_only(place: Path) -> None:
    """Lay the place over itself, to be read only: a file system in use cannot be remounted."""
    subprocess.run(["mount", "--bind", place, place], check=True)
    remount = ["mount", "-o", "remount,ro,bind", place]
    while subprocess.run(remount, capture_output=True).returncode:
        pass  # a file is just being written through the new mount


def writable(place: Path) -> None:
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize(
    "until", [pytest.param("it goes on", marks=pytest.mark.long), "after its last step"]
)
def test_what_a_read_only_disk_takes_not_is_kept_until_it_does(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    place = project_folder / "runs"
    with mounted(place, "200m"):
        run = training(project_folder)
        back = threading.Timer(2.0, lambda: writable(place))
        ends = {7: lambda: writable(place)} if until == "it goes on" else {8: back.start}
        at_steps(monkeypatch, {2: lambda: read_only(place), **ends})
        assert run_here(run) == 0
        everything_is_there(run)
        told = warnings_of(run)
        assert "Read-only file system. What was saved before is whole, and it is tried" in told


def test_nothing_is_written_where_the_disk_is_away_and_all_of_it_when_it_is_back(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place, away = project_folder / "runs", tmp_path / "away"
    away.mkdir()
    under: list[str] = []

    def move(source: Path, target: Path) -> None:
        if subprocess.run(["mount", "--move", source, target], capture_output=True).returncode:
            pytest.skip("mounts cannot be moved in this container")

    def back() -> None:
        under.extend(os.listdir(place))
        move(away, place)

    with mounted(place, "200m"):
        run = training(project_folder)
        timer = threading.Timer(2.0, back)
        at_steps(monkeypatch, {4: lambda: move(place, away), 8: timer.start})
        assert run_here(run) == 0
        timer.join()
        everything_is_there(run)
        assert under == []
        assert "is gone, its disk with it: what is to be saved waits for it" in warnings_of(run)


def cancelled_without_its_disk(run: Run, patch: pytest.MonkeyPatch, at: int) -> None:
    """Train until a step, from which on the disk of the run takes nothing, and somebody ends it."""
    place = run.folder.parent

    def leave() -> None:
        run.ask("cancel")
        read_only(place)
        os.kill(os.getpid(), 15)

    at_steps(patch, {at: leave})
    assert run_here(run) == 130
    writable(place)


def test_who_is_asked_to_end_waits_for_no_disk_and_what_was_done_is_kept_elsewhere(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint, "_LAST_TRIES_S", 0.5)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = project_folder / "runs"
    with mounted(place, "200m"):
        run = training(project_folder)
        kept = rescue_folder(run)
        cancelled_without_its_disk(run, monkeypatch, at=4)
        assert run.state() == "cancelled"
        state = checkpoint.read_checkpoint(kept / run.checkpoint_file.name)[1]
        assert state.step == 4


def test_what_was_kept_of_one_disk_is_not_replaced_by_what_the_next_in_its_place_does_not_take(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint, "_LAST_TRIES_S", 0.5)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = project_folder / "runs"
    folders: list[Path] = []
    for last in (6, 3):
        with mounted(place, "200m"), monkeypatch.context() as patch:
            run = training(project_folder)  # each disk's first run: both have one path
            folders.append(rescue_folder(run))
            cancelled_without_its_disk(run, patch, at=last)
            told = checkpoint.kept_elsewhere(run, 4)
            assert told.startswith(f"{folders[0] / run.checkpoint_file.name} has step 6")
            assert not checkpoint.kept_elsewhere(run, 6)
    kept = [checkpoint.read_checkpoint(each / run.checkpoint_file.name)[1] for each in folders]
    assert [state.step for state in kept] == [6, 3]


@pytest.mark.long
def test_the_steps_that_a_full_disk_did_not_take_are_kept_elsewhere(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = project_folder / "runs"
    with mounted(place, "60m"):
        run = training(project_folder)
        kept = rescue_folder(run)

        def fill() -> None:  # again and again: a save that fails gives back what it took
            with (place / "ballast").open("ab", buffering=0) as stream, suppress(OSError):
                while True:
                    stream.write(bytes(4096))

        at_steps(monkeypatch, dict.fromkeys(range(4, STEPS + 1), fill))
        assert run_here(run) == 1
        state = checkpoint.read_checkpoint(kept / run.checkpoint_file.name)[1]
        assert state.step >= 4
