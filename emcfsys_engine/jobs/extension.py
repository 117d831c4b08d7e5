"""A training that ended goes on with a larger budget, when its turn in the queue comes."""

from emcfsys_engine.errors import QueueError, SlurmError
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.launch.torchrun import processes_of
from emcfsys_engine.run.extension import extend
from emcfsys_engine.run.folder import Run


def submit_extension(queue: Queue, run: Run, overrides: tuple[str, ...]) -> int:
    """Give a run another budget and queue it; return the job's number.

    Raises: InputError, ProjectFaults, RunFolderError, QueueError, SlurmError; run.json is then as
    it was.
    """
    waiting = [job.id for job in queue.list() if job.is_open and job.run == str(run.folder)]
    if waiting:
        remedy = "Cancel it first, or wait for its end"
        raise QueueError(run.folder, f"is job {waiting[0]} of the queue", remedy)
    before = extend(run, overrides)
    assert before.project is not None
    compute = before.project.compute
    threads = compute.threads
    try:
        return queue.add(
            run.folder,
            project_name=before.project.name,
            group=before.group or None,
            gpus=None if compute.gpus is None else float(compute.gpus),
            cpus=None if threads is None else threads * processes_of(before.project),
            resume="auto",
        )
    except (QueueError, SlurmError):
        run.write_record(before)
        raise
