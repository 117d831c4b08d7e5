"""What becomes of a job when one of its starts has ended."""

from typing import Any

import pytest

from emcfsys_engine.jobs.outcome import Outcome, judge
from emcfsys_engine.settings import JobSettings
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
    verdict = judge(job_with(1, **job), Outcome(**outcome), JobSettings(), ran_s=1.0)
    assert (verdict.state, verdict.wait_s) == (state, wait_s)


def test_long_run_is_no_crash_loop() -> None:
    job = job_with(1, retries=3, failures=3)
    crash = Outcome(state="failed", may_retry=True)
    assert judge(job, crash, JobSettings(), ran_s=3600).failures == 1
    assert judge(job, crash, JobSettings(), ran_s=3).state == "failed"
