"""One door to the queue for command line and interface: what they leave open, [compute] says."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from emcfsys_engine.errors import QueueError, SlurmError
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.launch.torchrun import processes_of
from emcfsys_engine.project import Project
from emcfsys_engine.run.folder import Run, TrainRequest
from emcfsys_engine.run.groups import new_trainings


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


_OPEN = Options()


def submit_training(
    queue: Queue, project: Project, options: Options = _OPEN
) -> tuple[list[int], list[Run]]:
    """Make and queue a project's training, or one for each fold; return the jobs and their runs.

    Raises: QueueError, SlurmError, RunFolderError; nothing is left of what was refused.
    """
    if options.gpus is not None:  # what it gets is what it computes on
        gpus = int(max(1, options.gpus)) if options.gpus else 0
        compute = msgspec.structs.replace(project.compute, gpus=gpus)
        project = msgspec.structs.replace(project, compute=compute)
    runs = new_trainings(project, resume="auto")
    numbers: list[int] = []
    for run in runs:
        group = options.group or run.record().group or None
        own = msgspec.structs.replace(options, group=group)
        try:
            numbers.append(submit_run(queue, run, project.name, project, own))
        except (QueueError, SlurmError):
            for other in runs[len(numbers) + 1 :]:
                other.discard()
            raise
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
        if options.cpus is None and compute.threads is not None:
            trains = isinstance(run.record().request, TrainRequest)
            words["cpus"] = compute.threads * (processes_of(project) if trains else 1)
        words["resume"] = options.resume or "auto"
    try:
        return queue.add(Path(run.folder), project_name=name, **words)
    except (QueueError, SlurmError):
        run.discard()
        raise
