"""The commands of a person's own config: facts in the environment, nothing through a shell."""

import sys
from pathlib import Path
from types import SimpleNamespace

from emcfsys_engine.hotfolder.ledger import Due
from emcfsys_engine.user_commands import Hook, Notices

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
    assert child.wait(60) == 0
    notices.reap()
    assert notices._running == []
    assert '"EMCFSYS_JOB": "7"' in told.read_text()
    assert '"EMCFSYS_JOB_REASON": "noroom"' in told.read_text()
    Notices([str(tmp_path / "nowhere")]).tell(job, "done", "")
