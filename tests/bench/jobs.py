"""Timings of the job daemon, against their targets: `python tests/bench/jobs.py`.

One table: what, measured, target. A stand-in worker takes the real one's place: what is measured is
the way to it, not torch's import.
"""

import argparse
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from emcfsys_engine import __version__
from emcfsys_engine.jobs.control import daemon_status, ensure_daemon
from emcfsys_engine.run.folder import Run
from tests.jobs.conftest import DAEMON, Bench, wait_for

_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table."""

    what: str
    measured: str
    target: str
    is_met: bool


def main() -> int:
    """Measure everything and print the table; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="queued jobs for the load test")
    parser.add_argument("--races", type=int, default=100, help="pairs of daemons started at once")
    parser.add_argument("--starts", type=int, default=20, help="submissions for the median")
    parser.add_argument("--idle-s", type=float, default=30.0, help="how long to watch the idle one")
    wanted = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # for keepers and workers
    results = [
        _submit_to_start(wanted.starts),
        *_idle(wanted.idle_s),
        *_many_jobs(wanted.jobs),
        _races(wanted.races),
    ]
    print(_heading())
    width = max(len(result.what) for result in results)
    for result in results:
        mark = "met" if result.is_met else "MISSED"
        print(f"{result.what.ljust(width)}  {result.measured:>22}  {result.target:>12}  {mark}")
    return 0 if all(result.is_met for result in results) else 1


@contextmanager
def _bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="emcfsys-bench-") as folder:
        made = Bench(Path(folder))
        try:
            yield made
        finally:
            made.close()


def _submit_to_start(num_starts: int) -> Result:
    """Submit one run after the other; the stand-in's first byte says when it runs."""
    taken_s: list[float] = []
    with _bench() as bench:
        bench.start()
        for _ in range(num_starts):
            run = bench.run()
            taken_s.append(_timed(lambda run=run: _submit_and_wait(bench, run)))
            wait_for(lambda run=run: not run.is_alive() and run.exit_record() is not None)
    median_s = statistics.median(taken_s)
    return Result(
        what=f"submit -> worker started, median of {num_starts} (worst)",
        measured=f"{median_s:.3f} s ({max(taken_s):.3f} s)",
        target="<= 0.5 s",
        is_met=median_s <= 0.5,
    )


def _submit_and_wait(bench: Bench, run: Run) -> None:
    bench.add(run)
    wait_for(lambda: bench.starts(run))


def _idle(seconds: float) -> Iterator[Result]:
    """Watch a daemon that has nothing to do, with one finished and one paused job."""
    with _bench() as bench:
        bench.start()
        bench.wait(bench.add(bench.run()), "done")
        bench.queue.pause(bench.add(bench.run(), after=[1], priority=-1))
        pid = bench.start().pid
        assert pid is not None
        before, began = _cpu_s(pid), time.monotonic()
        threading.Event().wait(seconds)
        share = 100 * (_cpu_s(pid) - before) / (time.monotonic() - began)
        rss_mb = _rss_mb(pid)
    yield Result(
        what=f"idle daemon, CPU over {seconds:g} s",
        measured=f"{share:.3f} %",
        target="<= 0.3 %",
        is_met=share <= 0.3,
    )
    yield Result(
        what="idle daemon, resident memory",
        measured=f"{rss_mb:.1f} MB",
        target="<= 60 MB",
        is_met=rss_mb <= 60,
    )


def _many_jobs(num_jobs: int) -> Iterator[Result]:
    """Fill the queue with no daemon running, then with a busy one; list it as a command does."""
    with _bench() as bench:
        runs = _run_folders(bench, num_jobs)
        submit_s = [_timed(lambda run=run: bench.add(run)) for run in runs]
        worst_s = statistics.quantiles(submit_s, n=100)[98]
        listing_s = min(_timed(lambda: _list_as_command(bench)) for _ in range(5))
        blocker = bench.run(seconds=600)
        bench.queue.move(bench.add(blocker, cpus=8))
        bench.start()
        wait_for(lambda: bench.starts(blocker))
        busy_s = [_timed(lambda run=run: bench.add(run)) for run in _run_folders(bench, 200)]
    yield Result(
        what=f"submit, {num_jobs} jobs queued: median (99th percentile)",
        measured=f"{_ms(statistics.median(submit_s))} ({_ms(worst_s)})",
        target="<= 5 ms",
        is_met=statistics.median(submit_s) <= 0.005,
    )
    yield Result(
        what=f"submit, {num_jobs} jobs queued, daemon busy: median",
        measured=_ms(statistics.median(busy_s)),
        target="<= 5 ms",
        is_met=statistics.median(busy_s) <= 0.005,
    )
    yield Result(
        what=f"jobs --json, {num_jobs} jobs, whole command",
        measured=f"{listing_s:.3f} s",
        target="<= 0.5 s",
        is_met=listing_s <= 0.5,
    )


def _run_folders(bench: Bench, count: int) -> list[Run]:
    """Make runs by copying one run.json: what making them costs is not measured here."""
    first = bench.run()
    content = first.record_file.read_bytes()
    runs: list[Run] = []
    for number in range(count):
        run = Run(first.folder.parent / f"{first.id}-{number}")
        run.folder.mkdir()
        run.record_file.write_bytes(content)
        runs.append(run)
    return runs


def _list_as_command(bench: Bench) -> None:
    script = (
        "import sys; from emcfsys_engine.commands.jobs import jobs; sys.argv = ['jobs', '--json'];"
        " jobs()"
    )
    environment = {**os.environ, "EMCFSYS_HOME": str(bench.folder)}
    command = [sys.executable, "-c", script]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)


def _races(num_races: int) -> Result:
    """Start two daemons at once, again and again: both callers must be told of the same one."""
    num_agreed = 0
    with _bench() as bench:
        for _ in range(num_races):
            pids: list[int | None] = []
            threads = [
                threading.Thread(
                    target=lambda pids=pids: pids.append(
                        ensure_daemon(bench.folder, command=DAEMON).pid
                    )
                )
                for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            num_agreed += set(pids) == {daemon_status(bench.folder).pid}
            bench.kill_daemon()
    return Result(
        what="two daemons started at once: one ran",
        measured=f"{num_agreed} of {num_races}",
        target="all",
        is_met=num_agreed == num_races,
    )


def _timed(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _heading() -> str:
    cores = len(os.sched_getaffinity(0))
    return (
        f"# {Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}\n"
        f"# emcfsys {__version__}, Python {platform.python_version()},"
        f" sqlite {sqlite3.sqlite_version}, Linux {platform.release()}, {cores} cores,"
        f" load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
