"""Jobs as a table of text, for a terminal or a pipe."""

import time
from collections.abc import Sequence
from pathlib import Path

from emcfsys_engine.errors import printable
from emcfsys_engine.jobs.job import Job

_TITLES = ("ID", "STATE", "PROJECT", "DOES", "RUN", "ON", "ASKS", "SINCE", "TOOK", "REASON")
_NUM_ENDED = 10


def shown(jobs: Sequence[Job]) -> list[Job]:
    """Return what a glance needs: running first, then the queue in order, then the last ended."""
    running = [job for job in jobs if job.state in ("running", "stopping")]
    waiting = [job for job in jobs if job.state in ("queued", "paused")]
    waiting.sort(key=lambda job: (-job.priority, job.position, job.id))
    ended = [job for job in jobs if not job.is_open][-_NUM_ENDED:]
    return [*running, *waiting, *ended]


def table_of(jobs: Sequence[Job], *, width: int | None = None) -> str:
    """Return one line a job under a line of titles; cut to a terminal's width."""
    rows = [_TITLES, *(_row(job) for job in jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES) - 1)]
    lines = [
        "  ".join([*(cell.ljust(size) for cell, size in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
    return "\n".join(line.rstrip()[:width] for line in lines)


def _row(job: Job) -> tuple[str, ...]:
    return (
        str(job.id),
        f"{job.state} ({job.ask})" if job.ask else job.state,
        printable(job.project),
        job.kind,
        printable(Path(job.run).name),
        "slurm" if job.slurm else "here",
        _asks(job),
        _clock(job.started or job.created),
        _took(job),
        printable(_reason(job)),
    )


def _asks(job: Job) -> str:
    parts = [f"{job.slurm.nodes} ×"] if job.slurm and job.slurm.nodes > 1 else []
    parts += [f"{job.gpus:g} GPU"] if job.gpus else []
    parts += [f"{job.cpus} CPU"] if job.cpus and not job.gpus else []
    parts += [f"{job.memory_gb:g} GB"] if job.memory_gb else []
    return " ".join(parts) or "–"


def _reason(job: Job) -> str:
    if job.state == "queued" and job.after and not job.reason:
        return f"after {', '.join(str(other) for other in job.after)}"
    return job.reason


def _clock(seconds: float) -> str:
    then = time.localtime(seconds)
    today = time.strftime("%F", then) == time.strftime("%F")
    return time.strftime("%H:%M:%S" if today else "%F %H:%M", then)


def _took(job: Job) -> str:
    if job.started is None:
        return ""
    seconds = max(0, round((job.ended or time.time()) - job.started))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
