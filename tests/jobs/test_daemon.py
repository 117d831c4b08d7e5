"""The daemon with real keepers and processes: submit, start, outcome, cancel, pause."""

from pathlib import Path

from emcfsys_engine.jobs.control import daemon_status, stop_daemon
from emcfsys_engine.launch import processes
from tests.jobs.conftest import Bench, wait_for


def test_submitted_job_runs_and_is_done(bench: Bench) -> None:
    run = bench.run()
    job_id = bench.add(run)  # no daemon yet
    assert bench.state(job_id) == "queued"
    bench.start()
    job = bench.wait(job_id, "done")
    assert (job.reason, job.starts, bench.starts(run)) == ("steps", 1, 1)
    assert job.started is not None
    assert job.ended is not None
    assert not run.is_alive()


def test_cancelled_job_saves_and_leaves_nothing(bench: Bench) -> None:
    run = bench.run("family", seconds=60)
    job_id = bench.add(run)
    bench.start()
    pids = wait_for(lambda: _lines(run.folder / "family", 2))
    assert bench.queue.cancel(job_id).state == "stopping"
    bench.wait(job_id, "cancelled")
    assert not run.is_alive()
    assert all(processes.start_ticks(int(pid)) is None for pid in pids)
    assert run.exit_record() is not None


def test_deaf_worker_is_killed_after_the_grace(bench: Bench) -> None:
    bench.configure("cpu_slots = 8\ngrace_s = 0.3")
    run = bench.run("ignore")
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: run.log_file.exists() and run.log_file.read_text())
    bench.queue.cancel(job_id)
    job = bench.wait(job_id, "cancelled")
    assert job.reason == "had to be killed"
    assert not run.is_alive()


def test_paused_job_goes_on_where_it_was(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: bench.starts(run))
    bench.queue.pause(job_id)
    bench.wait(job_id, "paused")
    assert not run.is_alive()
    (run.folder / "behaviour.json").write_text('{"does": "work"}')
    bench.queue.resume(job_id)
    bench.wait(job_id, "done")
    assert bench.starts(run) == 2


def test_stopped_job_is_done(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: bench.starts(run))
    bench.queue.stop(job_id)
    assert bench.wait(job_id, "done").reason == "stopped"


def test_crashed_worker_tells_signal_and_last_lines(bench: Bench) -> None:
    job_id = bench.add(bench.run("crash"))
    bench.start()
    job = bench.wait(job_id, "failed")
    assert job.reason == "ended by SIGSEGV"
    assert job.evidence[-1] == "about to die"


def test_daemon_leaves_its_jobs_running(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: bench.starts(run))
    assert stop_daemon(bench.folder)
    assert not daemon_status(bench.folder).running
    assert run.is_alive()
    bench.start()
    (run.folder / "behaviour.json").unlink()
    bench.queue.cancel(job_id)
    bench.wait(job_id, "cancelled")
    assert bench.starts(run) == 1


def _lines(file: Path, count: int) -> list[str]:
    lines = file.read_text().split() if file.exists() else []
    return lines if len(lines) == count else []
