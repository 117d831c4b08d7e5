"""Moves that only the newest start of a job may make."""

import pytest

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs import transitions
from emcfsys_engine.jobs.store import move
from tests.jobs.conftest import Bench


def _claim(bench: Bench, job_id: int) -> None:
    job = bench.queue.get(job_id)
    assert transitions.claim(bench.queue.store, job, token="t", gpu_ids=(), events_offset=0)


def test_numbers_count_up_and_jobs_wait_in_order(bench: Bench) -> None:
    ids = [bench.add(bench.run(), priority=priority) for priority in (0, 5, 0)]
    assert ids == [1, 2, 3]
    assert [job.id for job in bench.queue.list()] == [1, 2, 3]
    waiting = transitions.waiting(bench.queue.store, full_groups=[], backing_off=[])
    assert [job.id for job in waiting] == [2, 1, 3]


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
