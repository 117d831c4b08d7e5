"""A run's record: what was asked, without secrets, and never a stranger's commands."""

import json
import os
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from emcfsys_engine import any_names
from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.launch.start import _recorded
from emcfsys_engine.project import load_project
from emcfsys_engine.run import folder as run_module
from emcfsys_engine.run.folder import Run, new_run, open_run
from emcfsys_engine.run.records import PredictRequest, TrainRequest, is_of
from tests.jobs.test_run_users import project_in


def test_a_record_comes_back_as_it_was_asked(tmp_path: Path) -> None:
    request = PredictRequest(model="/m", inputs=("/a", "/b"), out="/o", overlay=True)
    run = new_run(tmp_path, request)
    assert open_run(run.folder).record().request == request


def test_secrets_of_the_environment_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    environment = new_run(tmp_path, TrainRequest()).record().environment
    assert "MY_API_TOKEN" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_proxys_password_is_not_kept_but_used_where_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://anna:geheim@proxy.lab:3128/")
    run = new_run(tmp_path, TrainRequest())
    assert "geheim" not in run.record_file.read_text()
    assert run.record().environment["https_proxy"] == "http://proxy.lab:3128/"
    recorded = _recorded(run.record().environment, foreground=True)
    assert recorded["https_proxy"] == "http://anna:geheim@proxy.lab:3128/"


def test_a_record_is_for_the_user_and_the_group_at_most(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run = new_run(tmp_path, TrainRequest())
        run.write_record(run.record())
    finally:
        os.umask(before)
    assert run.record_file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("by", ["another user", "everybody", "nobody knows whom"])
def test_a_record_that_others_wrote_chooses_no_interpreter_and_no_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    run = new_run(tmp_path, TrainRequest())
    asked = msgspec.structs.replace(
        run.record(), python="/tmp/evil", environment={"LD_LIBRARY_PATH": "/tmp/evil"}
    )
    run.write_record(asked)
    assert (run.record().python, run.distrusted()) == ("/tmp/evil", "")
    if by == "nobody knows whom":  # unpacked or copied: the file is ours, and its words are not
        document = json.loads(run.record_file.read_text())
        run.record_file.write_text(json.dumps({**document, "python": "/tmp/other"}))
    elif by == "everybody":
        run.record_file.chmod(0o666)
    else:
        own = os.geteuid()
        monkeypatch.setattr(run_module.os, "geteuid", lambda: own + 1)
    record = run.record()
    assert record.python == sys.executable
    assert record.environment.get("LD_LIBRARY_PATH") == os.environ.get("LD_LIBRARY_PATH")
    assert record.folder == "/"
    assert run.distrusted()


def test_variables_that_run_code_are_not_taken_from_a_record(tmp_path: Path) -> None:
    run = new_run(tmp_path, TrainRequest())
    evil = {"LD_PRELOAD": "/tmp/evil.so", "PYTHONSTARTUP": "/tmp/evil.py", "LANG": "C"}
    run.write_record(msgspec.structs.replace(run.record(), environment=evil))
    assert run.record().environment == {"LANG": "C"}


def test_a_record_of_the_future_asks_for_an_update(tmp_path: Path) -> None:
    run = new_run(tmp_path, TrainRequest())
    document = json.loads(run.record_file.read_text())
    run.record_file.write_text(json.dumps({**document, "format": 99}))
    with pytest.raises(RunFolderError, match="Update emcfsys-tui"):
        run.record()


def test_a_record_is_decoded_once_a_process_until_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path, TrainRequest())
    decoded: list[object] = []
    decode = any_names.decode

    def counted(content: bytes, kind: type) -> object:
        decoded.append(kind)
        return decode(content, kind)

    monkeypatch.setattr(any_names, "decode", counted)
    first = run.record()
    assert Run(run.folder).record() == first
    assert run.distrusted() == ""
    assert len(decoded) <= 1
    run.write_record(msgspec.structs.replace(first, group="night"))
    assert Run(run.folder).record().group == "night"


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
