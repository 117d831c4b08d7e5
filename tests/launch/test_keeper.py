"""The keeper with real processes: one runs, its outcome is true, nothing of it is left."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.launch import processes, start
from emcfsys_engine.launch.keeper import ALREADY_RUNNING, NO_LEASE
from emcfsys_engine.run.folder import Run
from tests.launch.made import SLEEP, begun, holds


def test_exit_code_and_signal_are_told(run: Run) -> None:
    assert start.start(run, worker=["sh", "-c", "exit 7"]).wait() == 7
    record = run.exit_record()
    assert record is not None
    assert (record.exit_code, record.signal) == (7, None)
    assert start.start(run, worker=["sh", "-c", "kill -SEGV $$"]).wait() == 128 + 11
    record = run.exit_record()
    assert record is not None
    assert (record.exit_code, record.signal) == (None, "SIGSEGV")


def test_second_keeper_leaves_the_first_alone(run: Run) -> None:
    first = start.start(run, worker=SLEEP)
    held_by = begun(run)
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
    holds(lambda: run.log_file.exists() and "ready" in run.log_file.read_text())
    start.signal_group(keeper.pid, signal.SIGTERM)
    assert keeper.wait() == 41


def test_hangup_ends_nothing(run: Run) -> None:
    keeper = start.start(run, worker=["sh", "-c", "sleep 0.5; exit 9"])
    begun(run)
    start.signal_group(keeper.pid, signal.SIGHUP)
    assert keeper.wait() == 9


def test_run_lives_on_when_its_keeper_is_killed(run: Run) -> None:
    keeper = start.start(run, worker=SLEEP)
    held_by = begun(run)
    keeper.kill()
    keeper.wait()
    assert run.is_alive()
    assert not held_by.keeper_lives
    assert held_by.worker_lives
    start.kill_run(held_by)
    holds(lambda: not run.is_alive())


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


def test_how_a_worker_ended_is_not_written_into_another_runs_folder(run: Run) -> None:
    taken = 'echo "{\\"token\\": \\"of another run\\"}" > "$0/start.json"; exit 7'
    assert start.start(run, worker=["sh", "-c", taken]).wait() == 7
    assert run.exit_record() is None
