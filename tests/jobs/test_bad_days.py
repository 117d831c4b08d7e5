"""Bad bytes, disks that go and come, slow endings: every job ends true, none runs twice."""

import errno
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emcfsys_engine.errors import DaemonError, QueueError
from emcfsys_engine.jobs import transitions
from emcfsys_engine.jobs.daemon import Daemon
from emcfsys_engine.jobs.supervisor import Start
from emcfsys_engine.jobs.transitions import outcome_of
from emcfsys_engine.launch.start import holder, start
from emcfsys_engine.run.events import EventWriter, RunFinished, end_of_events
from emcfsys_engine.run.folder import Run
from tests.jobs.conftest import Bench, wait_for
from tests.jobs.standin_daemon import STANDIN


@pytest.mark.parametrize(
    ("token", "offset"), [("\\udc80", 0), ("other", 10**30), ("other", -1)], ids=str
)
def test_what_a_damaged_file_says_of_another_start_ends_no_daemon(
    bench: Bench, token: str, offset: int
) -> None:
    run = bench.run(seconds=0.5)
    keeper = start(run, worker=[sys.executable, str(STANDIN)])
    wait_for(run.events)
    said = json.dumps(json.loads(run.lock_file.read_text()) | {"token": "TOKEN"})
    run.lock_file.write_text(said.replace("TOKEN", token))
    run.start_file.write_text(f'{{"token": "{token}", "events_bytes": {offset}}}')
    daemon = Daemon(bench.queue)
    job_id = bench.add(run)
    daemon.dispatch.start_waiting()
    keeper.wait()
    wait_for(daemon.supervisor.settle_ended)
    assert bench.starts(run) == 1
    assert bench.state(job_id) != "running"


@pytest.mark.parametrize("content", [b"", b"\xff\0{", b"[" * 100_000, b'{"pid": 1e308}'])
def test_a_job_whose_lock_cannot_be_read_runs_once_and_is_judged_by_what_it_left(
    bench: Bench, content: bytes
) -> None:
    run = bench.run(seconds=0.5)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: bench.starts(run) and (held := holder(run)) and held.worker)
    bench.kill_daemon()
    run.lock_file.write_bytes(content)
    bench.start()
    assert bench.wait(job_id, "done").starts == 1
    assert bench.starts(run) == 1


def test_a_job_whose_lock_cannot_be_read_still_saves_when_it_is_cancelled(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: run.log_file.exists() and run.log_file.read_text())
    bench.kill_daemon()
    run.lock_file.write_bytes(b"\xff")
    bench.start()
    bench.queue.cancel(job_id)
    assert bench.wait(job_id, "cancelled").reason == ""
    assert run.outcome() == ("cancelled", "")


def test_a_queue_that_was_empty_for_a_while_goes_on(bench: Bench) -> None:
    done = bench.add(bench.run())
    bench.start()
    bench.wait(done, "done")
    file = bench.folder / "queue.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    aside = file.rename(file.with_name("aside"))
    file.write_bytes(b"")
    with pytest.raises(QueueError, match="is empty"):
        bench.queue.list()
    wait_for(lambda: "is empty" in (bench.folder / "daemon.log").read_text())
    aside.replace(file)
    later = bench.add(bench.run())
    bench.wait(later, "done")
    assert bench.queue.get(done).state == "done"


def test_a_daemon_starts_over_a_damaged_row_and_a_damaged_run(bench: Bench) -> None:
    bad_row, bad_run = bench.add(bench.run()), bench.run()
    bad_job, good = bench.add(bad_run), bench.add(bench.run())
    bad_run.record_file.write_bytes(b"[" * 100_000)
    with sqlite3.connect(bench.folder / "queue.sqlite") as connection:
        connection.execute("UPDATE jobs SET gpus = 'many' WHERE id = ?", (bad_row,))
    connection.close()
    bench.start()
    bench.wait(good, "done")
    assert "is damaged" in bench.wait(bad_job, "failed").reason
    assert f"job {bad_row}: its row" in (bench.folder / "daemon.log").read_text()


def test_a_waiting_job_whose_disk_is_away_waits_for_it(bench: Bench) -> None:
    run = bench.run()
    job_id = bench.add(run)
    away = bench.project.rename(bench.project.with_name("unmounted"))
    (bench.project / "runs").mkdir(parents=True)  # the empty mount point
    bench.start()
    wait_for(lambda: "its disk may be away" in bench.queue.get(job_id).reason)
    assert bench.state(job_id) == "queued"
    shutil.rmtree(bench.project)
    away.rename(bench.project)
    assert bench.wait(job_id, "done").starts == 1


def test_a_run_that_ends_while_its_disk_is_away_is_judged_when_it_is_back(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id, other = bench.add(run), bench.run()
    bench.start()
    wait_for(lambda: run.log_file.exists() and run.log_file.read_text())
    held_by = holder(run)
    assert held_by is not None
    away = bench.project.rename(bench.project.with_name("unmounted"))
    with EventWriter(away / "runs" / run.id / "events.jsonl") as events:
        events.write(RunFinished(reason="steps", step=9))
    for pid in (held_by.pid, held_by.worker):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "may be away" in (bench.folder / "daemon.log").read_text())
    assert bench.state(job_id) == "running"
    wait_for(lambda: f"cancel {job_id}" in bench.queue.get(job_id).reason)
    away.rename(bench.project)
    assert bench.wait(job_id, "done").starts == 1
    bench.wait(bench.add(other), "done")


def test_a_running_job_whose_only_run_was_removed_says_so_and_can_be_cancelled(
    bench: Bench,
) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: run.log_file.exists() and run.log_file.read_text())
    held_by = holder(run)
    assert held_by is not None
    run.folder.rename(bench.project / "removed")
    for pid in (held_by.pid, held_by.worker):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "is not there" in bench.queue.get(job_id).reason)
    assert bench.state(job_id) == "running"
    bench.queue.cancel(job_id)
    assert "run folder is gone" in bench.wait(job_id, "cancelled").reason


def test_a_worker_that_lost_its_disk_goes_on_when_it_is_back(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run, resume="auto")
    bench.start()
    wait_for(lambda: run.log_file.exists() and run.log_file.read_text())
    held_by = holder(run)
    assert held_by is not None
    away = bench.project.rename(bench.project.with_name("unmounted"))
    for pid in (held_by.pid, held_by.worker):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "may be away" in (bench.folder / "daemon.log").read_text())
    (away / "runs" / run.id / "behaviour.json").write_text('{"does": "work"}')
    away.rename(bench.project)
    assert bench.wait(job_id, "done").starts == 2


def test_a_state_folder_whose_disk_is_away_is_waited_for_and_not_begun_anew(bench: Bench) -> None:
    job_id = bench.add(bench.run())
    away = bench.folder.rename(bench.folder.with_name("unmounted"))
    bench.folder.mkdir()  # the empty mount point
    with pytest.raises(QueueError, match="is away"):
        bench.queue.list()
    assert not list(bench.folder.iterdir())
    bench.folder.rmdir()
    away.rename(bench.folder)
    assert bench.queue.get(job_id).state == "queued"


def test_a_slow_ending_that_still_computes_is_not_killed(bench: Bench) -> None:
    bench.configure("cpu_slots = 8\ngrace_s = 0.3")
    run = bench.run("slow ending", seconds=1.2)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: run.log_file.exists() and run.log_file.read_text())
    bench.queue.stop(job_id)
    job = bench.wait(job_id, "done", "cancelled", "failed")
    assert (job.state, job.reason) == ("done", "stopped")


def test_a_worker_that_computes_on_for_ever_is_killed_in_the_end(bench: Bench) -> None:
    bench.configure("cpu_slots = 8\ngrace_s = 0.1")
    run = bench.run("slow ending", seconds=1000)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: run.log_file.exists() and run.log_file.read_text())
    bench.queue.cancel(job_id)
    assert bench.wait(job_id, "cancelled").reason == "had to be killed"


def test_what_a_clock_says_decides_nothing(bench: Bench) -> None:
    run = bench.run()
    job_id = bench.add(run)
    bench.start()
    bench.wait(job_id, "done")
    record = json.loads(run.exit_file.read_text())
    Path(run.exit_file).write_text(json.dumps({**record, "started": 9e9, "ended": 1.0}))
    assert run.outcome() == ("done", "steps")


def test_a_second_host_is_told_at_once_where_the_daemon_runs(bench: Bench) -> None:
    bench.queue.list()
    signature = {"pid": 1, "start_ticks": 1, "boot": "another", "version": "0", "started": 0.0}
    file = bench.folder / "daemon.lock"
    file.write_text(json.dumps({**signature, "host": "node7"}))
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DaemonError, match="runs on node7"):
            bench.start()
    assert bench.start().running  # that host's daemon is gone


def test_a_run_whose_events_cannot_be_read_for_a_while_is_done_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last word was taken for none: "failed: ended with exit code 0", for good."""
    job = bench.queue.get(bench.add(run := bench.run()))
    assert transitions.claim(
        bench.queue.store, job, token="t", gpu_ids=(), events_offset=end_of_events(run.events_file)
    )
    job = bench.queue.get(job.id)
    start(run, token=job.token, worker=[sys.executable, str(STANDIN)]).wait()
    real = os.open

    def stale(path: Any, *given: Any, **named: Any) -> int:
        if path == run.events_file:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, *given, **named)

    monkeypatch.setattr(os, "open", stale)
    for judge in (lambda: outcome_of(run, job), lambda: end_of_events(run.events_file)):
        with pytest.raises(OSError, match="tale"):
            judge()
    monkeypatch.undo()
    assert outcome_of(run, job).state == "done"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOSPC])
def test_a_job_whose_disk_takes_nothing_as_it_is_started_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    job_id = bench.add(bench.run())

    def refuse(file: Path, *_: object) -> None:
        raise OSError(number, os.strerror(number), str(file))

    monkeypatch.setattr("emcfsys_engine.launch.start.write_whole", refuse)
    Daemon(bench.queue).dispatch.start_waiting()
    assert (bench.state(job_id), bench.queue.get(job_id).started) == ("queued", None)
    assert os.strerror(number) in bench.queue.get(job_id).reason
    monkeypatch.undo()
    bench.start()
    bench.wait(job_id, "done")


def test_a_run_that_another_daemon_just_finished_is_done_here_as_well(bench: Bench) -> None:
    """Its keeper still lived: what came after the claim was looked at, and there was nothing."""
    run = bench.run("family")  # what it leaves behind holds its keeper for a moment
    job_id = bench.add(run)
    keeper = start(run, worker=[sys.executable, str(STANDIN)])  # as another home's daemon would
    wait_for(lambda: run.ending() is not None)
    daemon = Daemon(bench.queue)
    daemon.dispatch.start_waiting()
    assert bench.state(job_id) == "running"
    keeper.wait()
    wait_for(daemon.supervisor.settle_ended)
    assert (bench.state(job_id), bench.starts(run)) == ("done", 1)


def test_a_start_that_another_daemons_start_overtook_is_followed_and_not_told_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two daemons began the same run: that it lived by now was taken for an end without a word."""
    run = bench.run(seconds=0.5)
    job = bench.queue.get(bench.add(run))
    daemon = Daemon(bench.queue)
    store = bench.queue.store
    assert transitions.claim(store, job, token="ours", gpu_ids=(), events_offset=0)
    job = bench.queue.get(job.id)
    daemon.supervisor.watch(job, Start(job))  # its keeper came second, and ended
    others: list[subprocess.Popen[bytes]] = []

    def begin_just_now(_: Run) -> None:
        others.append(start(run, worker=[sys.executable, str(STANDIN)]))
        wait_for(run.events)

    monkeypatch.setattr("emcfsys_engine.jobs.supervisor.void_start", begin_just_now)
    assert not daemon.supervisor.settle_ended()
    assert bench.state(job.id) == "running"
    wait_for(daemon.supervisor.settle_ended)
    assert (bench.state(job.id), bench.starts(run)) == ("done", 1)
    others[0].wait()
