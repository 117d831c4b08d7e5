"""Jobs and GPUs for the tests of the scheduler."""

from typing import Any

from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.machine import Gpu


def gpu_of(number: int, **values: Any) -> Gpu:
    defaults: dict[str, Any] = {"uuid": f"GPU-{number}", "total_gb": 80.0, "free_gb": 80.0}
    return Gpu(**{**defaults, **values})


def job_with(number: int, **values: Any) -> Job:
    defaults: dict[str, Any] = {"state": "queued", "run": "/r", "project": "p", "kind": "train"}
    return Job(id=number, **{**defaults, **values})
