"""The queue without a daemon: legal moves only, order, and files that must not be trusted."""

import os
import stat
import subprocess
import sys
import threading
from typing import Any

import pytest

from emcfsys_engine.errors import EmcfError, QueueError, RunFolderError
from emcfsys_engine.jobs import transitions
from emcfsys_engine.jobs.queue import Options, Queue, submit_run
from tests.jobs.conftest import Bench

NUM_CLIENTS = 20


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


def test_a_number_that_no_queue_can_hold_is_refused_and_nothing_is_left(bench: Bench) -> None:
    run, huge = bench.run(), 1 << 64
    requests: tuple[dict[str, Any], ...] = (
        {"priority": huge},
        {"retries": huge},
        {"after": [huge]},
        {"priority": -huge},
    )
    for request in requests:
        with pytest.raises(QueueError, match="a number that large"):
            bench.add(run, **request)
    for act in (bench.queue.cancel, bench.queue.get, bench.queue.retry, bench.queue.move):
        with pytest.raises(QueueError, match="a number that large"):
            act(huge)
    assert bench.queue.list() == []
    assert bench.add(run) == 1


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


def test_a_run_in_the_queue_is_not_submitted_again_and_nothing_of_it_is_lost(bench: Bench) -> None:
    run = bench.run()
    bench.add(run)
    with pytest.raises(QueueError, match="is job 1 of the queue"):
        submit_run(bench.queue, run, "again", None, Options())
    assert run.record_file.exists()


def test_a_folder_whose_name_is_no_utf8_is_refused_and_leaves_no_run(bench: Bench) -> None:
    bench.project = bench.project.with_name("caf\udce9")
    run = bench.run()
    with pytest.raises(QueueError, match="no UTF-8.*Rename its folder"):
        submit_run(bench.queue, run, "p", None, Options())
    assert not run.folder.exists()
    assert not bench.queue.list()
