"""What must survive: the daemon's own death, a reboot, a closed terminal, full and broken disks."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.control import daemon_status
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.launch import processes
from emcfsys_engine.launch.start import holder
from emcfsys_engine.run.folder import Run
from tests.jobs.conftest import Bench, wait_for
from tests.thorough import tries

# What a stand-in worker does, and the only state in which its job may end.
EXPECTED = {
    "work": "done",
    "family": "done",
    "crash": "failed",
    "fail": "failed",
}


def _kill_often(bench: Bench, num_kills: int, seed: int) -> None:
    """Submit under load while the daemon is killed at random moments; then look at every job."""
    choose = random.Random(seed)
    bench.configure("cpu_slots = 6\ngrace_s = 5\nretry_wait_s = 0.05")
    submitted: dict[int, tuple[Run, str]] = {}
    for _ in range(num_kills):
        bench.start()
        for _ in range(4):
            does = choose.choice(["work", "work", "family", "crash", "fail"])
            more = {"reason": "no such class", "exit_code": 1} if does == "fail" else {}
            run = bench.run(does, seconds=choose.uniform(0, 0.4), **more)
            submitted[bench.add(run)] = (run, EXPECTED[does])
        # A moment at random, as an event count so that the machine's speed matters less.
        enough = _num_moves(bench) + choose.randrange(1, 12)
        with contextlib.suppress(AssertionError):
            wait_for(
                lambda enough=enough: _num_moves(bench) >= enough,
                seconds=choose.uniform(0.0, 0.6),
            )
        bench.kill_daemon()
    bench.start()
    for job_id, (run, expected) in submitted.items():
        job = bench.wait(job_id, "done", "failed", "cancelled", "interrupted", "lost")
        assert job.state == expected, (job, run.log_file.read_text())
        assert bench.starts(run) == 1, f"job {job_id} ran {bench.starts(run)} times"
        assert not run.is_alive()
        assert processes.descendants(job.token) == []
    assert len(bench.queue.list()) == len(submitted)


def _num_moves(bench: Bench) -> int:
    with bench.queue.store.reading() as connection:
        return int(connection.execute("SELECT count(*) FROM history").fetchone()[0])


def test_no_job_is_lost_or_run_twice_when_the_daemon_is_killed(bench: Bench) -> None:
    _kill_often(bench, num_kills=4, seed=1)


@pytest.mark.long
def test_no_job_is_lost_or_run_twice_in_many_kills(bench: Bench) -> None:
    _kill_often(bench, num_kills=tries(14, 50), seed=2)


def test_daemon_that_died_between_claim_and_start_starts_once(bench: Bench) -> None:
    from emcfsys_engine.jobs import transitions

    run = bench.run()
    job = bench.queue.get(bench.add(run))
    assert transitions.claim(bench.queue.store, job, token="dead", gpu_ids=(), events_offset=0)
    (run.folder / "start.json").write_text('{"token": "dead"}')
    bench.start()
    bench.wait(job.id, "done")
    assert bench.starts(run) == 1
    late = [sys.executable, "-m", "emcfsys_engine.launch.keeper", str(run.folder), "--start=dead"]
    subprocess.run([*late, "--", "touch", str(run.folder / "twice")], check=False)
    assert not (run.folder / "twice").exists()


def test_what_ended_meanwhile_gets_its_true_outcome(bench: Bench) -> None:
    runs = [bench.run(seconds=60), bench.run("ignore")]
    ids = [bench.add(run) for run in runs]
    bench.start()
    for run in runs:
        wait_for(lambda run=run: bench.starts(run))
    bench.kill_daemon()
    (held_by, other) = (holder(runs[0]), holder(runs[1]))
    assert held_by is not None
    assert other is not None
    os.kill(held_by.worker, signal.SIGKILL)
    os.kill(other.pid, signal.SIGKILL)  # a keeper: nobody is left to tell of its worker
    os.kill(other.worker, signal.SIGKILL)
    wait_for(lambda: not runs[0].is_alive() and not runs[1].is_alive())
    bench.start()
    assert bench.wait(ids[0], "failed").reason == "ended by SIGKILL"
    assert bench.wait(ids[1], "lost").reason == "its worker and keeper ended without a word"


def test_worker_outlives_its_killed_keeper_and_can_be_cancelled(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: bench.starts(run))
    held_by = wait_for(lambda: (found := holder(run)) and found.worker and found)
    assert held_by
    os.kill(held_by.pid, signal.SIGKILL)
    wait_for(lambda: not held_by.keeper_lives)
    assert bench.state(job_id) == "running"
    bench.queue.cancel(job_id)
    bench.wait(job_id, "cancelled")
    assert bench.starts(run) == 1


def test_after_a_reboot_a_job_goes_on_if_it_says_so(bench: Bench) -> None:
    runs = [bench.run(seconds=60), bench.run(seconds=60)]
    ids = [bench.add(runs[0], resume="auto"), bench.add(runs[1])]
    bench.start()
    for run in runs:
        wait_for(lambda run=run: bench.starts(run))
    bench.kill_daemon()
    for run in runs:
        held_by = holder(run)
        assert held_by is not None
        os.kill(held_by.pid, signal.SIGKILL)
        os.kill(held_by.worker, signal.SIGKILL)
        wait_for(lambda run=run: not run.is_alive())
        lock = run.lock_file.read_text().replace(held_by.boot, "an-earlier-boot")
        run.lock_file.write_text(lock)
    (runs[0].folder / "behaviour.json").write_text('{"does": "work"}')
    bench.start()
    assert bench.wait(ids[0], "done").starts == 2
    assert bench.wait(ids[1], "interrupted").reason == "the machine was restarted"


def test_daemon_outlives_a_queue_that_breaks_under_it(bench: Bench) -> None:
    run = bench.run(seconds=60)
    bench.add(run)
    bench.start()
    wait_for(lambda: bench.starts(run))
    file = bench.folder / "queue.sqlite"
    shutil.copy(file, bench.folder / "queue.sqlite.good")
    bench.folder.joinpath("queue.sqlite.good").write_bytes(b"rust" * 5000)
    bench.folder.joinpath("queue.sqlite.good").replace(file)
    log = bench.folder / "daemon.log"
    wait_for(lambda: "cannot be" in log.read_text())
    assert daemon_status(bench.folder).running
    assert run.is_alive()


def test_full_disk_for_the_queue_loses_no_outcome(bench: Bench, tmp_path: Path) -> None:
    script = (
        "import json, os, sys, time; from pathlib import Path\n"
        "from emcfsys_engine.errors import QueueError\n"
        "from tests.jobs.conftest import Bench, wait_for\n"
        "bench = Bench(Path(sys.argv[1])); bench.project = Path(sys.argv[2])\n"
        "runs = [bench.run(seconds=0.5) for _ in range(3)]; last = bench.run()\n"
        "ids = [bench.add(run) for run in runs]; bench.start()\n"
        "[wait_for(lambda run=run: bench.starts(run)) for run in runs]\n"
        "full = open(bench.folder / 'ballast', 'wb', buffering=0)\n"
        "try:\n"
        "    while True: full.write(b'x' * 4096)\n"
        "except OSError: pass\n"
        "wait_for(lambda: not any(run.is_alive() for run in runs))\n"
        "try: [bench.add(last) for _ in range(1)]\n"
        "except QueueError as error: print(error)\n"
        "wait_for(lambda: 'full' in (bench.folder.parent / 'log').read_text()\n"
        "    if (bench.folder.parent / 'log').exists() else True)\n"
        "assert bench.queue.list()[0].state in ('running', 'done')\n"
        "full.close(); (bench.folder / 'ballast').unlink()\n"
        "states = [bench.wait(n, 'done').starts for n in ids]\n"
        "print('outcomes', states); bench.close()\n"
    )
    small = tmp_path / "small"
    small.mkdir()
    mount = 'mount -t tmpfs -o size=600k,mode=700 none "$0" && exec "$@"'
    command = ["sh", "-c", mount, str(small), sys.executable, "-c", script, str(small)]
    ended = subprocess.run(
        ["unshare", "-rm", *command, str(tmp_path / "project")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    if "unshare" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip("this machine lets nobody mount: " + ended.stderr.strip())
    assert "outcomes [1, 1, 1]" in ended.stdout, (ended.stdout, ended.stderr)


def test_full_disk_for_the_events_is_told(bench: Bench) -> None:
    run = bench.run("flood")
    job_id = bench.add(run)
    bench.start()
    job = bench.wait(job_id, "failed")
    assert job.reason == "ended with exit code 1, and without a word"
    assert "File too large" in job.evidence[-1]


def test_reused_number_of_a_dead_keeper_is_not_taken_for_it(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: bench.starts(run))
    bench.kill_daemon()
    held_by = holder(run)
    assert held_by is not None
    os.kill(held_by.pid, signal.SIGKILL)
    os.kill(held_by.worker, signal.SIGKILL)
    wait_for(lambda: not run.is_alive())
    lock = json.loads(run.lock_file.read_text())  # as if our own process had got its number
    lock |= {"pid": os.getpid(), "worker": os.getpid()}
    run.lock_file.write_text(json.dumps(lock))
    bench.start()
    assert bench.wait(job_id, "lost").state == "lost"


@pytest.mark.long
def test_clients_and_daemon_agree_under_load(bench: Bench) -> None:
    bench.start()
    runs = [[bench.run(seconds=0.05) for _ in range(3)] for _ in range(20)]
    refused: list[QueueError] = []

    def client(mine: int) -> None:
        with Queue.open(bench.folder, machine=bench.machine) as queue:
            for run in runs[mine]:
                job_id = queue.add(run.folder, project_name="x", cpus=1)
                if job_id % 3 == 0:
                    try:
                        queue.cancel(job_id)
                    except QueueError as error:
                        refused.append(error)

    threads = [threading.Thread(target=client, args=(mine,)) for mine in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in bench.queue.list():
        ended = bench.wait(job.id, "done", "cancelled")
        assert bench.starts(Run(Path(ended.run))) <= 1
        assert ended.id % 3 == 0 or ended.state == "done"
    assert len(bench.queue.list()) == 60
    assert all("is done, so not cancelled" in str(error) for error in refused)
