"""One job: its states, the moves between them that are legal, and its row as a frozen value."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import msgspec

from emcfsys_engine.run.folder import Run, same_run
from emcfsys_engine.settings import SlurmSettings

JobState = Literal[
    "queued",
    "running",
    "paused",
    "stopping",
    "done",
    "failed",
    "cancelled",
    "interrupted",
    "lost",
]
Ask = Literal["", "cancel", "stop", "pause", "end"]  # end: save and leave, as at a shutdown
Kind = Literal["train", "predict", "watch", "evaluate", "measure", "convert"]
WITHOUT_GPU: tuple[Kind, ...] = ("measure", "convert")

STATES: tuple[JobState, ...] = get_args(JobState)
OPEN: tuple[JobState, ...] = ("queued", "running", "paused", "stopping")
ACTIVE: tuple[JobState, ...] = ("running", "stopping")
_ENDS: tuple[JobState, ...] = ("done", "failed", "cancelled", "interrupted", "lost")
_ENDED_BADLY: tuple[JobState, ...] = ("failed", "cancelled", "interrupted", "lost")

# From each state, the states it may move to; `Queue` refuses every other move. A queued job is
# only "stopping" while Slurm has it: it may be about to start there.
MOVES: dict[JobState, tuple[JobState, ...]] = {
    "queued": ("running", "stopping", "paused", "cancelled", "failed"),
    "running": ("stopping", "queued", "paused", *_ENDS),
    "stopping": ("stopping", "queued", "paused", *_ENDS),
    "paused": ("queued", "cancelled"),
    "done": (),
    **dict.fromkeys(_ENDED_BADLY, ("queued",)),
}


def sources(to: JobState) -> tuple[JobState, ...]:
    """Return the states from which a job may move to this one."""
    return tuple(state for state in STATES if to in MOVES[state])


def in_order(jobs: Iterable["Job"]) -> list["Job"]:
    """Return the jobs that run, then those that wait in the order of their turns."""
    known = list(jobs)
    waiting = [job for job in known if job.state in ("queued", "paused")]
    waiting.sort(key=lambda job: (-job.priority, job.position, job.id))
    return [*(job for job in known if job.state in ACTIVE), *waiting]


def what_they_wait_for(jobs: Iterable["Job"]) -> dict[int, str]:
    """Return for each queued job behind which one it is, and why it waits."""
    words: dict[int, str] = {}
    before: Job | None = None
    for job in in_order(jobs):
        if job.state == "queued":
            is_here = before is not None and job.executor == before.executor == "local"
            place = f"behind job {before.id}" if before is not None and is_here else ""
            if job.after:
                place = f"after job {', '.join(str(other) for other in job.after)}"
            is_turn = not job.reason or job.reason.startswith("waits for")
            parts = [place if is_turn else "", job.reason]
            if told := ": ".join(part for part in parts if part):
                words[job.id] = told
        if job.state != "paused":
            before = job
    return words


TASKS = "-tasks"


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Which Slurm: where its commands are, and $SLURM_CONF at submission; empty: the usual one."""

    bin: str
    conf: str = ""


class SlurmOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of Slurm at submission, defaults filled in: what runs is what stands here."""

    cluster: Cluster
    settings: SlurmSettings = SlurmSettings()
    prolog: tuple[str, ...] = ()
    nodes: int = 1
    requeues: int = 3


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job as the queue holds it.

    Units: times are seconds since 1970, for people; nothing waits by them.
    """

    id: int
    state: JobState
    run: str  # absolute folder
    project: str
    kind: Kind
    group: str = ""
    priority: int = 0  # higher starts earlier
    position: int = 0  # order among equal priorities
    after: tuple[int, ...] = ()  # jobs that must be done first
    gpus: float = 0.0  # whole ones, or a fraction of one
    cpus: int = 0
    memory_gb: float = 0.0
    resume: Literal["auto", "never"] = "never"
    retries: int = 0  # restarts after a crash; -1: always
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    reason: str = ""  # why it ended, or what it waits for
    ask: Ask = ""
    starts: int = 0
    failures: int = 0  # crashes in a row
    wait_s: float = 0.0  # back-off before the next start, counted by the daemon that sees it
    token: str = ""  # names the newest start
    events_offset: int = 0  # bytes of events.jsonl before that start
    gpu_ids: tuple[str, ...] = ()  # leased, by UUID
    umask: int = -1  # the submitter's; -1 in jobs of version 1: the daemon's
    evidence: tuple[str, ...] = ()  # last lines of the log of a worker that crashed
    executor: Literal["local", "slurm"] = "local"
    slurm_id: str = ""  # Slurm's number of the newest submission; "?": it was never confirmed
    slurm: SlurmOrder | None = None
    expected: float | None = None  # when Slurm thinks that it will start
    run_created: float = 0.0  # as its run.json says: it names the run; 0 in jobs of version 3

    @property
    def is_open(self) -> bool:
        """Tell whether the job is still to end."""
        return self.state in OPEN

    @property
    def is_handed_over(self) -> bool:
        """Tell whether Slurm has the job, or may have it."""
        return self.is_open and self.state != "paused" and self.slurm_id != ""

    @property
    def slurm_name(self) -> str:
        """The newest submission's name in Slurm: numbers are given again, this one never."""
        return f"emcfsys-{self.id}-{self.token}"

    @property
    def tasks_name(self) -> str:
        """The name in Slurm of the array that does most of a run in shards."""
        return f"{self.slurm_name}{TASKS}"

    def its_run(self) -> Run:
        """Return the run of its folder, if that still is the one that was submitted.

        Raises: RunFolderError.
        """
        return same_run(Path(self.run), self.run_created)
