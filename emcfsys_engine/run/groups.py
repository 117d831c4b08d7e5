"""Runs that belong together: the folds of one cross-validation, and the models they made."""

from pathlib import Path
from typing import Literal

from emcfsys_engine.errors import InputError, RunFolderError
from emcfsys_engine.project import Project
from emcfsys_engine.run.folder import Run, TrainRequest, new_run, open_run


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
    found = _members(place.parent, place.name)
    if not found:
        remedy = "Name a folder under a project's runs/, or runs/ and a group's name"
        raise RunFolderError(place, "is no run and no group of runs", remedy)
    return found


def models_of(place: Path) -> tuple[Path, ...]:
    """Return the model files that a place names: one, or the best of every fold of a group.

    A place is a model file, a run's folder, or runs/GROUP. A run that is a fold stands for its
    whole group: its own model is named by its file.
    Raises: RunFolderError if there is no such run or group, or a run has no model yet.
    """
    if place.is_file():
        return (place,)
    runs = runs_at(place)
    group = runs[0].record().group
    if group:
        runs = _members(runs[0].folder.parent, group)
    for run in runs:
        if not run.best_model.is_file():
            remedy = f"Finish it with: emcfsys-engine train --resume {run.folder}"
            raise RunFolderError(run.folder, "has no best model yet", remedy)
    return tuple(run.best_model for run in runs)


def _members(runs_folder: Path, group: str) -> list[Run]:
    """Return the runs of a group in the order of their folds; damaged ones are not of it."""
    found: list[tuple[int, Run]] = []
    for file in runs_folder.glob("*/run.json"):
        run = Run(file.parent)
        try:
            record = run.record()
        except InputError:
            continue
        if record.group == group:
            found.append((record.fold, run))
    return [run for _, run in sorted(found, key=lambda pair: (pair[0], pair[1].id))]
