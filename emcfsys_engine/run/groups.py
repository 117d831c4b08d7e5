"""Runs that belong together: the folds of one cross-validation, and the models they made."""

import fcntl
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from emcfsys_engine.errors import EmcfError, InputError, ProjectError, ProjectFaults, RunFolderError
from emcfsys_engine.files import is_away
from emcfsys_engine.project import Project, Training
from emcfsys_engine.run.events import CheckpointSaved, reversed_events
from emcfsys_engine.run.folder import Run, new_run, open_run
from emcfsys_engine.run.records import RunRecord, TrainRequest
from emcfsys_engine.settings import check_table
from emcfsys_engine.text import for_shell


def new_trainings(project: Project, *, resume: Literal["auto", "never"] = "never") -> list[Run]:
    """Make the runs of a training: one, or one a fold where training.kfold asks for folds.

    Raises: RunFolderError if a folder cannot be made or written.
    """
    first = new_run(
        project.runs_folder,
        TrainRequest(),
        project=project,
        resume=resume,
        fold=1 if project.training.kfold else 0,
    )
    group = first.record().group
    others = [
        new_run(
            project.runs_folder,
            TrainRequest(),
            project=project,
            resume=resume,
            group=group,
            fold=fold,
        )
        for fold in range(2, project.training.kfold + 1)
    ]
    return [first, *others]


def runs_at(place: Path) -> list[Run]:
    """Return the runs that a place names: a run's folder, or runs/GROUP with all its folds.

    Raises: RunFolderError if it is neither.
    """
    if place.is_dir():
        return [open_run(place)]
    found = members_of(place.parent, place.name)
    if not found:
        remedy = "Name a folder under a project's runs/, or runs/ and a group's name"
        raise RunFolderError(place, "is no run and no group of runs", remedy)
    return found


def models_of(place: Path) -> tuple[Path, ...]:
    """Return the model files that a place names: one, or the best of every fold of a group.

    A place is a model file, a run's folder, or runs/GROUP. A run that is a fold stands for its
    whole group: its own model is named by its file.
    Raises: RunFolderError if there is no such run or group, a fold is gone, or a run has no model.
    """
    if place.is_file():
        return (place,)
    runs = runs_at(place)
    group = runs[0].record().group
    if group:
        runs = members_of(runs[0].folder.parent, group)
        _refuse_incomplete(runs, runs[0].folder.parent / group)
    for run in runs:
        if not run.best_model.is_file():
            remedy = f"Finish it with: emcfsys-engine train --resume {for_shell(run.folder)}"
            raise RunFolderError(run.folder, "has no best model yet", remedy)
    return tuple(run.best_model for run in runs)


def members_of(runs_folder: Path, group: str) -> list[Run]:
    """Return the runs of a group in the order of their folds; damaged ones are not of it.

    A copy of a fold's folder beside it does not count twice.
    Raises: RunFolderError where the disk of one does not answer: without it the others' mean, or
    deal, would be another one.
    """
    found: dict[int, Run] = {}
    for file in sorted(runs_folder.glob("*/run.json")):
        run = Run(file.parent)
        try:
            record = run.record()
        except InputError as fault:
            if is_away(fault):
                raise
            continue
        if record.group == group and (record.fold not in found or record.id == run.id):
            found[record.fold] = run
    return [run for _, run in sorted(found.items())]


def _refuse_incomplete(runs: Sequence[Run], place: Path) -> None:
    """Refuse a group of which folds were deleted: without them its mean is another model's."""
    project = runs[0].record().project if runs else None
    number = project.training.kfold if project is not None else 0
    if len(runs) < number:
        what = f"has {len(runs)} of its {number} folds: the others are gone, or cannot be read"
        remedy = "Put them back, or name model files: BEST.safetensors --with BEST.safetensors"
        raise RunFolderError(place, what, remedy)


_EXTENDABLE = ("steps", "minutes", "patience")


def refuse_unless_extendable(run: Run) -> RunRecord:
    """Return run.json of a training that can go on.

    Raises: InputError for what is no training, or runs; RunFolderError.
    """
    record = run.record()
    if not isinstance(record.request, TrainRequest) or record.project is None:
        raise InputError(run.folder, "is no training", "Name the folder of a training run")
    if run.is_alive():
        raise InputError(run.folder, "is running", "Stop it first")
    return record


def refuse_without_checkpoint(run: Run) -> None:
    """Check that a training that saved checkpoints still has one: else it would begin anew.

    Raises: RunFolderError.
    """
    if run.checkpoint_file.exists():
        return
    every = reversed_events(run.events_file)
    if any(isinstance(one, CheckpointSaved) and one.role != "best" for one in every):
        remedy = f"Begin a new training with its weights: --from {for_shell(run.folder)}"
        raise RunFolderError(run.folder, "has no checkpoint to go on from any more", remedy)


def extend(run: Run, overrides: tuple[str, ...]) -> RunRecord:
    """Write another budget into run.json and return what stood there before.

    One extension waits at a time: whoever asks next would change the budget of a job that somebody
    queued, here or on another machine, and it would be done without having trained so far.
    Raises: InputError, ProjectFaults, RunFolderError; then nothing is changed.
    """
    with _alone(run):
        before = refuse_unless_extendable(run)
        refuse_without_checkpoint(run)
        assert before.project is not None
        kept = before.project.training
        training = extended(kept, overrides)
        if before.budget_before is not None:
            if training != kept:
                raise _waits(run)
            return before
        project = msgspec.structs.replace(before.project, training=training)
        run.write_record(msgspec.structs.replace(before, project=project, budget_before=kept))
        return before


@contextmanager
def _alone(run: Run) -> Generator[None]:
    """Let no two commands extend a run at once. Raises: RunFolderError."""
    try:
        folder = os.open(run.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RunFolderError(run.folder, f"cannot be opened: {error.strerror}") from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "is being extended by another command"
            raise RunFolderError(run.folder, what, "Try again when that is done") from None
        except OSError:
            pass  # some networks have no locks
        yield
    finally:
        os.close(folder)


def _waits(run: Run) -> InputError:
    what = f"{run.outcome()[1]} already, and has not begun"
    begin = f"emcfsys-engine train --resume {for_shell(run.folder)}"
    return InputError(run.folder, what, f"Wait for its job, cancel it, or begin now: {begin}")


def begin_extension(run: Run) -> None:
    """Note that the run's worker trains by its new budget from here on.

    Raises: RunFolderError if that cannot be written.
    """
    record = run.record()
    if record.budget_before is not None:
        run.write_record(msgspec.structs.replace(record, budget_before=None))


def undo_extension(run: Run) -> None:
    """Give a run the budget that it had before an extension that never began.

    Raises: RunFolderError if that cannot be written.
    """
    record = run.record()
    if record.budget_before is not None and record.project is not None:
        project = msgspec.structs.replace(record.project, training=record.budget_before)
        run.write_record(msgspec.structs.replace(record, project=project, budget_before=None))


def give_up_extension(run: Run) -> None:
    """Undo an extension that never began and no longer will; a run that is away or lives is left.

    Raises: RunFolderError if that cannot be written.
    """
    if run.record_file.is_file() and not run.is_alive():
        undo_extension(run)


def forget_extension(folder: Path) -> None:
    """Do the same for a job that has ended; a disk that is away is left as it is."""
    with suppress(EmcfError, OSError):
        give_up_extension(Run(folder))


def extended(training: Training, overrides: tuple[str, ...]) -> Training:
    """Return the run's own settings with another budget or patience: nothing else may change."""
    given = msgspec.to_builtins(training)
    for override in overrides:
        key, _, text = override.partition("=")
        name = key.strip().removeprefix("training.")
        if name not in _EXTENDABLE:
            remedy = f"Use {', '.join(f'training.{one}' for one in _EXTENDABLE)}, or a new run"
            raise InputError("--set", f"{override!r} cannot change a resumed run", remedy)
        given |= {"steps": None, "minutes": None} if name != "patience" else {}
        given[name] = float(text) if name == "minutes" and _is_number(text) else text
    faults: list[ProjectError] = []
    made = check_table(Path("--set"), "training", {**given, **_whole(given)}, Training, faults)
    if faults or made is None:
        raise ProjectFaults(faults)
    return made


def _whole(given: dict[str, Any]) -> dict[str, Any]:
    """Return steps and patience as numbers where their text is one."""
    return {
        name: int(given[name])
        for name in ("steps", "patience")
        if isinstance(given[name], str) and given[name].strip().isdecimal()
    }


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdecimal()
