"""One door to the queue for command line and interface: what they leave open, [compute] says."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from emcfsys_engine.errors import QueueError, SlurmError
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import Project
from emcfsys_engine.run import Run
from emcfsys_engine.run_groups import new_trainings


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said of a job at submission; None leaves it to the project or the machine."""

    priority: int = 0
    after: tuple[int, ...] = ()
    group: str | None = None
    gpus: float | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    resume: Literal["auto", "never"] | None = None
    retries: int | None = None
    slurm: bool | None = None


def submit_training(queue: Queue, project: Project) -> tuple[list[int], list[Run]]:
    """Make and queue a project's training, or one for each fold; return the jobs and their runs.

    Raises: QueueError, SlurmError, RunFolderError; nothing is left of what was refused.
    """
    runs = new_trainings(project, resume="auto")
    numbers = [
        submit_run(queue, run, project.name, project, Options(group=run.record().group or None))
        for run in runs
    ]
    return numbers, runs


def submit_run(queue: Queue, run: Run, name: str, project: Project | None, options: Options) -> int:
    """Queue a run and return the job's number.

    Raises: QueueError, SlurmError; nothing is left of what was refused.
    """
    words: dict[str, Any] = msgspec.structs.asdict(options)
    if project is not None:
        compute = project.compute
        if options.gpus is None and compute.gpus is not None:
            words["gpus"] = float(compute.gpus)
        if options.cpus is None:
            words["cpus"] = compute.threads
        words["resume"] = options.resume or "auto"
    try:
        return queue.add(Path(run.folder), project_name=name, **words)
    except (QueueError, SlurmError):
        run.discard()
        raise
