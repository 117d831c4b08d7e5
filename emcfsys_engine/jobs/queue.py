"""The queue: the only door to submitting, ordering and ending jobs; needs no daemon."""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

from emcfsys_engine.errors import QueueError, SlurmError
from emcfsys_engine.jobs.job import ACTIVE, OPEN, Ask, Job, JobState, Kind, SlurmOrder
from emcfsys_engine.jobs.machine import Machine, WantedCompute, settle_request
from emcfsys_engine.jobs.slurm.script import settle_order
from emcfsys_engine.jobs.state_folder import prepare, state_folder
from emcfsys_engine.jobs.store import Store, move, note
from emcfsys_engine.launch.start import processes_of
from emcfsys_engine.project import Compute, Project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import extend, give_up_extension, new_trainings
from emcfsys_engine.run.records import RunRecord, TrainRequest


class HistoryLine(msgspec.Struct, frozen=True, kw_only=True):
    """When a job moved, to which state, and why."""

    time: float
    state: JobState
    reason: str


Jobs = list[Job]  # inside Queue, `list` is a method
History = list[HistoryLine]


class Queue:
    """All jobs of one user on one host, in one file."""

    def __init__(self, store: Store, machine: Machine) -> None:
        self.store = store
        self.machine = machine

    @classmethod
    def open(cls, folder: Path | None = None, *, machine: Machine | None = None) -> "Queue":
        """Open the queue of a state folder (default: the user's own), made where there is none.

        `machine`: what there is to share out, instead of what this machine has: for tests.
        Raises: QueueError if it is damaged, of a newer version, another user's, or out of reach.
        """
        store = Store(prepare(folder.absolute() if folder else state_folder()))
        return cls(store, machine or Machine())

    @property
    def folder(self) -> Path:
        """The state folder."""
        return self.store.folder

    def add(
        self,
        run_folder: Path,
        *,
        project_name: str,
        priority: int = 0,
        after: Iterable[int] = (),
        group: str | None = None,
        gpus: float | None = None,
        cpus: int | None = None,
        memory_gb: float | None = None,
        resume: Literal["auto", "never"] | None = None,
        retries: int | None = None,
        slurm: bool | None = None,
    ) -> int:
        """Add a run to the end of the queue and return the job's number.

        `gpus`: whole ones or a fraction of one; None: one if the machine has any.
        `cpus`: slots; None: all of them on a machine without GPU, except for a watch.
        `resume`: None: as run.json says. `retries`: after a crash; None: none, a watch always.
        `slurm`: on the cluster rather than here; None: as the run's project says.
        Raises: QueueError if this machine can never fulfil the request, a job of `after` does not
        exist, or the run has an open job already; RunFolderError if the folder holds no run.
        """
        _refuse_no_text(run_folder)
        run = Run(run_folder)
        record = run.record()
        kind = _kind(record)
        asked = WantedCompute(kind=kind, gpus=gpus, cpus=cpus, memory_gb=memory_gb)
        compute = record.project.compute if record.project else Compute()
        order: SlurmOrder | None = None
        if slurm if slurm is not None else compute.executor == "slurm":
            wanted, order = settle_order(asked, compute, self.machine.config)
        else:
            wanted = settle_request(self.machine, asked)
        if retries is None:
            retries = -1 if kind == "watch" else 0
        elif retries < -1:
            raise QueueError("retries", f"{retries} is no number of retries", "Use 0 or more")
        row = {
            "state": "queued",
            "run": str(run.folder),
            "project": project_name,
            "kind": kind,
            "group": group or "",
            "priority": priority,
            "gpus": wanted.gpus,
            "cpus": wanted.cpus,
            "memory_gb": wanted.memory_gb,
            "resume": resume or record.resume,
            "retries": retries,
            "created": time.time(),
            "run_created": record.created,
            "umask": _umask(),
            "executor": "slurm" if order else "local",
            "slurm": msgspec.json.encode(order).decode() if order else "",
        }
        return self._insert(row, sorted(set(after)))

    def list(self) -> Jobs:
        """Return all jobs, also the ended ones, in the order of their numbers."""
        return sorted(self.store.jobs(), key=lambda job: job.id)

    def get(self, job_id: int) -> Job:
        """Return one job.

        Raises: QueueError if there is none with this number.
        """
        return self.store.job(job_id)

    def history(self, job_id: int) -> History:
        """Return every move of a job, oldest first."""
        query = "SELECT time, state, reason FROM history WHERE job = ? ORDER BY rowid"
        with self.store.reading() as connection:
            rows = connection.execute(query, (job_id,)).fetchall()
        return [HistoryLine(time=at, state=state, reason=why) for at, state, why in rows]

    def cancel(self, job_id: int) -> Job:
        """End a job for good: at once if it waits, else saved, ended, and killed after the grace.

        Raises: QueueError if the job has ended or does not exist.
        """
        with self.store.transaction() as connection:
            if not self._ask(job_id, "cancel"):
                now = time.time()
                columns = {"ended": now, "reason": "", "ask": ""}
                if not move(connection, job_id, "cancelled", columns=columns):
                    raise self._refused(job_id, "cancelled", "It has ended")
        job = self.get(job_id)
        if job.state == "cancelled":
            give_up_extension(Run(Path(job.run)))
        return job

    def stop(self, job_id: int) -> Job:
        """Let a running job finish early: what it reached becomes its result.

        Raises: QueueError if the job does not run.
        """
        with self.store.transaction():
            if not self._ask(job_id, "stop"):
                raise self._refused(
                    job_id, "stopped", "Only a running job can; cancel a queued one"
                )
        return self.get(job_id)

    def pause(self, job_id: int) -> Job:
        """Take a job out of the way: a running one saves and frees its GPU; it keeps its place.

        Raises: QueueError if the job has ended.
        """
        with self.store.transaction() as connection:
            if not self._ask(job_id, "pause") and (
                self.get(job_id).state != "queued"
                or not move(connection, job_id, "paused", columns={"reason": ""})
            ):
                raise self._refused(job_id, "paused", "Only a queued or running job can")
        return self.get(job_id)

    def resume(self, job_id: int) -> Job:
        """Queue a paused or interrupted job again; it goes on from its checkpoint.

        Raises: QueueError if the job is neither.
        """
        return self._queue_again(
            job_id, ("paused", "interrupted"), "resumed", "retry runs it again"
        )

    def retry(self, job_id: int) -> Job:
        """Queue a job that ended badly again, in the same run folder.

        Raises: QueueError if the job is open or done.
        """
        allowed = ("failed", "cancelled", "interrupted", "lost")
        return self._queue_again(job_id, allowed, "retried", "Only a job that ended badly can")

    def move(self, job_id: int, *, before: int | None = None, last: bool = False) -> Job:
        """Give a waiting job another place: first, `before` another one, or `last`.

        Before another job it takes that job's priority; first and last are those of all waiting.
        Raises: QueueError if one of the jobs does not wait.
        """
        with self.store.transaction() as connection:
            if self.get(job_id).state not in ("queued", "paused"):
                raise self._refused(job_id, "moved", "Only a waiting job can")
            if self.get(job_id).is_handed_over:
                remedy = "Slurm orders its own queue; scontrol top may help"
                raise QueueError(f"job {job_id}", "waits in Slurm, so is not moved", remedy)
            line = self.store.jobs("state IN ('queued', 'paused')")
            others = [job for job in line if job.id != job_id]
            named = [job for job in others if job.id == before]
            if before is not None and not named:
                raise self._refused(before, "a place to move to", "Name another waiting job")
            if others:
                neighbour = named[0] if named else others[-1 if last else 0]
                _put_beside(connection, job_id, neighbour, behind=last)
        return self.get(job_id)

    def close(self) -> None:
        """Close the queue's file."""
        self.store.close()

    def __enter__(self) -> "Queue":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _insert(self, row: dict[str, Any], after: Sequence[int]) -> int:
        names = ", ".join(f'"{name}"' for name in row)
        marks = ", ".join("?" * len(row))
        place = "(SELECT coalesce(max(position), 0) + 1 FROM jobs)"
        query = f"INSERT INTO jobs ({names}, position) VALUES ({marks}, {place})"
        with self.store.transaction() as connection:
            open_one = connection.execute(
                "SELECT id FROM jobs WHERE run = ? AND state IN (?, ?, ?, ?)", (row["run"], *OPEN)
            ).fetchone()
            if open_one:
                what = f"is job {open_one[0]} already"
                raise QueueError(row["run"], what, "Wait for it or cancel it")
            job_id = connection.execute(query, tuple(row.values())).lastrowid
            assert job_id is not None
            for needed in after:
                self.get(needed)  # refuses a job that does not exist
                connection.execute("INSERT INTO needs VALUES (?, ?)", (job_id, needed))
            note(connection, job_id, "queued", "submitted")
        return job_id

    def _ask(self, job_id: int, ask: Ask) -> bool:
        """Ask something of a running job; False if it does not run, or shall end for good.

        One that waits in Slurm may start there at any moment: it is asked to go like a running one.
        """
        job = self.get(job_id)
        waits_there = job.is_handed_over and ask != "stop"
        if not (job.state in ACTIVE or waits_there) or (job.ask == "cancel" and ask != "cancel"):
            return False
        with self.store.transaction() as connection:
            return move(connection, job_id, "stopping", columns={"ask": ask})

    def _queue_again(
        self, job_id: int, allowed: tuple[JobState, ...], word: str, remedy: str
    ) -> Job:
        job = self.get(job_id)
        with self.store.transaction() as connection:
            if job.state not in allowed:
                raise self._refused(job_id, word, remedy)
            taken = self.store.jobs(
                "run = ? AND id != ? AND state IN (?, ?, ?, ?)", job.run, job_id, *OPEN
            )
            if taken:
                raise self._refused(job_id, word, f"Its run is job {taken[0].id} now")
            columns = {
                "ended": None,
                "reason": "",
                "ask": "",
                "failures": 0,
                "wait_s": 0.0,
                "slurm_id": "",
            }
            if not move(connection, job_id, "queued", columns=columns):
                raise self._refused(job_id, word, remedy)
        return self.get(job_id)

    def _refused(self, job_id: int, word: str, remedy: str) -> QueueError:
        return QueueError(f"job {job_id}", f"is {self.get(job_id).state}, so not {word}", remedy)


def _umask() -> int:
    """Return our umask without changing it, which other threads would notice."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return -1


def _kind(record: RunRecord) -> Kind:
    return record.request.__struct_config__.tag  # type: ignore[return-value]


def _put_beside(
    connection: sqlite3.Connection, job_id: int, neighbour: Job, *, behind: bool
) -> None:
    place = neighbour.position + behind
    connection.execute(
        "UPDATE jobs SET position = position + 1 WHERE priority = ? AND position >= ?",
        (neighbour.priority, place),
    )
    connection.execute(
        "UPDATE jobs SET priority = ?, position = ? WHERE id = ?",
        (neighbour.priority, place, job_id),
    )


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
    _refuse_queued(queue, run)
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


def _refuse_no_text(folder: Path) -> None:
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        what = "has a name that is no UTF-8, which the queue cannot keep"
        remedy = "Rename its folder, or do without the queue, as with: emcfsys-engine train"
        raise QueueError(str(folder), what, remedy) from None


def _refuse_queued(queue: Queue, run: Run) -> None:
    waiting = [job.id for job in queue.list() if job.is_open and job.run == str(run.folder)]
    if waiting:
        remedy = "Cancel it first, or wait for its end"
        raise QueueError(run.folder, f"is job {waiting[0]} of the queue", remedy)


def submit_extension(queue: Queue, run: Run, overrides: tuple[str, ...]) -> int:
    """Give a run another budget and queue it; return the job's number.

    Raises: InputError, ProjectFaults, RunFolderError, QueueError, SlurmError; run.json is then as
    it was.
    """
    _refuse_queued(queue, run)
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
