"""The queue without a daemon: legal moves only, order, and files that must not be trusted."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from emcfsys_engine.errors import EmcfError, QueueError, RunFolderError
from emcfsys_engine.jobs import store, transitions
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.jobs.store import move
from tests.jobs.conftest import Bench

DATA = Path(__file__).parents[1] / "contracts/data"
NUM_CLIENTS = 20


def _claim(bench: Bench, job_id: int) -> None:
    job = bench.queue.get(job_id)
    assert transitions.claim(bench.queue.store, job, token="t", gpu_ids=(), events_offset=0)


def test_numbers_count_up_and_jobs_wait_in_order(bench: Bench) -> None:
    ids = [bench.add(bench.run(), priority=priority) for priority in (0, 5, 0)]
    assert ids == [1, 2, 3]
    assert [job.id for job in bench.queue.list()] == [1, 2, 3]
    waiting = transitions.waiting(bench.queue.store, full_groups=[], backing_off=[])
    assert [job.id for job in waiting] == [2, 1, 3]


def test_move_gives_another_place(bench: Bench) -> None:
    for priority in (0, 0, 0, 3):
        bench.add(bench.run(), priority=priority)

    def order() -> list[int]:
        found = transitions.waiting(bench.queue.store, full_groups=[], backing_off=[])
        return [job.id for job in found]

    assert order() == [4, 1, 2, 3]
    bench.queue.move(3, before=2)
    assert order() == [4, 1, 3, 2]
    bench.queue.move(2)
    assert order() == [2, 4, 1, 3]
    assert bench.queue.get(2).priority == 3
    bench.queue.move(2, last=True)
    assert order() == [4, 1, 3, 2]
    with pytest.raises(QueueError, match="there is no such job"):
        bench.queue.move(1, before=99)


def test_illegal_moves_are_refused_with_a_remedy(bench: Bench) -> None:
    job_id = bench.add(bench.run())
    with pytest.raises(QueueError, match="job 1: is queued, so not stopped"):
        bench.queue.stop(job_id)
    assert bench.queue.pause(job_id).state == "paused"
    assert bench.queue.resume(job_id).state == "queued"
    assert bench.queue.cancel(job_id).state == "cancelled"
    for act in (bench.queue.cancel, bench.queue.pause, bench.queue.resume, bench.queue.stop):
        with pytest.raises(QueueError, match="is cancelled"):
            act(job_id)
    assert bench.queue.retry(job_id).state == "queued"
    with pytest.raises(QueueError, match="there is no such job"):
        bench.queue.cancel(99)
    states = [line.state for line in bench.queue.history(job_id)]
    assert states == ["queued", "paused", "queued", "cancelled", "queued"]


def test_only_the_newest_start_may_write_an_end(bench: Bench) -> None:
    job_id = bench.add(bench.run())
    _claim(bench, job_id)
    with bench.queue.store.transaction() as connection:
        assert not move(connection, job_id, "done", token="older")
        assert move(connection, job_id, "done", token="t")
        assert not move(connection, job_id, "queued", token="t")  # done is done


def test_cancel_is_not_taken_back(bench: Bench) -> None:
    job_id = bench.add(bench.run())
    _claim(bench, job_id)
    assert bench.queue.pause(job_id).ask == "pause"
    assert bench.queue.cancel(job_id).ask == "cancel"
    with pytest.raises(QueueError):
        bench.queue.pause(job_id)


def test_run_has_one_open_job(bench: Bench) -> None:
    run = bench.run()
    job_id = bench.add(run)
    with pytest.raises(QueueError, match="is job 1 already"):
        bench.add(run)
    bench.queue.cancel(job_id)
    assert bench.add(run) == 2
    with pytest.raises(QueueError, match="Its run is job 2 now"):
        bench.queue.retry(job_id)


def test_needed_job_must_exist(bench: Bench) -> None:
    with pytest.raises(QueueError, match="job 7: there is no such job"):
        bench.add(bench.run(), after=[7])
    assert bench.queue.list() == []


def test_impossible_requests_are_refused(bench: Bench) -> None:
    run = bench.run()
    for request, text in (
        ({"gpus": 1}, "this machine has none"),
        ({"gpus": 1.5, "cpus": 1}, "no number of GPUs"),
        ({"gpus": -1}, "no number of GPUs"),
        ({"cpus": 9}, "9 processor slots are asked for, this machine has 8"),
        ({"memory_gb": 1e6}, "1e.06 GB are asked for"),
        ({"retries": -2}, "no number of retries"),
    ):
        with pytest.raises(QueueError, match=text) as caught:
            bench.add(run, **request)
        assert caught.value.exit_code == 2
    with pytest.raises(RunFolderError):
        bench.queue.add(bench.folder, project_name="x", cpus=1)


def test_training_without_gpu_takes_all_slots_and_a_watch_none(bench: Bench) -> None:
    job_id = bench.queue.add(bench.run().folder, project_name="x")
    assert (bench.queue.get(job_id).gpus, bench.queue.get(job_id).cpus) == (0, 8)


def test_state_folder_is_private(bench: Bench) -> None:
    bench.add(bench.run())
    assert stat.S_IMODE(bench.folder.stat().st_mode) == 0o700
    bench.folder.chmod(0o755)
    Queue.open(bench.folder, machine=bench.machine).close()
    assert stat.S_IMODE(bench.folder.stat().st_mode) == 0o700


def test_open_folder_with_other_things_is_refused(bench: Bench) -> None:
    bench.folder.mkdir(mode=0o755)
    bench.folder.chmod(0o755)
    (bench.folder / "thesis.tex").touch()
    with pytest.raises(QueueError, match="may be read by other users"):
        Queue.open(bench.folder, machine=bench.machine)
    assert stat.S_IMODE(bench.folder.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a second user")
def test_second_user_gets_nothing(bench: Bench) -> None:
    bench.add(bench.run())
    script = "import os,sys; os.setuid(65534); os.listdir(sys.argv[1])"
    command = [sys.executable, "-c", script, str(bench.folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PermissionError" in ended.stderr


@pytest.mark.parametrize("damage", ["empty", "noise", "torn", "other"])
def test_damaged_file_is_kept_named_and_refused(bench: Bench, damage: str) -> None:
    for _ in range(30):
        bench.add(bench.run())
    bench.queue.store.close()
    file = bench.folder / "queue.sqlite"
    content = file.read_bytes()
    file.unlink()
    for rest in ("-wal", "-shm"):
        file.with_name(file.name + rest).unlink(missing_ok=True)
    if damage == "other":
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE birds (name TEXT)")
        connection.close()
    else:
        torn = content[:4096] + os.urandom(len(content) - 4096)
        file.write_bytes({"empty": b"", "noise": os.urandom(9000), "torn": torn}[damage])
    before = file.read_bytes()
    with (
        pytest.raises(QueueError, match=r"queue\.sqlite") as caught,
        Queue.open(bench.folder, machine=bench.machine) as queue,
    ):
        queue.store.check_whole()
    assert "move it away" in str(caught.value).lower()
    assert file.read_bytes() == before


def test_newer_file_is_refused(bench: Bench) -> None:
    bench.add(bench.run())
    bench.queue.store.close()
    with sqlite3.connect(bench.folder / "queue.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(QueueError, match="has version 99"):
        Queue.open(bench.folder, machine=bench.machine)


def test_file_of_version_1_loads_for_ever(bench: Bench) -> None:
    bench.folder.mkdir(mode=0o700)
    shutil.copy(DATA / "queue-v1.sqlite", bench.folder / "queue.sqlite")
    jobs = bench.queue.list()
    assert [job.state for job in jobs] == ["done", "failed", "queued", "paused", "lost"]
    assert jobs[0].gpu_ids == ("GPU-8f2b6c1e-0000-4000-8000-000000000001",)
    assert jobs[1].reason == "ended by SIGSEGV"
    assert jobs[2].after == (1,)
    assert jobs[4].evidence == ()
    assert bench.queue.retry(5).state == "queued"
    assert [line.state for line in bench.queue.history(5)] == ["queued"]


def test_half_made_file_never_has_the_name(bench: Bench) -> None:
    made: list[Queue] = []

    def open_one() -> None:
        made.append(Queue.open(bench.folder, machine=bench.machine))

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made[0].add(bench.run().folder, project_name="x", cpus=1)
    assert [len(queue.list()) for queue in made] == [1] * 8
    for queue in made:
        queue.close()
    assert {file.name for file in bench.folder.iterdir()} <= {
        "queue.sqlite",
        "queue.sqlite-wal",
        "queue.sqlite-shm",
    }


def test_file_moved_away_is_seen_by_an_open_queue(bench: Bench) -> None:
    bench.add(bench.run())
    (bench.folder / "queue.sqlite").rename(bench.folder / "queue.sqlite.old")
    assert bench.queue.list() == []
    assert bench.add(bench.run()) == 1


def test_full_disk_changes_nothing(bench: Bench) -> None:
    bench.add(bench.run())
    with bench.queue.store.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(QueueError, match=r"full\. Free some space") as caught:
        for _ in range(200):
            bench.add(bench.run())
    assert isinstance(caught.value, EmcfError)
    count = len(bench.queue.list())
    with bench.queue.store.reading() as connection:
        connection.execute("PRAGMA max_page_count = 100000")
    assert bench.add(bench.run()) == count + 1


def test_read_only_disk_can_be_read_and_refuses_changes(bench: Bench) -> None:
    job_id = bench.add(bench.run())
    bench.queue.store.close()
    script = (
        "import os, sys; from pathlib import Path\n"
        "from emcfsys_engine.jobs.store import Store\n"
        "from emcfsys_engine.jobs.queue import Queue\n"
        "from emcfsys_engine.jobs.machine import Machine\n"
        "from emcfsys_engine.errors import QueueError\n"
        "queue = Queue(Store(Path(sys.argv[1])), Machine())\n"
        "print([job.id for job in queue.list()])\n"
        "try: queue.cancel(1)\n"
        "except QueueError as error: print(error)\n"
    )
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = ["sh", "-c", mount, str(bench.folder), sys.executable, "-c", script]
    ended = subprocess.run(
        ["unshare", "-rm", *command, str(bench.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in ended.stderr or "mount" in ended.stderr:
        pytest.skip("this machine lets nobody mount: " + ended.stderr.strip())
    assert ended.stdout.startswith(f"[{job_id}]\n"), (ended.stdout, ended.stderr)
    assert "readonly" in ended.stdout.splitlines()[1].replace("read-only", "readonly")
    bench.queue.store.wake()


def test_twenty_clients_submit_and_cancel_at_once(bench: Bench) -> None:
    bench.queue.list()
    runs = [[bench.run() for _ in range(5)] for _ in range(NUM_CLIENTS)]
    errors: list[BaseException] = []

    def client(mine: int) -> None:
        try:
            with Queue.open(bench.folder, machine=bench.machine) as queue:
                for run in runs[mine]:
                    job_id = queue.add(run.folder, project_name="x", cpus=1)
                    if job_id % 2:
                        queue.cancel(job_id)
        except EmcfError as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(mine,)) for mine in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    jobs = bench.queue.list()
    assert [job.id for job in jobs] == list(range(1, 5 * NUM_CLIENTS + 1))
    assert all(job.state == ("cancelled" if job.id % 2 else "queued") for job in jobs)
    assert len({job.position for job in jobs}) == len(jobs)


def test_schema_has_a_step_for_every_version() -> None:
    assert store.VERSION == 3
