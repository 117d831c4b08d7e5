"""Who starts now: order, what fits, and that nobody is overtaken for ever."""

from typing import Any

import msgspec
import pytest

from emcfsys_engine.jobs.job import MOVES, OPEN, STATES, Job, sources
from emcfsys_engine.jobs.machine import Gpu, Machine, choose
from emcfsys_engine.jobs.outcome import Outcome, judge
from emcfsys_engine.jobs.scheduler import Free, Placement, place
from emcfsys_engine.launch import processes
from emcfsys_engine.settings import Config, JobSettings


def _job(number: int, **values: Any) -> Job:
    defaults: dict[str, Any] = {"state": "queued", "run": "/r", "project": "p", "kind": "train"}
    return Job(id=number, **{**defaults, **values})


def _gpu(number: int, **values: Any) -> Gpu:
    defaults: dict[str, Any] = {"uuid": f"GPU-{number}", "total_gb": 80.0, "free_gb": 80.0}
    return Gpu(**{**defaults, **values})


def _free(**values: Any) -> Free:
    defaults: dict[str, Any] = {
        "cpu_slots": 4,
        "num_cpu_slots": 4,
        "memory_gb": 16.0,
        "gpus": [],
        "our_slots": {},
        "groups": {},
    }
    return Free(**{**defaults, **values})


def _started(jobs: list[Job], free: Free, held_for: frozenset[int] = frozenset()) -> list[int]:
    decisions = place(jobs, free, held_for=held_for)
    return [decision.job.id for decision in decisions if isinstance(decision, Placement)]


def test_small_jobs_pass_a_big_one_until_it_is_held_for() -> None:
    jobs = [_job(1, cpus=3), _job(2, cpus=2), _job(3, cpus=1)]
    assert _started(jobs, _free(cpu_slots=2)) == [2]
    assert _started(jobs, _free(cpu_slots=3)) == [1]
    assert _started(jobs, _free(cpu_slots=2), frozenset({1})) == []


def test_job_that_asks_for_more_slots_than_are_left_in_the_settings_still_starts() -> None:
    assert _started([_job(1, cpus=64)], _free()) == [1]


def test_memory_and_group_limits_hold() -> None:
    jobs = [_job(n, memory_gb=6.0, group="night") for n in (1, 2, 3)]
    assert _started(jobs, _free()) == [1, 2]
    assert _started(jobs, _free(groups={"night": 1})) == [1]


def test_waiting_gpu_job_does_not_hold_up_others() -> None:
    jobs = [_job(1, gpus=2.0, cpus=1), _job(2, gpus=1.0, cpus=1), _job(3, cpus=1)]
    free = _free(gpus=[_gpu(0)])
    assert _started(jobs, free) == [2, 3]
    assert _started(jobs, free, frozenset({1})) == [3]


def test_fractions_share_a_gpu_and_whole_ones_do_not() -> None:
    jobs = [_job(n, gpus=0.5) for n in (1, 2, 3)]
    assert _started(jobs, _free(gpus=[_gpu(0)])) == [1, 2]
    both = [_job(1, gpus=0.5), _job(2, gpus=1.0)]
    decisions = place(both, _free(gpus=[_gpu(0), _gpu(1)]))
    assert [d.gpu_ids for d in decisions if isinstance(d, Placement)] == [("GPU-0",), ("GPU-1",)]


def test_fraction_goes_where_others_share_already() -> None:
    gpus = [_gpu(0), _gpu(1, num_taken=4, free_gb=50.0)]
    assert choose(gpus, 0.25, {}) == ("GPU-1",)
    assert choose(gpus, 0.75, {}) == ("GPU-0",)


def test_gpu_of_others_is_respected() -> None:
    assert choose([_gpu(0, process_ids=(4711,))], 1, {}) is None
    assert choose([_gpu(0, free_gb=60.0)], 1, {}) is None  # seen by its memory only
    assert choose([_gpu(0, num_taken=1)], 1, {}) is None
    assert choose([_gpu(0, process_ids=(4711,), free_gb=50.0)], 0.5, {}) == ("GPU-0",)
    assert choose([_gpu(0, process_ids=(4711,), free_gb=30.0)], 0.5, {}) is None


def test_our_slots_count_before_their_keepers_hold_them() -> None:
    assert choose([_gpu(0)], 1, {"GPU-0": processes.NUM_SLOTS}) is None
    assert choose([_gpu(0)], 0.5, {"GPU-0": 4}) == ("GPU-0",)
    assert choose([_gpu(0, num_taken=4)], 0.5, {"GPU-0": 4}) == ("GPU-0",)  # the same four


def test_instances_serve_one_job_each() -> None:
    parts = [_gpu(n, is_instance=True) for n in (0, 1)]
    assert choose(parts, 1, {}) == ("GPU-0",)
    assert choose(parts, 2, {}) is None


def test_machine_without_driver_has_no_gpu() -> None:
    class NoSource:
        def read(self) -> list[Gpu]:
            return []

    assert Machine(settings=Config(), source=NoSource()).gpus() == []


def test_moves_lead_only_to_states_and_every_state_can_be_reached() -> None:
    assert all(set(targets) <= set(STATES) for targets in MOVES.values())
    assert all(sources(state) for state in STATES)
    assert all(MOVES[state] for state in OPEN)
    assert MOVES["done"] == ()


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
    verdict = judge(_job(1, **job), Outcome(**outcome), JobSettings(), ran_s=1.0)
    assert (verdict.state, verdict.wait_s) == (state, wait_s)


def test_long_run_is_no_crash_loop() -> None:
    job = _job(1, retries=3, failures=3)
    crash = Outcome(state="failed", may_retry=True)
    assert judge(job, crash, JobSettings(), ran_s=3600).failures == 1
    assert judge(job, crash, JobSettings(), ran_s=3).state == "failed"


def test_job_survives_json() -> None:
    job = _job(1, after=(3, 4), gpu_ids=("GPU-1",))
    assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job
