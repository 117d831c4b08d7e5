"""How one start of a job ended, what becomes of the job then, and the daemon's moves that say so.

Each move is only for a job's newest start."""

import time
from dataclasses import dataclass
from pathlib import Path

from emcfsys_engine.jobs.job import Job, JobState
from emcfsys_engine.jobs.store import Store, move
from emcfsys_engine.run.folder import ExitRecord, Run
from emcfsys_engine.run.groups import forget_extension
from emcfsys_engine.run.lines import log_tail
from emcfsys_engine.run.outcome import (
    WITHOUT_A_WORD,
    RunOutcome,
    asked_to_end,
    told_by_process,
    told_by_worker,
)
from emcfsys_engine.settings import JobSettings

_LONG_RUN_S = 600.0  # a start that lived that long is no crash loop


@dataclass(frozen=True, kw_only=True)
class StartOutcome:
    """How one start ended, for its job."""

    state: JobState
    reason: str = ""
    evidence: tuple[str, ...] = ()  # the log's last lines, when it ended badly
    may_retry: bool = False  # a crash, not the user's input
    was_restart: bool = False  # the machine went down under it


@dataclass(frozen=True, kw_only=True)
class JobChange:
    """What the job's row becomes."""

    state: JobState
    reason: str
    wait_s: float = 0.0
    failures: int = 0


def outcome_of(run: Run, job: Job, *, was_killed: bool = False) -> StartOutcome:
    """Tell how the job's newest start ended; its processes are gone.

    `was_killed`: by us, after the grace that a request to end gives.
    """
    if not run.folder.is_dir():
        if job.ask == "cancel":
            return StartOutcome(state="cancelled", reason=f"its run folder is gone: {run.folder}")
        return StartOutcome(state="failed", reason=f"its run folder is gone: {run.folder}")
    ended = run.ended(since=job.events_offset, asked=job.ask, was_killed=was_killed)
    return _of_job(run, job, ended)


def told_outcome(run: Run, job: Job) -> StartOutcome | None:
    """Tell how the job's newest start ended in its worker's own words; None if it left none."""
    ending = run.ending(job.events_offset)
    return _of_job(run, job, told_by_worker(ending, job.ask)) if ending is not None else None


def judge(job: Job, outcome: StartOutcome, settings: JobSettings, *, ran_s: float) -> JobChange:
    """Decide what becomes of a job whose start ended so: its end, or another start after a while.

    Units: `ran_s` is how long we saw that start live.
    """
    failures = 0 if ran_s > _LONG_RUN_S else job.failures
    wait_s = min(settings.retry_wait_s * 2 ** min(failures, 30), settings.retry_longest_s)
    if outcome.may_retry and not job.ask and (job.retries == -1 or failures < job.retries):
        reason = f"{outcome.reason}; starts again in {wait_s:g} s"
        return JobChange(state="queued", reason=reason, wait_s=wait_s, failures=failures + 1)
    goes_on = job.resume == "auto" or job.kind == "watch"
    if outcome.state == "interrupted" and goes_on and job.ask in ("", "end"):
        at_once = outcome.was_restart or job.ask == "end"
        reason = f"{outcome.reason}; goes on"
        return JobChange(state="queued", reason=reason, wait_s=0.0 if at_once else wait_s)
    failures = 0 if outcome.state == "done" else failures
    return JobChange(state=outcome.state, reason=outcome.reason, failures=failures)


def asked_outcome(run: Run, job: Job, *, was_killed: bool) -> StartOutcome:
    """Tell how a start ended that was asked to, and left no word."""
    return _of_job(run, job, asked_to_end(job.ask, was_killed=was_killed))


def process_outcome(run: Run, job: Job, record: ExitRecord) -> StartOutcome:
    """Tell how a start ended from its process alone."""
    return _of_job(run, job, told_by_process(record))


def _of_job(run: Run, job: Job, ended: RunOutcome) -> StartOutcome:
    """Return a run's end as its job's: one that was paused keeps its place."""
    if ended.state == "new" or ended.state == "running":  # it was started, and nothing came of it
        ended = RunOutcome(state="lost", reason=WITHOUT_A_WORD, may_retry=True)
        return _of_job(run, job, ended)
    was_paused = ended.state == "interrupted" and job.ask == "pause"
    return StartOutcome(
        state="paused" if was_paused else ended.state,
        reason=ended.reason,
        evidence=log_tail(run) if ended.state in ("failed", "lost") else (),
        may_retry=ended.may_retry,
        was_restart=ended.was_restart,
    )


HORIZON = 100  # waiting jobs of each class looked at in one go

# Jobs that need unlike things do not hide each other behind that horizon.
_CLASSES = ("gpus > 0", "gpus = 0 AND cpus > 0", "gpus = 0 AND cpus = 0")


def claim(
    store: Store, job: Job, *, token: str, gpu_ids: tuple[str, ...], events_offset: int
) -> bool:
    """Take a waiting job to start it; False if it no longer waits."""
    columns = {
        "token": token,
        "starts": job.starts + 1,
        "started": time.time(),
        "ended": None,
        "reason": "",
        "evidence": (),
        "ask": "",
        "gpu_ids": gpu_ids,
        "events_offset": events_offset,
    }
    with store.transaction() as connection:
        return move(connection, job.id, "running", token=job.token, columns=columns)


def put_back(store: Store, job: Job, *, reason: str, wait_s: float) -> bool:
    """Let a claimed job wait again whose start never began."""
    columns = {"reason": reason, "wait_s": wait_s, "gpu_ids": (), "ask": "", "started": None}
    with store.transaction() as connection:
        return move(connection, job.id, "queued", token=job.token, columns=columns)


def settle(store: Store, job: Job, outcome: StartOutcome, verdict: JobChange) -> bool:
    """Write how a job's newest start ended; False if somebody else did."""
    is_over = verdict.state not in ("queued", "paused")
    columns = {
        "reason": verdict.reason,
        "evidence": outcome.evidence,
        "ended": time.time() if is_over else None,
        "wait_s": verdict.wait_s,
        "failures": verdict.failures,
        "gpu_ids": (),
        "ask": "",
    }
    with store.transaction() as connection:
        is_settled = move(connection, job.id, verdict.state, token=job.token, columns=columns)
    if is_settled and is_over:
        forget_extension(Path(job.run))
    return is_settled


def follow(store: Store, job: Job, token: str, events_offset: int | None) -> None:
    """Make another start of the same run, which somebody else began, the job's own.

    Units: `events_offset` is where its events begin, in bytes; None, or nonsense out of a damaged
    file: that is not known.
    """
    is_known = events_offset is not None and 0 <= events_offset < 1 << 63
    offset = events_offset if is_known else job.events_offset
    with store.transaction() as connection:
        query = "UPDATE jobs SET token = ?, events_offset = ? WHERE id = ?"
        connection.execute(query, (token, offset, job.id))


def explain(store: Store, job: Job, reason: str) -> None:
    """Say what a waiting job waits for."""
    if job.reason != reason:
        with store.transaction() as connection:
            query = "UPDATE jobs SET reason = ? WHERE id = ? AND state = 'queued'"
            connection.execute(query, (reason, job.id))


def explain_start(store: Store, job_id: int, token: str, reason: str) -> None:
    """Say what keeps the end of a job's newest start from being known; empty when nothing does."""
    with store.transaction() as connection:
        query = (
            "UPDATE jobs SET reason = ?"
            " WHERE id = ? AND token = ? AND state IN ('running', 'stopping')"
        )
        connection.execute(query, (reason, job_id, token))


def waiting(store: Store, *, full_groups: list[str], backing_off: list[int]) -> list[Job]:
    """Return the first jobs that may start as far as order goes: not how much is free."""
    groups = ", ".join("?" * len(full_groups))
    numbers = ", ".join("?" * len(backing_off))
    condition = (
        "state = 'queued' AND executor = 'local'"
        " AND NOT EXISTS (SELECT 1 FROM needs JOIN jobs AS other"
        " ON other.id = needs.needs WHERE needs.job = jobs.id AND other.state != 'done')"
        f' AND "group" NOT IN ({groups}) AND id NOT IN ({numbers})'
    )
    found = [
        job
        for kind in _CLASSES
        for job in store.jobs(f"{condition} AND {kind}", *full_groups, *backing_off, limit=HORIZON)
    ]
    return sorted(found, key=lambda job: (-job.priority, job.position, job.id))


def cancel_orphans(store: Store) -> None:
    """Cancel the waiting jobs whose needed jobs ended badly: they could never start."""
    query = (
        "SELECT jobs.id, other.id, other.state FROM needs"
        " JOIN jobs AS other ON other.id = needs.needs JOIN jobs ON jobs.id = needs.job"
        " WHERE jobs.state = 'queued' AND jobs.slurm_id = ''"
        " AND other.state IN ('failed', 'cancelled', 'lost')"
    )
    while True:  # each round may leave others without what they need
        with store.reading() as connection:
            found = connection.execute(query).fetchall()
        if not found:
            return
        with store.transaction() as connection:
            for job_id, needed, state in connection.execute(query).fetchall():
                reason = f"job {needed}, which it needs, is {state}"
                columns = {"reason": reason, "ended": time.time()}
                move(connection, job_id, "cancelled", columns=columns)


def fail(store: Store, job: Job, reason: str) -> bool:
    """End a claimed job that cannot be started."""
    columns = {"reason": reason, "ended": time.time(), "gpu_ids": (), "ask": ""}
    with store.transaction() as connection:
        is_over = move(connection, job.id, "failed", token=job.token, columns=columns)
    if is_over:
        forget_extension(Path(job.run))
    return is_over


def count_wait(store: Store, job: Job) -> None:
    """Note that a daemon counts a job's back-off now: another one need not."""
    with store.transaction() as connection:
        connection.execute("UPDATE jobs SET wait_s = 0 WHERE id = ?", (job.id,))
