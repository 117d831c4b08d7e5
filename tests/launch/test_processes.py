"""Processes by identity: a session is ended whole, a stranger never; leases die with holders."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from emcfsys_engine.launch import processes, start
from emcfsys_engine.run.folder import Run
from tests.launch.made import SLEEP, begun, holds

FAMILY = 'setsid sleep 70 & sleep 71 & echo $! >"$0/pid"; wait'


def test_what_outlives_the_worker_is_ended(run: Run) -> None:
    script = 'setsid sleep 70 & sleep 71 & echo $! >"$0/pid"; exit 0'
    keeper = start.start(run, worker=["sh", "-c", script], token="abc")
    assert keeper.wait() == 0
    assert processes.descendants("abc") == []
    assert processes.start_ticks(int((run.folder / "pid").read_text())) is None


def test_kill_takes_the_whole_session(run: Run) -> None:
    keeper = start.start(run, worker=["sh", "-c", FAMILY], token="kin")
    holds(lambda: len(processes.descendants("kin")) >= 3)
    assert start.signal_group(keeper.pid, signal.SIGKILL)
    keeper.wait()
    holds(lambda: not run.is_alive())
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
    held_by = begun(run)
    assert processes.num_taken(tmp_path, "GPU-1") == 3
    keeper.kill()
    keeper.wait()
    assert processes.num_taken(tmp_path, "GPU-1") == 3
    start.kill_run(held_by)
    holds(lambda: processes.num_taken(tmp_path, "GPU-1") == 0)


_SPINS = "sched_setaffinity(0, {min(sched_getaffinity(0))})\nwhile True: pass"
_STARVES = "sched_setscheduler(0, SCHED_IDLE, sched_param(0))\n"


def test_who_gets_no_processor_gets_on_and_who_sleeps_does_not() -> None:
    """One processor, which another program takes: to wait for it is not to hang."""
    begin = "from os import *\n"
    marked = {processes.COOKIE: "starved"}
    hog = subprocess.Popen([sys.executable, "-c", begin + _SPINS])
    starved = subprocess.Popen(
        [sys.executable, "-c", begin + _STARVES + _SPINS], env={**os.environ, **marked}
    )
    sleeper = subprocess.Popen(["sleep", "60"], env={**os.environ, processes.COOKIE: "asleep"})
    try:
        holds(lambda: bool(processes.descendants("starved") and processes.descendants("asleep")))
        holds(lambda: os.sched_getscheduler(starved.pid) == os.SCHED_IDLE)
        waits, sleeps = processes.Activity("starved"), processes.Activity("asleep")
        before = _cpu_ticks(hog.pid)
        holds(lambda: _cpu_ticks(hog.pid) > before + 50)
        assert waits.goes_on()
        assert not sleeps.goes_on()
    finally:
        for process in (hog, starved, sleeper):
            process.kill()
            process.wait()


def _cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


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
