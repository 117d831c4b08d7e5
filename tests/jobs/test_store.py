"""The queue's file: private, whole, of a known version, or refused and kept."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from emcfsys_engine.errors import EmcfError, QueueError
from emcfsys_engine.jobs import store
from emcfsys_engine.jobs.queue import Queue
from tests.jobs.conftest import Bench

DATA = Path(__file__).parents[1] / "contracts/data"


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


def test_schema_has_a_step_for_every_version() -> None:
    assert store.VERSION == 4
