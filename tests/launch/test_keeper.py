"""The keeper with real processes: one runs, its outcome is true, nothing of it is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.launch import processes, start
from emcfsys_engine.launch.keeper import ALREADY_RUNNING, NO_LEASE
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest

SLEEP = ("sh", "-c", "sleep 60")
FAMILY = 'setsid sleep 70 & sleep 71 & echo $! >"$0/pid"; wait'


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return new_run(tmp_path / "runs", TrainRequest())


def _true(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def _begun(run: Run) -> start.Holder:
    _true(lambda: (held := start.holder(run)) is not None and held.worker > 0)
    held_by = start.holder(run)
    assert held_by is not None
    return held_by


def test_exit_code_and_signal_are_told(run: Run) -> None:
    assert start.start(run, worker=["sh", "-c", "exit 7"]).wait() == 7
    record = run.exit_record()
    assert record is not None
    assert (record.exit_code, record.signal) == (7, None)
    assert start.start(run, worker=["sh", "-c", "kill -SEGV $$"]).wait() == 128 + 11
    record = run.exit_record()
    assert record is not None
    assert (record.exit_code, record.signal) == (None, "SIGSEGV")


def test_missing_program_is_told(run: Run) -> None:
    assert start.start(run, worker=["/no/such/program"]).wait() == 127
    record = run.exit_record()
    assert record is not None
    assert "/no/such/program" in record.detail


def test_second_keeper_leaves_the_first_alone(run: Run) -> None:
    first = start.start(run, worker=SLEEP)
    held_by = _begun(run)
    with pytest.raises(RunFolderError, match="already running"):
        start.start(run, worker=SLEEP)
    command = [sys.executable, "-m", "emcfsys_engine.launch.keeper", str(run.folder), "--", "true"]
    assert subprocess.run(command, check=False).returncode == ALREADY_RUNNING
    assert start.holder(run) == held_by
    assert start.signal_group(first.pid, signal.SIGTERM)
    first.wait()


def test_keeper_that_was_overtaken_never_runs(run: Run) -> None:
    (run.folder / "start.json").write_text('{"token": "new"}')
    command = [sys.executable, "-m", "emcfsys_engine.launch.keeper", str(run.folder), "--start=old"]
    ended = subprocess.run([*command, "--", "touch", str(run.folder / "ran")], check=False)
    assert ended.returncode == ALREADY_RUNNING
    assert not (run.folder / "ran").exists()
    assert run.exit_record() is None


def test_looks_at_the_lock_do_not_keep_a_keeper_out(run: Run) -> None:
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            run.is_alive()

    looker = threading.Thread(target=look)
    looker.start()
    try:
        codes = [start.start(run, worker=["true"]).wait() for _ in range(5)]
    finally:
        is_over.set()
        looker.join()
    assert codes == [0] * 5


def test_worker_gets_a_passed_signal_once(run: Run) -> None:
    script = (
        "import signal,sys,time; got=[]\n"
        "signal.signal(signal.SIGTERM, lambda n, f: got.append(n))\n"
        "print('ready', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.3); sys.exit(40 + len(got))"
    )
    keeper = start.start(run, worker=[sys.executable, "-c", script])
    _true(lambda: run.log_file.exists() and "ready" in run.log_file.read_text())
    start.signal_group(keeper.pid, signal.SIGTERM)
    assert keeper.wait() == 41


def test_hangup_ends_nothing(run: Run) -> None:
    keeper = start.start(run, worker=["sh", "-c", "sleep 0.5; exit 9"])
    _begun(run)
    start.signal_group(keeper.pid, signal.SIGHUP)
    assert keeper.wait() == 9


def test_what_outlives_the_worker_is_ended(run: Run) -> None:
    script = 'setsid sleep 70 & sleep 71 & echo $! >"$0/pid"; exit 0'
    keeper = start.start(run, worker=["sh", "-c", script], token="abc")
    assert keeper.wait() == 0
    assert processes.descendants("abc") == []
    assert processes.start_ticks(int((run.folder / "pid").read_text())) is None


def test_run_lives_on_when_its_keeper_is_killed(run: Run) -> None:
    keeper = start.start(run, worker=SLEEP)
    held_by = _begun(run)
    keeper.kill()
    keeper.wait()
    assert run.is_alive()
    assert not held_by.keeper_lives
    assert held_by.worker_lives
    start.kill_run(held_by)
    _true(lambda: not run.is_alive())


def test_kill_takes_the_whole_session(run: Run) -> None:
    keeper = start.start(run, worker=["sh", "-c", FAMILY], token="kin")
    _true(lambda: len(processes.descendants("kin")) >= 3)
    assert start.signal_group(keeper.pid, signal.SIGKILL)
    keeper.wait()
    _true(lambda: not run.is_alive())
    assert processes.descendants("kin") == []


def test_reused_number_is_not_taken_for_the_keeper(run: Run) -> None:
    ours = processes.start_ticks(os.getpid())
    assert ours is not None
    boot = processes.boot_id()
    earlier = start.Holder(pid=os.getpid(), start_ticks=ours - 1, boot=boot, worker=os.getpid())
    assert not earlier.keeper_lives
    assert not earlier.worker_lives
    start.kill_run(earlier, with_keeper=True)  # would end this test
    other_boot = start.Holder(pid=os.getpid(), start_ticks=ours, boot="another")
    assert not other_boot.keeper_lives


def test_lease_is_held_by_worker_and_keeper(run: Run, tmp_path: Path) -> None:
    lease = start.Lease(lock_folder=str(tmp_path), num_slots={"GPU-1": 3})
    keeper = start.start(run, worker=SLEEP, lease=lease)
    held_by = _begun(run)
    assert processes.num_taken(tmp_path, "GPU-1") == 3
    keeper.kill()
    keeper.wait()
    assert processes.num_taken(tmp_path, "GPU-1") == 3
    start.kill_run(held_by)
    _true(lambda: processes.num_taken(tmp_path, "GPU-1") == 0)


def test_taken_lease_starts_nothing(run: Run, tmp_path: Path) -> None:
    (run.folder / "exit.json").write_text('{"exit_code": 5}')
    others = processes.take(tmp_path, "GPU-1", 1)
    assert others is not None
    lease = start.Lease(lock_folder=str(tmp_path), num_slots={"GPU-1": processes.NUM_SLOTS})
    assert start.start(run, worker=["touch", "ran"], lease=lease).wait() == NO_LEASE
    record = run.exit_record()
    assert record is not None
    assert record.exit_code == 5
    for descriptor in others:
        os.close(descriptor)


def test_folder_that_is_gone_is_named(run: Run) -> None:
    file = run.folder / "run.json"
    content = file.read_bytes()
    run.folder.rename(run.folder.with_name("away"))
    with pytest.raises(RunFolderError, match="no run"):
        start.start(run, worker=["true"])
    assert content


def test_worker_ends_with_the_command_that_waits_for_it(run: Run) -> None:
    keeper = start.start(run, foreground=True, worker=SLEEP)
    _begun(run)
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


@pytest.mark.parametrize("name", ["run.lock", "log.txt", "events.jsonl"])
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_a_planted_name_changes_no_other_file_and_starts_nothing(
    run: Run, tmp_path: Path, name: str, kind: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("a thesis")
    planted = run.folder / name
    if kind == "link":
        planted.symlink_to(precious)
    elif kind == "hard link":
        planted.hardlink_to(precious)
    else:
        os.mkfifo(planted)
    with pytest.raises(RunFolderError, match=name):
        start.start(run, worker=["touch", str(tmp_path / "ran")])
    assert not run.is_alive()
    assert precious.read_text() == "a thesis"
    assert not (tmp_path / "ran").exists()


def test_a_keeper_that_meets_a_planted_lock_says_so_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("a thesis")
    run.lock_file.symlink_to(tmp_path / "precious")
    command = [sys.executable, "-m", "emcfsys_engine.launch.keeper", str(run.folder), "--", "true"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode
    assert len(ended.stderr.splitlines()) == 1
    assert (tmp_path / "precious").read_text() == "a thesis"


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


def test_a_lock_that_names_a_process_of_somebody_else_kills_nothing(run: Run) -> None:
    bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        ticks = processes.start_ticks(bystander.pid)
        assert ticks is not None
        forged = start.Holder(
            pid=bystander.pid,
            start_ticks=ticks,
            boot=processes.boot_id(),
            token="theirs",
            worker=bystander.pid,
            worker_ticks=ticks,
        )
        start.kill_run(forged, with_keeper=True)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_how_a_worker_ended_is_not_written_into_another_runs_folder(run: Run) -> None:
    taken = 'echo "{\\"token\\": \\"of another run\\"}" > "$0/start.json"; exit 7'
    assert start.start(run, worker=["sh", "-c", taken]).wait() == 7
    assert run.exit_record() is None
