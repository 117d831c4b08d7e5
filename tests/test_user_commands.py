"""The commands of a person's own config: facts in the environment, nothing through a shell."""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from emcfsys_engine import user_commands
from emcfsys_engine.hotfolder.ledger import Due
from emcfsys_engine.user_commands import Hook, Notices
from tests.jobs.conftest import wait_for
from tests.waiting import PATIENCE_S

_APPEND = (
    "import json, os, sys; names = [n for n in sorted(os.environ) if n.startswith('EMCFSYS_')];"
    "open(sys.argv[1], 'a').write(json.dumps({n: os.environ[n] for n in names}) + '\\n')"
)


def due(path: str) -> Due:
    return Due(path=path, mask="a.png", unlike="")


def test_each_image_has_its_command_and_what_has_run_is_told(tmp_path: Path) -> None:
    told = tmp_path / "told"
    hook = Hook([sys.executable, "-c", _APPEND, str(told)], tmp_path / "incoming", tmp_path / "out")
    names = ["a; touch x.tif", "b$(id).tif"]
    for name in names:
        hook.run(due(name))
    hook.close(all_of_them=True)
    assert [one.path for one in hook.that_have_run()] == names
    lines = told.read_text().splitlines()
    assert len(lines) == 2
    assert str(tmp_path / "incoming" / "a; touch x.tif") in lines[0]
    assert str(tmp_path / "out" / "a.png") in lines[0]
    assert not (tmp_path / "x.tif").exists()


def test_a_command_that_is_none_ends_no_watch(tmp_path: Path) -> None:
    hook = Hook([str(tmp_path / "nowhere")], tmp_path, tmp_path)
    hook.run(due("a.tif"))
    hook.close(all_of_them=True)
    assert [one.path for one in hook.that_have_run()] == ["a.tif"]


def test_without_a_command_nothing_is_due(tmp_path: Path) -> None:
    hook = Hook([], tmp_path, tmp_path)
    assert not hook.is_wanted
    hook.run(due("a.tif"))
    hook.close(all_of_them=True)
    assert hook.that_have_run() == []


def test_a_notice_has_the_jobs_facts_and_a_missing_program_is_only_said(tmp_path: Path) -> None:
    told = tmp_path / "told"
    job = SimpleNamespace(id=7, project="p", run="/r")
    notices = Notices([sys.executable, "-c", _APPEND, str(told)])
    notices.tell(job, "failed", "no\0room")
    (child, _) = notices._running[0]
    assert child.wait(PATIENCE_S) == 0
    notices.reap()
    assert notices._running == []
    assert '"EMCFSYS_JOB": "7"' in told.read_text()
    assert '"EMCFSYS_JOB_REASON": "noroom"' in told.read_text()
    Notices([str(tmp_path / "nowhere")]).tell(job, "done", "")


def test_a_command_that_kills_its_group_kills_no_watch(tmp_path: Path) -> None:
    told = tmp_path / "told"
    hook = Hook(["sh", "-c", f"echo begun >> {told}; kill -TERM 0"], tmp_path, tmp_path)
    hook.run(due("a.tif"))
    hook.run(due("b.tif"))
    hook.close(all_of_them=True)
    assert [one.path for one in hook.that_have_run()] == ["a.tif", "b.tif"]
    assert told.read_text().split() == ["begun", "begun"]


def test_of_a_command_that_hangs_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_commands, "_LONGEST_HOOK_S", 2.0)
    told = tmp_path / "told"
    hook = Hook(["sh", "-c", f"sleep 600 & echo $! > {told}; wait"], tmp_path, tmp_path)
    hook.run(due("a.tif"))
    assert hook._has_run.get(timeout=PATIENCE_S).path == "a.tif"
    hook.close(all_of_them=False)
    child = int(told.read_text())
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")


def test_a_notice_that_may_not_be_killed_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:  # what sudo began is root's
        raise PermissionError

    monkeypatch.setattr(user_commands, "_LONGEST_NOTIFICATION_S", 0.0)
    notices = Notices([sys.executable, "-c", "import signal; signal.pause()"])
    notices.tell(SimpleNamespace(id=7, project="p", run="/r"), "done", "")
    ((child, _),) = notices._running
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refused)
        notices.reap()
    assert child.poll() is None
    notices.reap()
    assert child.wait(PATIENCE_S) == -signal.SIGKILL
