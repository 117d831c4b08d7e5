"""How one start of a job ended, from its run's folder, and what becomes of the job then."""

from dataclasses import dataclass

from emcfsys_engine.jobs.job import Job, JobState
from emcfsys_engine.run.folder import ExitRecord, Run
from emcfsys_engine.run.lines import log_tail
from emcfsys_engine.run.outcome import WITHOUT_A_WORD, asked_to_end, told_by_process, told_by_worker
from emcfsys_engine.run.outcome import Outcome as RunOutcome
from emcfsys_engine.settings import JobSettings

_LONG_RUN_S = 600.0  # a start that lived that long is no crash loop


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one start ended, for its job."""

    state: JobState
    reason: str = ""
    evidence: tuple[str, ...] = ()  # the log's last lines, when it ended badly
    may_retry: bool = False  # a crash, not the user's input
    was_restart: bool = False  # the machine went down under it


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the job's row becomes."""

    state: JobState
    reason: str
    wait_s: float = 0.0
    failures: int = 0


def outcome_of(run: Run, job: Job, *, was_killed: bool = False) -> Outcome:
    """Tell how the job's newest start ended; its processes are gone.

    `was_killed`: by us, after the grace that a request to end gives.
    """
    if not run.folder.is_dir():
        if job.ask == "cancel":
            return Outcome(state="cancelled", reason=f"its run folder is gone: {run.folder}")
        return Outcome(state="failed", reason=f"its run folder is gone: {run.folder}")
    ended = run.ended(since=job.events_offset, asked=job.ask, was_killed=was_killed)
    return _of_job(run, job, ended)


def told_outcome(run: Run, job: Job) -> Outcome | None:
    """Tell how the job's newest start ended in its worker's own words; None if it left none."""
    ending = run.ending(job.events_offset)
    return _of_job(run, job, told_by_worker(ending, job.ask)) if ending is not None else None


def judge(job: Job, outcome: Outcome, settings: JobSettings, *, ran_s: float) -> Verdict:
    """Decide what becomes of a job whose start ended so: its end, or another start after a while.

    Units: `ran_s` is how long we saw that start live.
    """
    failures = 0 if ran_s > _LONG_RUN_S else job.failures
    wait_s = min(settings.retry_wait_s * 2 ** min(failures, 30), settings.retry_longest_s)
    if outcome.may_retry and not job.ask and (job.retries == -1 or failures < job.retries):
        reason = f"{outcome.reason}; starts again in {wait_s:g} s"
        return Verdict(state="queued", reason=reason, wait_s=wait_s, failures=failures + 1)
    goes_on = job.resume == "auto" or job.kind == "watch"
    if outcome.state == "interrupted" and goes_on and job.ask in ("", "end"):
        at_once = outcome.was_restart or job.ask == "end"
        reason = f"{outcome.reason}; goes on"
        return Verdict(state="queued", reason=reason, wait_s=0.0 if at_once else wait_s)
    failures = 0 if outcome.state == "done" else failures
    return Verdict(state=outcome.state, reason=outcome.reason, failures=failures)


def asked_outcome(run: Run, job: Job, *, was_killed: bool) -> Outcome:
    """Tell how a start ended that was asked to, and left no word."""
    return _of_job(run, job, asked_to_end(job.ask, was_killed=was_killed))


def process_outcome(run: Run, job: Job, record: ExitRecord) -> Outcome:
    """Tell how a start ended from its process alone."""
    return _of_job(run, job, told_by_process(record))


def _of_job(run: Run, job: Job, ended: RunOutcome) -> Outcome:
    """Return a run's end as its job's: one that was paused keeps its place."""
    if ended.state == "new" or ended.state == "running":  # it was started, and nothing came of it
        ended = RunOutcome(state="lost", reason=WITHOUT_A_WORD, may_retry=True)
        return _of_job(run, job, ended)
    was_paused = ended.state == "interrupted" and job.ask == "pause"
    return Outcome(
        state="paused" if was_paused else ended.state,
        reason=ended.reason,
        evidence=log_tail(run) if ended.state in ("failed", "lost") else (),
        may_retry=ended.may_retry,
        was_restart=ended.was_restart,
    )
