"""How one start of a run ended, from its folder, and what becomes of its job then."""

from dataclasses import dataclass

import msgspec

from emcfsys_engine.jobs.job import Job, JobState
from emcfsys_engine.launch import processes
from emcfsys_engine.launch.start import holder
from emcfsys_engine.run.events import (
    AnyEvent,
    Ending,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
)
from emcfsys_engine.run.folder import ExitRecord, Run
from emcfsys_engine.settings import JobSettings

_TAIL_BYTES = 1 << 18
_NUM_EVIDENCE = 12
_EVIDENCE_CHARACTERS = 400
_BAD_INPUT = 2
_LONG_RUN_S = 600.0  # a start that lived that long is no crash loop
_DECODER = msgspec.json.Decoder(AnyEvent)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one start ended."""

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


def events_offset(run: Run) -> int:
    """Return where the events of the next start will begin: after the last whole line.

    Units: bytes.
    """
    try:
        with run.events_file.open("rb") as stream:
            end = stream.seek(0, 2)
            start = max(0, end - _TAIL_BYTES)
            stream.seek(start)
            return start + stream.read().rfind(b"\n") + 1
    except OSError:
        return 0


def outcome_of(run: Run, job: Job, *, was_killed: bool = False) -> Outcome:
    """Tell how the job's newest start ended; its processes are gone.

    `was_killed`: by us, after the grace that a request to end gives.
    """
    told = told_outcome(run, job)
    if told is not None:
        return told
    return asked_outcome(job, was_killed=was_killed) if job.ask else _without_word(run)


def told_outcome(run: Run, job: Job) -> Outcome | None:
    """Tell how the job's newest start ended in its worker's own words; None if it left none."""
    ending = _ending_since(run, job.events_offset)
    if isinstance(ending, RunFinished):
        return Outcome(state="done", reason=ending.reason)
    if isinstance(ending, RunCancelled):
        return Outcome(state="cancelled")
    if isinstance(ending, RunInterrupted):
        if job.ask in ("pause", "cancel"):  # the ask could not be left on a full disk
            return Outcome(state="paused" if job.ask == "pause" else "cancelled")
        return Outcome(state="interrupted", reason=ending.reason)
    if isinstance(ending, RunFailed):
        may_retry = ending.exit_code != _BAD_INPUT
        return Outcome(
            state="failed", reason=ending.reason, evidence=log_tail(run), may_retry=may_retry
        )
    return None


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


def log_tail(run: Run, num_lines: int = _NUM_EVIDENCE) -> tuple[str, ...]:
    """Return the last lines of a run's log; none where there is no log."""
    try:
        with run.log_file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ()
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return tuple(line[:_EVIDENCE_CHARACTERS] for line in lines[-num_lines:])


def _ending_since(run: Run, offset: int) -> Ending | None:
    try:
        with run.events_file.open("rb") as stream:
            end = stream.seek(0, 2)
            stream.seek(max(offset if offset <= end else 0, end - _TAIL_BYTES))
            lines = stream.read().split(b"\n")[:-1]
    except OSError:
        return None
    for line in reversed(lines):
        try:
            event = _DECODER.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue  # a torn line, or a kind of a newer version
        if isinstance(event, Ending):
            return event
        if isinstance(event, RunStarted | RunResumed):
            return None
    return None


def asked_outcome(job: Job, *, was_killed: bool) -> Outcome:
    """Tell how a start ended that was asked to, and left no word."""
    how = "had to be killed" if was_killed else "ended before it could save"
    if job.ask == "pause":
        return Outcome(state="paused", reason=f"{how}; goes on from its last checkpoint")
    if job.ask == "end":
        return Outcome(state="interrupted", reason=how)
    return Outcome(state="cancelled", reason=how)


def _without_word(run: Run) -> Outcome:
    if not run.folder.is_dir():
        return Outcome(state="failed", reason=f"its run folder is gone: {run.folder}")
    record = run.exit_record()
    if record is not None:
        return process_outcome(run, record)
    held_by = holder(run)
    if held_by is not None and held_by.boot != processes.boot_id():
        return Outcome(state="interrupted", reason="the machine was restarted", was_restart=True)
    reason = "its worker and keeper ended without a word"
    return Outcome(state="lost", reason=reason, evidence=log_tail(run), may_retry=True)


def process_outcome(run: Run, record: ExitRecord) -> Outcome:
    """Tell how a start ended from its process alone."""
    if record.signal in ("SIGTERM", "SIGUSR2"):
        return Outcome(state="interrupted", reason="terminated before it could save")
    if record.out_of_memory:
        reason = "ended by the kernel: out of memory (SIGKILL)"
    elif record.signal:
        reason = f"ended by {record.signal}"
    elif record.detail:
        reason = record.detail
    else:
        reason = f"ended with exit code {record.exit_code}, and without a word"
    may_retry = record.exit_code != _BAD_INPUT
    return Outcome(state="failed", reason=reason, evidence=log_tail(run), may_retry=may_retry)
