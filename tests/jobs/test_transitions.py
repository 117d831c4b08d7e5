"""What becomes of a job when one of its starts has ended."""

from typing import Any

import pytest

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs import transitions
from emcfsys_engine.jobs.store import move
from emcfsys_engine.jobs.transitions import StartOutcome, judge
from emcfsys_engine.settings import JobSettings
from tests.jobs.conftest import Bench
from tests.jobs.made import job_with


@pytest.mark.parametrize(
    ("job", "outcome", "state", "wait_s"),
    [
        ({"retries": 2}, {"state": "failed", "may_retry": True}, "queued", 5.0),
        ({"retries": 2, "failures": 1}, {"state": "failed", "may_retry": True}, "queued", 10.0),
        ({"retries": 2, "failures": 2}, {"state": "failed", "may_retry": True}, "failed", 0.0),
        ({"retries": 2}, {"state": "failed"}, "failed", 0.0),  # bad input
        ({"retries": -1, "failures": 99}, {"state": "lost", "may_retry": True}, "queued", 600.0),
        ({"retries": 2, "ask": "cancel"}, {"state": "cancelled"}, "cancelled", 0.0),
        ({"resume": "auto"}, {"state": "interrupted"}, "queued", 5.0),
        ({"resume": "auto"}, {"state": "interrupted", "was_restart": True}, "queued", 0.0),
        ({"resume": "never"}, {"state": "interrupted"}, "interrupted", 0.0),
        ({"kind": "watch"}, {"state": "interrupted"}, "queued", 5.0),
        ({"kind": "watch", "ask": "stop"}, {"state": "interrupted"}, "interrupted", 0.0),
        ({"kind": "watch"}, {"state": "done"}, "done", 0.0),
    ],
)
def test_what_becomes_of_a_job(
    job: dict[str, Any], outcome: dict[str, Any], state: str, wait_s: float
) -> None:
    verdict = judge(job_with(1, **job), StartOutcome(**outcome), JobSettings(), ran_s=1.0)
    assert (verdict.state, verdict.wait_s) == (state, wait_s)


def test_long_run_is_no_crash_loop() -> None:
    job = job_with(1, retries=3, failures=3)
    crash = StartOutcome(state="failed", may_retry=True)
    assert judge(job, crash, JobSettings(), ran_s=3600).failures == 1
    assert judge(job, crash, JobSettings(), ran_s=3).state == "failed"


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
