"""Runs that belong together are found by any of their names."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError, RunFolderError
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run import folder
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import (
    extend,
    models_of,
    new_trainings,
    runs_at,
    undo_extension,
)
from emcfsys_engine.run.records import deal_file

TOML = """
[project]
name = "p"
[classes]
a = 0
b = 1
[[data]]
images = "images"
masks = "masks"
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "project.toml").write_text(TOML)
    return load_project(tmp_path)


def _with_folds(project: Project, folds: int) -> Project:
    return load_project(project.file, [f"training.kfold={folds}"])


def _finish(run: Run) -> Path:
    run.best_model.write_bytes(b"a model")
    return run.best_model


def test_without_folds_there_is_one_run_and_no_group(project: Project) -> None:
    (run,) = new_trainings(project)
    assert (run.record().group, run.record().fold) == ("", 0)
    assert models_of(_finish(run)) == (run.best_model,)
    assert models_of(run.folder) == (run.best_model,)


def test_each_fold_is_a_run_of_one_group(project: Project) -> None:
    new_trainings(project)
    runs = new_trainings(_with_folds(project, 3))
    records = [run.record() for run in runs]
    assert [record.fold for record in records] == [1, 2, 3]
    assert {record.group for record in records} == {"kfold-0002"}
    other = new_trainings(_with_folds(project, 2))
    assert {run.record().group for run in other} == {"kfold-0005"}


def test_the_group_and_each_of_its_runs_name_all_its_models(project: Project) -> None:
    runs = new_trainings(_with_folds(project, 3))
    new_trainings(_with_folds(project, 2))
    files = tuple(_finish(run) for run in runs)
    assert models_of(project.runs_folder / "kfold-0001") == files
    assert all(models_of(run.folder) == files for run in runs)
    assert models_of(files[1]) == (files[1],)
    assert [run.id for run in runs_at(project.runs_folder / "kfold-0001")] == [r.id for r in runs]


def test_a_fold_without_a_model_is_named_with_the_remedy(project: Project) -> None:
    runs = new_trainings(_with_folds(project, 2))
    _finish(runs[0])
    with pytest.raises(RunFolderError, match=r"run-0002: has no best model yet.*--resume"):
        models_of(runs[0].folder)


def test_what_is_no_run_and_no_group_is_refused(project: Project) -> None:
    new_trainings(_with_folds(project, 2))
    for place in (project.runs_folder / "kfold-0009", project.folder / "images"):
        with pytest.raises(RunFolderError):
            models_of(place)


def test_a_group_of_a_number_given_again_is_no_heir_of_a_deal(project: Project) -> None:
    """It was: images added since were left out, and with fewer folds some never validated."""
    first = new_trainings(_with_folds(project, 2))
    deal = deal_file(project.runs_folder, "kfold-0001")
    deal.write_text("{}")
    for run in first:
        shutil.rmtree(run.folder)  # as Delete does
    again = new_trainings(_with_folds(project, 3))
    assert again[0].id == "run-0001"
    assert {run.record().group for run in again} == {"kfold-0001-2"}
    assert deal.read_text() == "{}"
    assert [run.id for run in runs_at(project.runs_folder / "kfold-0001-2")] == [
        run.id for run in again
    ]


def test_a_copy_of_a_fold_does_not_count_twice(project: Project) -> None:
    runs = new_trainings(_with_folds(project, 2))
    files = tuple(_finish(run) for run in runs)
    for name in ("a-copy", "run-0002-backup"):
        shutil.copytree(runs[1].folder, project.runs_folder / name)
    assert models_of(runs[0].folder) == files
    assert models_of(project.runs_folder / "run-0002-backup") == files


def test_a_group_that_lost_a_fold_is_refused_by_its_name_and_its_models_are_not(
    project: Project,
) -> None:
    runs = new_trainings(_with_folds(project, 3))
    files = [_finish(run) for run in runs]
    shutil.rmtree(runs[1].folder)
    for place in (project.runs_folder / "kfold-0001", runs[0].folder):
        with pytest.raises(RunFolderError, match="has 2 of its 3 folds"):
            models_of(place)
    assert models_of(files[0]) == (files[0],)


def test_a_fold_whose_disk_fails_is_named_and_not_left_out(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = new_trainings(load_project(project.folder, ["training.kfold=3"]))
    read = folder.read_own

    def failing(file: Path) -> tuple[bytes, os.stat_result]:
        if file == runs[1].record_file:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return read(file)

    monkeypatch.setattr(folder, "read_own", failing)
    with pytest.raises(RunFolderError, match=r"run\.json: cannot be read: Input/output error"):
        runs_at(project.runs_folder / "kfold-0001")


def test_one_extension_waits_at_a_time(project: Project) -> None:
    """Of two that were asked for at once one was told done, without having trained so far."""
    (run,) = new_trainings(project)
    before = extend(run, ("training.steps=30",))
    assert extend(run, ("training.steps=30",)).budget_before == before.project.training  # type: ignore[union-attr]
    with pytest.raises(InputError, match="waits to go on to 30 steps already"):
        extend(run, ("training.steps=35",))
    undo_extension(run)
    assert run.record() == before
    other = os.open(run.folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(RunFolderError, match="is being extended by another command"):
        extend(run, ("training.steps=35",))
    os.close(other)
    assert run.record() == before
    extend(run, ("training.steps=35",))
