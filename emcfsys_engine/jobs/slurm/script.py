"""The batch script of one submission, and the words for sbatch: absolute paths, no inheritance."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from emcfsys_engine.errors import QueueError, SlurmError, printable
from emcfsys_engine.jobs.job import WITHOUT_GPU, Cluster, Job, SlurmOrder
from emcfsys_engine.jobs.machine import Request, WantedCompute
from emcfsys_engine.jobs.slurm import client
from emcfsys_engine.launch import processes, start
from emcfsys_engine.project import Compute
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import RunRecord, TrainRequest, WatchRequest
from emcfsys_engine.run.shards import FOLDER as SHARDS_FOLDER
from emcfsys_engine.settings import Config, merged

_MOST_CPUS = 8  # asked for when nobody says: loading and augmenting gain little from more


def settle_order(
    wanted: WantedCompute,
    compute: Compute,
    config: Config,
    environment: Mapping[str, str] = os.environ,
) -> tuple[Request, SlurmOrder]:
    """Fill in what is left open: from the user's defaults, then from what the nodes have.

    It asks nothing of this machine: a login node has no GPU, no CUDA and few processors. While
    the controller is away one GPU is assumed; sbatch's own word comes later then.
    Raises: QueueError if there is no Slurm here, or the request makes no sense.
    """
    cluster = client.find_cluster(environment)
    if cluster is None:
        remedy = 'Submit on a login node of the cluster, or set compute.executor = "local"'
        raise QueueError("Slurm", "there is no sbatch here", remedy)
    settings = merged(compute.slurm, config.slurm)
    node_cpus, node_gpus = _smallest_node(cluster, settings.partition)
    usual = 0 if wanted.kind in WITHOUT_GPU else min(1, node_gpus)
    gpus = wanted.gpus if wanted.gpus is not None else float(usual)
    if gpus != int(gpus) or not 0 <= gpus <= 64:
        what = f"{gpus:g} is no number of GPUs of a node"
        raise QueueError("--gpus", what, "Ask Slurm for whole ones")
    share = max(1, node_cpus * max(1, int(gpus)) // max(1, node_gpus))
    cpus = wanted.cpus or settings.cpus or min(_MOST_CPUS * max(1, int(gpus)), share)
    memory_gb = wanted.memory_gb or 0.0
    if memory_gb < 0:
        raise QueueError("--memory-gb", f"{memory_gb:g} is no amount", "Ask for more than 0")
    order = SlurmOrder(
        cluster=cluster,
        settings=settings,
        prolog=config.slurm.prolog,
        nodes=compute.nodes if wanted.kind == "train" else 1,  # nobody else shares work so
        requeues=config.slurm.requeues,
    )
    return Request(gpus=gpus, cpus=cpus, memory_gb=memory_gb), order


def _smallest_node(cluster: Cluster, partition: str | None) -> tuple[int, int]:
    """Return processors and GPUs of the smallest node that a job may come to."""
    try:
        found = client.partitions(cluster)
    except SlurmError:
        return 1, 1
    named = (partition or "").split(",")
    kinds = [one for one in found if one.name in named or (not partition and one.is_default)]
    with_gpus = [kind for kind in kinds if kind.gpus] or kinds
    if not with_gpus:
        return 1, 1  # sbatch will say that there is no such partition
    return min(kind.cpus for kind in with_gpus), min(kind.gpus for kind in with_gpus)


_WARN_S = 120
_LATE_S = 90  # a job that starts anew elsewhere may find its last worker still saving
# Of the submitter's machine, and wrong on another.
_LEFT_BEHIND = re.compile(
    r"CUDA_VISIBLE_DEVICES|NVIDIA_VISIBLE_DEVICES|TMPDIR|XDG_(RUNTIME_DIR|SESSION_\w+)|EMCFSYS_HOME"
)
_SCRIPT = """\
#!/bin/bash
# EMCFsys job {job}: {run}
# Written for one submission; the copy in the run's folder is for people to read.
{prolog}
# The warning before a time limit or a preemption is for the worker: this shell lives on to see
# how it left. It has {warn_s} seconds to save (warn_s); cancel, pause and stop of EMCFsys wait as
# long as it gets on. Slurm's own scancel kills after the cluster's KillWait, mostly 30 seconds.
trap : TERM USR2
{meeting}srun {srun} \\
  {task}
code=$?
{after}
exit $code
"""
_MEETING = """\
# Where the nodes' processes meet: on the first node, which is this one.
port=$({python} -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export EMCFSYS_RENDEZVOUS=$(hostname):$port
export EMCFSYS_RENDEZVOUS_ID=$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}
"""
_AFTER = """\
# On the mark that a worker leaves when it was told to make room: to the end of the queue again.
{python} -m emcfsys_engine.jobs.slurm.requeue {run} {bin} {requeues}"""


_TASK = "emcfsys_engine.shards.task"
_TASK_SCRIPT = """\
#!/bin/bash
# EMCFsys job {job}: one of the tasks of {run}
{prolog}
trap : TERM USR2
srun {srun} \\
  {task} "$SLURM_ARRAY_TASK_ID"
code=$?
# Its time is up (USR2): it goes on later. What a task leaves undone, the job that comes last does.
if [ $code = 140 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then
  {scontrol} requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit $code
"""


def environment_of(job: Job, record: RunRecord) -> dict[str, str]:
    """Return the submitter's allow-listed environment without what means another machine."""
    kept = {
        name: text for name, text in record.environment.items() if not _LEFT_BEHIND.fullmatch(name)
    }
    defaults = start.default_environment(start.worker_command(record, Path(job.run)))
    # The job stands in the submitter's folder: its json.py is not ours.
    path = start.path_of_package(kept) if record.python == sys.executable else {}
    default = {"PATH": "/usr/local/bin:/usr/bin:/bin", **defaults}
    return {**default, **kept, **start.SAFE_PATH, **path}


def options_of(job: Job, order: SlurmOrder, needs: Sequence[str], tasks: str = "") -> list[str]:
    """Return sbatch's options for a job. `needs`: Slurm's numbers of jobs that must end well.

    `tasks`: the number of its array, which must end, however that is.
    """
    run, record, asked = Run(Path(job.run)), Run(Path(job.run)).record(), order.settings
    log = str(run.log_file).replace("%", "%%")
    options = [
        f"--job-name={job.slurm_name}",
        f"--comment=EMCFsys {job.project}"[:200],
        f"--output={log}",
        "--open-mode=append",
        f"--chdir={record.folder}",
        f"--nodes={order.nodes}",
        f"--ntasks={order.nodes}",
        "--ntasks-per-node=1",
        f"--signal=USR2@{asked.warn_s or _WARN_S}",
        "--requeue" if goes_on(job) else "--no-requeue",
        "--export=ALL",
    ]
    named = {
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "time": asked.time,
        "mem": asked.memory or (f"{round(job.memory_gb * 1024)}M" if job.memory_gb else None),
        "cpus-per-task": str(job.cpus) if job.cpus else None,
        "gres": asked.gres or (f"gpu:{round(job.gpus)}" if job.gpus else None),
    }
    options += [f"--{name}={value}" for name, value in named.items() if value]
    waits_for = [f"afterok:{':'.join(needs)}"] if needs else []
    waits_for += [f"afterany:{tasks}"] if tasks else []
    if waits_for:
        options += [f"--dependency={','.join(waits_for)}", "--kill-on-invalid-dep=yes"]
    return [*options, *asked.extra]


def tasks_of(job: Job, order: SlurmOrder, needs: Sequence[str]) -> tuple[list[str], str] | None:
    """Return sbatch's options and the script of an array of tasks; None without shards.

    Each task has a log of its own, and goes to the end of the queue when its time is up.
    """
    run = Run(Path(job.run))
    record = run.record()
    request = record.request
    if isinstance(request, TrainRequest | WatchRequest) or not request.shards:
        return None
    limit = f"%{request.shards_at_once}" if request.shards_at_once else ""
    log = str(run.folder / SHARDS_FOLDER / "").replace("%", "%%")
    own = {
        "--job-name": job.tasks_name,
        "--output": f"{log}/%a.log",
        "--array": f"0-{request.shards - 1}{limit}",
    }
    kept = [
        option
        for option in options_of(job, order, needs)
        if option.partition("=")[0] not in own and option not in ("--requeue", "--no-requeue")
    ]
    options = [*(f"{name}={value}" for name, value in own.items()), "--requeue", *kept]
    steps = ["--ntasks=1", "--input=none", "--export=ALL"]
    steps += [f"--cpus-per-task={job.cpus}"] if job.cpus else []
    task = [record.python, "-m", _TASK, str(run.folder)]
    script = _TASK_SCRIPT.format(
        job=job.id,
        run=printable(run.id),  # of whoever named the folder: it stays in its comment
        prolog="\n".join(order.prolog),
        srun=shlex.join(steps),
        task=_hidden(job) + shlex.join(task),
        requeues=order.requeues,
        scontrol=shlex.quote(str(Path(order.cluster.bin) / "scontrol")),
    )
    return options, script


def script_of(job: Job, order: SlurmOrder, *, worker: Sequence[str] | None = None) -> str:
    """Return the batch script: prolog, the same keeper and worker as anywhere, the requeue.

    `worker`: the command that gets the run's folder, instead of the real worker: for tests.
    """
    run = Run(Path(job.run))
    record = run.record()
    steps = [f"--ntasks={order.nodes}", "--ntasks-per-node=1", "--input=none"]
    steps.append("--kill-on-bad-exit=0")  # torchrun says 1 while the first process still saves
    # Only the keeper's family carries the token: what has it is ended with the worker.
    steps.append(f"--export=ALL,{processes.COOKIE}={job.token}")
    if job.cpus:  # since 22.05 a step no longer takes it from its job
        steps.append(f"--cpus-per-task={job.cpus}")
    options = ["--with-step", f"--patience={_LATE_S}"]
    keeper = start.keeper_command(run, job.token, options, worker=worker)
    after = _AFTER.format(
        python=shlex.quote(record.python),
        run=shlex.quote(str(run.folder)),
        bin=shlex.quote(order.cluster.bin),
        requeues=order.requeues,
    )
    return _SCRIPT.format(
        job=job.id,
        run=printable(run.id),  # of whoever named the folder: it stays in its comment
        prolog="\n".join(order.prolog),
        warn_s=order.settings.warn_s or _WARN_S,
        meeting=_MEETING.format(python=shlex.quote(record.python)) if order.nodes > 1 else "",
        srun=shlex.join(steps),
        task=_hidden(job) + (_task(keeper) if order.nodes > 1 else shlex.join(keeper)),
        after=after if goes_on(job) else "",
    )


def _hidden(job: Job) -> str:
    """Hide the GPUs from a job that asked for none: not every cluster does; srun unsets this."""
    has_gpu = job.gpus or (job.slurm and job.slurm.settings.gres)
    return "" if has_gpu else "env CUDA_VISIBLE_DEVICES= "


def _task(keeper: Sequence[str]) -> str:
    """Return what srun starts on each node: the keeper on the first, its worker's twin elsewhere.

    The token stays with the keeper's family: two nodes may be one machine.
    """
    worker = keeper[list(keeper).index("--") + 1 :]
    lines = (
        f'if [ "$SLURM_PROCID" = 0 ]; then exec {start.in_shell(keeper)};'
        f" else unset {processes.COOKIE}; exec {start.in_shell(worker)}; fi"
    )
    return shlex.join(["bash", "-c", lines])


def goes_on(job: Job) -> bool:
    """Tell whether a job goes on by itself when Slurm needs its place."""
    return job.resume == "auto" or job.kind == "watch"
