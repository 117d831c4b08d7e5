"""How a job of Slurm ended (its run's folder first, then Slurm's word), and the moves that say so.

Each move is only for a job's newest submission."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from emcfsys_engine import any_names
from emcfsys_engine.jobs.job import Job, JobState
from emcfsys_engine.jobs.slurm.client import SlurmJob
from emcfsys_engine.jobs.slurm.requeue import may_start_again
from emcfsys_engine.jobs.slurm.script import goes_on
from emcfsys_engine.jobs.store import Store, move, note
from emcfsys_engine.jobs.transitions import (
    JobChange,
    StartOutcome,
    asked_outcome,
    judge,
    process_outcome,
    told_outcome,
)
from emcfsys_engine.launch.start import Holder
from emcfsys_engine.run.folder import ExitRecord, Run
from emcfsys_engine.run.groups import forget_extension
from emcfsys_engine.run.lines import log_tail
from emcfsys_engine.settings import JobSettings

# What Slurm did to the job, and whether its run goes on from its checkpoint then.
_INTERRUPTED = {
    "TIMEOUT": "reached its time limit in Slurm",
    "PREEMPTED": "preempted in Slurm",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not boot",
    "LAUNCH_FAILED": "its node could not start it",
    "RECONFIG_FAIL": "its node could not be set up",
    "REVOKED": "another cluster took it",
    "CANCELLED": "cancelled in Slurm by somebody",
    "DEADLINE": "its deadline in Slurm passed",
}
_FOR_GOOD = ("CANCELLED", "DEADLINE", "REVOKED")  # somebody's will: it does not come back by itself


def has_word(run: Run, job: Job) -> bool:
    """Tell whether the run's folder says how the newest start ended."""
    return told_outcome(run, job) is not None or _exit_of(run, job) is not None


def has_begun(run: Run, job: Job) -> bool:
    """Tell whether a keeper of the newest submission ever had the run. Raises: OSError."""
    held_by: Holder | None = any_names.read(run.lock_file, Holder)
    return held_by is not None and held_by.token == job.token


def slurm_outcome(job: Job, seen: SlurmJob | None, *, was_killed: bool) -> StartOutcome:
    """Tell how a submission ended that Slurm no longer has; None: not even Slurm knows.

    `was_killed`: by us, after the grace that a request to end gives.
    """
    run = Run(Path(job.run))
    state = seen.state if seen else ""
    told = told_outcome(run, job)
    cut_short = told is not None and told.state == "interrupted" and state in _INTERRUPTED
    if told is not None and (job.ask or not cut_short):
        return told
    if state in _INTERRUPTED and not job.ask:
        saved = "" if told else " before it could save"
        return StartOutcome(state="interrupted", reason=f"{_INTERRUPTED[state]}{saved}")
    if job.ask:
        return _asked(run, job, was_killed=was_killed)
    if state == "OUT_OF_MEMORY":
        reason = "out of memory in Slurm: ask for more with compute.slurm.memory"
        return StartOutcome(state="failed", reason=reason, evidence=log_tail(run))
    exit_record = _exit_of(run, job)
    if exit_record is not None:
        return process_outcome(run, job, exit_record)
    return _without_word(run, job, seen)


def slurm_verdict(
    job: Job, outcome: StartOutcome, seen: SlurmJob | None, settings: JobSettings
) -> JobChange:
    """Decide what becomes of the job: its end, or another submission.

    Raises: OSError if the run's folder cannot be written.
    """
    verdict = judge(job, outcome, settings, ran_s=0.0)
    if outcome.state != "interrupted" or verdict.state != "queued":
        return verdict
    if seen is not None and seen.state in _FOR_GOOD:
        return JobChange(state="interrupted", reason=outcome.reason)
    most = job.slurm.requeues if job.slurm else 0
    if may_start_again(Run(Path(job.run)), most):
        return replace(verdict, wait_s=0.0)
    reason = f"{outcome.reason}; {most + 1} starts in a row brought it no further"
    return JobChange(state="interrupted", reason=reason)


def _asked(run: Run, job: Job, *, was_killed: bool) -> StartOutcome:
    if has_begun(run, job):
        return asked_outcome(run, job, was_killed=was_killed)
    return StartOutcome(state="paused" if job.ask == "pause" else "cancelled")


def _without_word(run: Run, job: Job, seen: SlurmJob | None) -> StartOutcome:
    if not run.folder.is_dir():
        return StartOutcome(state="failed", reason=f"its run folder is gone: {run.folder}")
    if seen is None:
        reason = "Slurm has forgotten it, and its run's folder does not say how it ended"
        state = "interrupted" if goes_on(job) else "lost"
        return StartOutcome(state=state, reason=reason, evidence=log_tail(run))
    code = f" ({seen.exit_code})" if seen.exit_code not in ("", "0:0") else ""
    reason = f"Slurm says {seen.state}{code}, its worker said nothing; is its disk shared?"
    return StartOutcome(state="failed", reason=reason, evidence=log_tail(run), may_retry=True)


def _exit_of(run: Run, job: Job) -> ExitRecord | None:
    return run.exit_record() if has_begun(run, job) else None


UNCONFIRMED = "?"


def waiting_jobs(store: Store) -> list[Job]:
    """Return the jobs that are still to be handed to Slurm, in their order."""
    return store.jobs("executor = 'slurm' AND state = 'queued' AND slurm_id = ''")


def handed_over(store: Store) -> list[Job]:
    """Return the jobs that Slurm has, or may have."""
    return store.jobs(
        "executor = 'slurm' AND slurm_id != '' AND state IN ('queued', 'running', 'stopping')"
    )


def begin(store: Store, job: Job, *, token: str, events_offset: int) -> bool:
    """Write the token down before anything is submitted; False if the job no longer waits."""
    query = (
        "UPDATE jobs SET token = ?, events_offset = ?, slurm_id = ?, evidence = '', ask = '',"
        " started = NULL, ended = NULL, expected = NULL WHERE id = ? AND state = 'queued'"
        " AND slurm_id = ''"
    )
    with store.transaction() as connection:
        values = (token, events_offset, UNCONFIRMED, job.id)
        return connection.execute(query, values).rowcount == 1


def confirm(store: Store, job: Job, slurm_id: str) -> None:
    """Note Slurm's number of a submission."""
    with store.transaction() as connection:
        query = "UPDATE jobs SET slurm_id = ?, reason = ? WHERE id = ? AND token = ?"
        reason = f"Slurm {slurm_id}: submitted"
        if connection.execute(query, (slurm_id, reason, job.id, job.token)).rowcount:
            note(connection, job.id, job.state, reason)


def take_back(store: Store, job: Job, *, reason: str, wait_s: float, failures: int) -> bool:
    """Let a job wait for another submission, because this one never came to anything."""
    columns = {
        "reason": reason,
        "wait_s": wait_s,
        "failures": failures,
        "slurm_id": "",
        "expected": None,
        "started": None,
    }
    with store.transaction() as connection:
        if job.state == "queued":
            return _change(connection, job, columns)
        return move(connection, job.id, "queued", token=job.token, columns=columns)


def see(store: Store, job: Job, *, lives: bool, reason: str, start: float | None) -> Job:
    """Write what Slurm says of a job where it is news; return the job as it is now."""
    state: JobState = job.state
    if job.state != "stopping":
        state = "running" if lives else "queued"
    columns: dict[str, Any] = {"reason": reason, "expected": None if lives else start}
    if lives and (job.state == "queued" or job.started is None):
        columns |= {"starts": job.starts + 1, "started": start or time.time(), "wait_s": 0.0}
    if state == job.state and all(getattr(job, name) == new for name, new in columns.items()):
        return job
    with store.transaction() as connection:
        if state == job.state:
            _change(connection, job, columns)
        else:
            move(connection, job.id, state, token=job.token, columns=columns)
    return store.job(job.id)


def settle(store: Store, job: Job, outcome: StartOutcome, verdict: JobChange) -> bool:
    """Write how a submission ended; False if somebody else did."""
    is_over = verdict.state not in ("queued", "paused")
    columns: dict[str, Any] = {
        "reason": verdict.reason,
        "evidence": outcome.evidence,
        "ended": time.time() if is_over else None,
        "wait_s": verdict.wait_s,
        "failures": verdict.failures,
        "expected": None,
        "ask": "",
        **({} if is_over else {"slurm_id": ""}),
    }
    with store.transaction() as connection:
        if job.state == "queued":  # it began and ended between two looks
            started = {"started": job.started or time.time()}
            move(connection, job.id, "running", token=job.token, columns=started)
        is_settled = move(connection, job.id, verdict.state, token=job.token, columns=columns)
    if is_settled and is_over:
        forget_extension(Path(job.run))
    return is_settled


def drop(store: Store, job: Job, state: JobState, reason: str) -> bool:
    """End a job that never began."""
    columns = {"reason": reason, "ended": time.time(), "ask": "", "expected": None}
    with store.transaction() as connection:
        is_over = move(connection, job.id, state, token=job.token, columns=columns)
    if is_over:
        forget_extension(Path(job.run))
    return is_over


def explain(store: Store, job: Job, reason: str) -> None:
    """Say what a job waits for, or what is known of it."""
    if job.reason != reason:
        with store.transaction() as connection:
            _change(connection, job, {"reason": reason})


def lost_need(store: Store, job: Job) -> str:
    """Name the job that a waiting one needs and that ended badly; empty while all may end well."""
    if job.after:
        marks = ", ".join("?" * len(job.after))
        bad = store.jobs(
            f"id IN ({marks}) AND state IN ('failed', 'cancelled', 'lost')", *job.after
        )
        if bad:
            return f"job {bad[0].id}, which it needs, is {bad[0].state}"
    return ""


def needs_of(store: Store, job: Job) -> list[str] | None:
    """Return Slurm's numbers of the jobs that must end well first; None: it must wait for others.

    Those that are done need no mention: Slurm may have forgotten them.
    """
    numbers: list[str] = []
    for other in (store.job(number) for number in job.after):
        if other.state == "done":
            continue
        if not other.is_handed_over or not other.slurm_id.isdecimal():
            return None
        numbers.append(other.slurm_id)
    return numbers


def _change(connection: Any, job: Job, columns: dict[str, Any]) -> bool:
    changes = ", ".join(f'"{name}" = ?' for name in columns)
    query = f"UPDATE jobs SET {changes} WHERE id = ? AND token = ? AND state = ?"
    values = (*columns.values(), job.id, job.token, job.state)
    return connection.execute(query, values).rowcount == 1
