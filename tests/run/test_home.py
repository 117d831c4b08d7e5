"""A run's paths are its own project's, also where several projects have one folder of runs."""

import json
import shutil
from pathlib import Path

import pytest

from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.home import is_of
from emcfsys_engine.run.records import TrainRequest
from tests.jobs.test_run_users import project_in


def _trained_in(folder: Path) -> Run:
    project = project_in(folder)
    return new_run(project.runs_folder, TrainRequest(), project=project)


def _folder(run: Run) -> Path:
    project = run.record().project
    assert project is not None
    return project.folder


def test_a_run_seen_through_another_projects_link_is_still_of_its_own(tmp_path: Path) -> None:
    """A resume there trained it on the other project's images."""
    project_in(tmp_path / "a")
    project_in(tmp_path / "b")
    (tmp_path / "all").mkdir()
    for name in "ab":
        (tmp_path / name / "runs").symlink_to(tmp_path / "all")
    run = new_run(tmp_path / "a/runs", TrainRequest(), project=load_project(tmp_path / "a"))
    for place in ("a/runs", "b/runs", "all"):
        seen = Run(tmp_path / place / run.id)
        assert _folder(seen) == tmp_path / "a"
        assert is_of(seen.record(), tmp_path / "a")
        assert not is_of(seen.record(), tmp_path / "b")
        seen.write_record(seen.record())  # as an extension does
    second = new_run(tmp_path / "b/runs", TrainRequest(), project=load_project(tmp_path / "b"))
    assert (run.id, second.id) == ("run-0001", "run-0002")
    assert _folder(Run(tmp_path / "a/runs/run-0002")) == tmp_path / "b"


def test_a_project_that_was_moved_or_copied_has_its_runs_with_it(tmp_path: Path) -> None:
    run = _trained_in(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert _folder(Run(tmp_path / "copy/runs" / run.id)) == tmp_path / "copy"
    assert _folder(run) == tmp_path / "a"
    (tmp_path / "a").rename(tmp_path / "moved")
    assert _folder(Run(tmp_path / "moved/runs" / run.id)) == tmp_path / "moved"
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    assert is_of(Run(tmp_path / "link/runs" / run.id).record(), tmp_path / "moved")


@pytest.mark.parametrize("home", ["a\0b", "\ud800", "x" * 9999, "\udcff", "/"])
def test_a_damaged_home_harms_nothing(tmp_path: Path, home: str) -> None:
    run = _trained_in(tmp_path / "a")
    damaged = json.loads(run.record_file.read_text()) | {"home": home}
    run.record_file.write_text(json.dumps(damaged))
    assert _folder(Run(run.folder)) == tmp_path / "a"
