"""The command that trains with several processes: torchrun, on one machine or under a job script.

Torch-free: it only writes down words.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emcfsys_engine.project import Project
from emcfsys_engine.run.folder import RunRecord, TrainRequest

LAUNCHER = "torch.distributed.run"
WORKER = "emcfsys_engine.learn.worker"
RENDEZVOUS = "$EMCFSYS_RENDEZVOUS"  # host:port of the first node, set by the job script
RENDEZVOUS_ID = "$EMCFSYS_RENDEZVOUS_ID"  # one word for this start, the same on every node
GRACE_S = 60  # for the processes to save and end, before they are killed
_EXPANDED = (RENDEZVOUS, RENDEZVOUS_ID)


@dataclass(frozen=True)
class Place:
    """Which process of a training this is; `local`: among those of its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def place_here(environment: Mapping[str, str] = os.environ) -> Place:
    """Return which process this is, as torchrun says; alone without it."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(environment[name]) for name in names))


def processes_of(project: Project) -> int:
    """Return how many processes a training has on each machine: one a GPU, or as many as asked."""
    gpus = project.compute.gpus
    return gpus or project.compute.processes


def worker_command(record: RunRecord, run_folder: Path) -> list[str]:
    """Return the words that execute a run here: the plain worker, or several under torchrun."""
    processes, nodes = 1, 1
    if isinstance(record.request, TrainRequest) and record.project is not None:
        processes, nodes = processes_of(record.project), record.project.compute.nodes
    if processes * nodes == 1:
        return [record.python, "-m", WORKER, str(run_folder)]
    return torchrun_command(run_folder, record.python, processes=processes, nodes=nodes)


def default_environment(command: Sequence[str]) -> dict[str, str]:
    """Return what a command needs where the submitter's environment says nothing.

    torchrun would set the same, with a warning; every process sets its own threads later.
    """
    return {"OMP_NUM_THREADS": "1"} if LAUNCHER in command else {}


def torchrun_command(run_folder: Path, python: str, *, processes: int, nodes: int = 1) -> list[str]:
    """Return the words that start a run's processes on one machine.

    With several nodes each of them runs these words in a shell that knows EMCFSYS_RENDEZVOUS and
    EMCFSYS_RENDEZVOUS_ID (see `in_shell`); alone, the machine finds a free port by itself.
    torchrun exits with 1 whatever the processes end with: the true exit code is in the run's
    ranks.json, where the keeper reads it.
    """
    if nodes == 1:
        meeting = ["--standalone"]
    else:
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", RENDEZVOUS]
        meeting += ["--rdzv-id", RENDEZVOUS_ID]
    return [
        *(python, "-m", LAUNCHER, *meeting),
        *("--nnodes", str(nodes), "--nproc-per-node", str(processes), "--max-restarts", "0"),
        *("--signals-to-handle", "SIGTERM,SIGINT,SIGUSR2", "--shutdown-timeout", str(GRACE_S)),
        *("-m", WORKER, str(run_folder)),
    ]


def in_shell(words: Sequence[str]) -> str:
    """Return words as one line for a POSIX shell; only the rendezvous is expanded there."""
    return " ".join(f'"{word}"' if word in _EXPANDED else shlex.quote(word) for word in words)
