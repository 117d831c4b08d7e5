"""Who starts now: order, what fits, and that nobody is overtaken for ever."""

from typing import Any

from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.scheduler import Free, Placement, place
from tests.jobs.made import gpu_of, job_with


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
    jobs = [job_with(1, cpus=3), job_with(2, cpus=2), job_with(3, cpus=1)]
    assert _started(jobs, _free(cpu_slots=2)) == [2]
    assert _started(jobs, _free(cpu_slots=3)) == [1]
    assert _started(jobs, _free(cpu_slots=2), frozenset({1})) == []


def test_job_that_asks_for_more_slots_than_are_left_in_the_settings_still_starts() -> None:
    assert _started([job_with(1, cpus=64)], _free()) == [1]


def test_memory_and_group_limits_hold() -> None:
    jobs = [job_with(n, memory_gb=6.0, group="night") for n in (1, 2, 3)]
    assert _started(jobs, _free()) == [1, 2]
    assert _started(jobs, _free(groups={"night": 1})) == [1]


def test_waiting_gpu_job_does_not_hold_up_others() -> None:
    jobs = [job_with(1, gpus=2.0, cpus=1), job_with(2, gpus=1.0, cpus=1), job_with(3, cpus=1)]
    free = _free(gpus=[gpu_of(0)])
    assert _started(jobs, free) == [2, 3]
    assert _started(jobs, free, frozenset({1})) == [3]


def test_fractions_share_a_gpu_and_whole_ones_do_not() -> None:
    jobs = [job_with(n, gpus=0.5) for n in (1, 2, 3)]
    assert _started(jobs, _free(gpus=[gpu_of(0)])) == [1, 2]
    both = [job_with(1, gpus=0.5), job_with(2, gpus=1.0)]
    decisions = place(both, _free(gpus=[gpu_of(0), gpu_of(1)]))
    assert [d.gpu_ids for d in decisions if isinstance(d, Placement)] == [("GPU-0",), ("GPU-1",)]
