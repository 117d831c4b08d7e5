"""A start of a worker: by our own interpreter, ended with its command, or refused by name."""

import signal
import sys
from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.launch import start
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from tests.launch.made import SLEEP, begun


def test_missing_program_is_told(run: Run) -> None:
    assert start.start(run, worker=["/no/such/program"]).wait() == 127
    record = run.exit_record()
    assert record is not None
    assert "/no/such/program" in record.detail


def test_folder_that_is_gone_is_named(run: Run) -> None:
    file = run.folder / "run.json"
    content = file.read_bytes()
    run.folder.rename(run.folder.with_name("away"))
    with pytest.raises(RunFolderError, match="no run"):
        start.start(run, worker=["true"])
    assert content


def test_worker_ends_with_the_command_that_waits_for_it(run: Run) -> None:
    keeper = start.start(run, foreground=True, worker=SLEEP)
    begun(run)
    assert keeper.stdin is not None
    keeper.stdin.close()
    assert keeper.wait() == 128 + signal.SIGTERM


def test_processes_that_ran_out_of_memory_are_started_again_with_less(run: Run) -> None:
    script = (
        "import sys; from pathlib import Path; folder = Path(sys.argv[-1])\n"
        "count = folder / 'count'; n = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (n + 1))\n"
        "if n < 2: (folder / 'retry.json').write_text(str(4 >> n)); sys.exit(1)\n"
        "(folder / 'ranks.json').write_text('{\"exit_code\": 0}')\n"
    )
    worker = [sys.executable, "-c", script, "torch.distributed.run"]
    assert start.start(run, worker=worker).wait() == 0
    assert (run.folder / "count").read_text() == "xxx"
    assert start.start(run, worker=worker).wait() == 0  # what lies there asks for nothing
    assert (run.folder / "count").read_text() == "xxxx"


def test_modules_that_lie_where_a_person_stands_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json.py", "numpy.py", "msgspec.py", "emcfsys_engine.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    run = new_run(tmp_path / "runs", TrainRequest())
    assert start.start(run, worker=[sys.executable, "-c", "import json"]).wait() == 0
    assert not (tmp_path / "ran").exists()


def test_a_run_of_another_user_runs_with_our_own_interpreter_and_says_so(
    run: Run, tmp_path: Path
) -> None:
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    evil.chmod(0o755)
    run.write_record(msgspec.structs.replace(run.record(), python=str(evil)))
    run.record_file.chmod(0o666)
    assert start.start(run, worker=["true"]).wait() == 0
    assert not (tmp_path / "ran").exists()
    assert "may be written by other users: runs with" in run.log_file.read_text()
