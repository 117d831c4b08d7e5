"""The daemon's moves: claim a job, put it back, write its end; each only for its newest start."""

import time
from pathlib import Path

from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.outcome import Outcome, Verdict
from emcfsys_engine.jobs.store import Store, move
from emcfsys_engine.run.groups import forget_extension

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


def settle(store: Store, job: Job, outcome: Outcome, verdict: Verdict) -> bool:
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


def follow(store: Store, job: Job, token: str) -> None:
    """Make another start of the same run, which somebody else began, the job's own."""
    with store.transaction() as connection:
        connection.execute("UPDATE jobs SET token = ? WHERE id = ?", (token, job.id))


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
