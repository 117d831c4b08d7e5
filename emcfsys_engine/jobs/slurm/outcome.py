"""How a job of Slurm ended: its run's folder first, then Slurm's word for it."""

from dataclasses import replace
from pathlib import Path

from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.outcome import (
    Outcome,
    Verdict,
    asked_outcome,
    judge,
    process_outcome,
    told_outcome,
)
from emcfsys_engine.jobs.slurm.client import Seen
from emcfsys_engine.jobs.slurm.requeue import may_start_again
from emcfsys_engine.jobs.slurm.script import goes_on
from emcfsys_engine.launch.start import holder
from emcfsys_engine.run.folder import ExitRecord, Run
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
    """Tell whether a keeper of the newest submission ever had the run."""
    held_by = holder(run)
    return held_by is not None and held_by.token == job.token


def slurm_outcome(job: Job, seen: Seen | None, *, was_killed: bool) -> Outcome:
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
        return Outcome(state="interrupted", reason=f"{_INTERRUPTED[state]}{saved}")
    if job.ask:
        return _asked(run, job, was_killed=was_killed)
    if state == "OUT_OF_MEMORY":
        reason = "out of memory in Slurm: ask for more with compute.slurm.memory"
        return Outcome(state="failed", reason=reason, evidence=log_tail(run))
    exit_record = _exit_of(run, job)
    if exit_record is not None:
        return process_outcome(run, job, exit_record)
    return _without_word(run, job, seen)


def slurm_verdict(job: Job, outcome: Outcome, seen: Seen | None, settings: JobSettings) -> Verdict:
    """Decide what becomes of the job: its end, or another submission.

    Raises: OSError if the run's folder cannot be written.
    """
    verdict = judge(job, outcome, settings, ran_s=0.0)
    if outcome.state != "interrupted" or verdict.state != "queued":
        return verdict
    if seen is not None and seen.state in _FOR_GOOD:
        return Verdict(state="interrupted", reason=outcome.reason)
    most = job.slurm.requeues if job.slurm else 0
    if may_start_again(Run(Path(job.run)), most):
        return replace(verdict, wait_s=0.0)
    reason = f"{outcome.reason}; {most + 1} starts in a row brought it no further"
    return Verdict(state="interrupted", reason=reason)


def _asked(run: Run, job: Job, *, was_killed: bool) -> Outcome:
    if has_begun(run, job):
        return asked_outcome(run, job, was_killed=was_killed)
    return Outcome(state="paused" if job.ask == "pause" else "cancelled")


def _without_word(run: Run, job: Job, seen: Seen | None) -> Outcome:
    if not run.folder.is_dir():
        return Outcome(state="failed", reason=f"its run folder is gone: {run.folder}")
    if seen is None:
        reason = "Slurm has forgotten it, and its run's folder does not say how it ended"
        state = "interrupted" if goes_on(job) else "lost"
        return Outcome(state=state, reason=reason, evidence=log_tail(run))
    code = f" ({seen.exit_code})" if seen.exit_code not in ("", "0:0") else ""
    reason = f"Slurm says {seen.state}{code}, its worker said nothing; is its disk shared?"
    return Outcome(state="failed", reason=reason, evidence=log_tail(run), may_retry=True)


def _exit_of(run: Run, job: Job) -> ExitRecord | None:
    return run.exit_record() if has_begun(run, job) else None
