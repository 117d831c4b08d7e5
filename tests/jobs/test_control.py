"""One daemon a state folder: started, stopped and restarted, its jobs left or ended."""

import contextlib
import os
import pty
import sys
import threading
from pathlib import Path

import pytest

from emcfsys_engine.errors import DaemonError
from emcfsys_engine.jobs.control import daemon_status, ensure_daemon, restart_daemon, stop_daemon
from emcfsys_engine.launch import processes
from tests.jobs.conftest import DAEMON, Bench, wait_for
from tests.thorough import tries


def test_restart_leaves_jobs_running(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    before = bench.start()
    wait_for(lambda: bench.starts(run))
    after = restart_daemon(bench.folder, command=DAEMON)
    assert after.running
    assert after.pid != before.pid
    assert run.is_alive()
    bench.queue.stop(job_id)
    assert bench.wait(job_id, "done").starts == 1


def test_stop_with_jobs_lets_them_save(bench: Bench) -> None:
    runs = [bench.run(seconds=60), bench.run(seconds=60)]
    ids = [bench.add(runs[0], resume="auto"), bench.add(runs[1])]
    bench.start()
    for run in runs:
        wait_for(lambda run=run: bench.starts(run))
    assert stop_daemon(bench.folder, jobs=True)
    assert [bench.state(job_id) for job_id in ids] == ["queued", "interrupted"]
    assert not any(run.is_alive() for run in runs)


def test_a_job_that_never_ends_holds_no_daemon_that_is_then_told_to_leave_it(bench: Bench) -> None:
    bench.configure("cpu_slots = 8\ngrace_s = 600")
    run = bench.run("ignore")
    bench.add(run)
    bench.start()
    wait_for(lambda: run.log_file.exists() and run.log_file.read_text())
    with pytest.raises(DaemonError, match="Without --jobs it leaves them at once"):
        stop_daemon(bench.folder, jobs=True, wait_s=0.2)
    assert stop_daemon(bench.folder)
    assert run.is_alive()


@pytest.mark.parametrize("rounds", [10, pytest.param(tries(30, 100), marks=pytest.mark.long)])
def test_of_two_daemons_one_runs(bench: Bench, rounds: int) -> None:
    bench.queue.list()
    for _ in range(rounds):
        found: list[int | None] = []

        def start(found: list[int | None] = found) -> None:
            found.append(ensure_daemon(bench.folder, command=DAEMON).pid)

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 2
        assert found[0] == found[1]
        assert found[0] == daemon_status(bench.folder).pid
        wait_for(lambda: len(_daemons(bench)) == 1)  # the other may still be on its way out
        assert found[0] in _daemons(bench)
        bench.kill_daemon()


def test_closing_the_terminal_ends_nothing(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    pid, terminal = pty.fork()
    if pid == 0:  # in the terminal: start the daemon as a command would
        script = (
            "import sys; from pathlib import Path\n"
            "from emcfsys_engine.jobs.control import ensure_daemon\n"
            "ensure_daemon(Path(sys.argv[1]), command=sys.argv[2:])\n"
            "print('started', flush=True); sys.stdin.read()"
        )
        os.execv(sys.executable, [sys.executable, "-c", script, str(bench.folder), *DAEMON])
    told = b""
    while b"started" not in told:
        told += os.read(terminal, 1024)
    wait_for(lambda: bench.starts(run))
    os.close(terminal)  # the kernel hangs up the session
    os.waitpid(pid, 0)
    assert daemon_status(bench.folder).running
    assert run.is_alive()
    bench.queue.stop(job_id)
    bench.wait(job_id, "done")


def test_damaged_queue_is_named_by_the_daemon_and_kept(bench: Bench) -> None:
    bench.add(bench.run())
    bench.queue.store.close()
    file = bench.folder / "queue.sqlite"
    file.write_bytes(b"rust" * 5000)
    with pytest.raises(DaemonError, match=r"queue\.sqlite: cannot be read.*left as it is"):
        bench.start()
    assert file.read_bytes() == b"rust" * 5000
    assert not daemon_status(bench.folder).running


def _daemons(bench: Bench) -> list[int]:
    """Return the processes that serve this state folder, by their command lines."""
    wanted = os.fsencode(bench.folder)
    found: list[int] = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            is_daemon = any(word.endswith(b"standin_daemon.py") for word in words)
            if is_daemon and wanted in words and processes.start_ticks(int(place.name)):
                found.append(int(place.name))
    return found
