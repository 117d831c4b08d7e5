"""jobs, cancel, stop, pause, resume, retry, move, logs: the queue's jobs."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from emcfsys_engine.commands.saying import say, say_json, say_lines
from emcfsys_engine.errors import QueueError, printable
from emcfsys_engine.jobs.control import daemon_status, ensure_daemon
from emcfsys_engine.jobs.job import ACTIVE, Job, in_order, what_they_wait_for
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.lines import RunLines
from emcfsys_engine.run.progress import progress_of, words_of_progress
from emcfsys_engine.text import clock, day_clock, moment, span

_TITLES = ("ID", "STATE", "PROJECT", "DOES", "RUN", "ON", "ASKS", "SINCE", "TOOK", "REASON")
_NUM_ENDED = 10


def shown(jobs: Sequence[Job]) -> list[Job]:
    """Return what a glance needs: running first, then the queue in order, then the last ended."""
    ended = [job for job in jobs if not job.is_open][-_NUM_ENDED:]
    return [*in_order(jobs), *ended]


def table_of(jobs: Sequence[Job], *, width: int | None = None) -> str:
    """Return one line a job under a line of titles; cut to a terminal's width."""
    waits = what_they_wait_for(jobs)
    rows = [_TITLES, *(_row(job, waits.get(job.id, "")) for job in jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES) - 1)]
    lines = [
        "  ".join([*(cell.ljust(size) for cell, size in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
    return "\n".join(line.rstrip()[:width] for line in lines)


def _row(job: Job, waits: str) -> tuple[str, ...]:
    return (
        str(job.id),
        f"{job.state} ({job.ask})" if job.ask else job.state,
        printable(job.project),
        job.kind,
        printable(Path(job.run).name),
        "slurm" if job.slurm else "here",
        _asks(job),
        _when(job.started or job.created),
        _took(job),
        printable(waits or _reason(job)),
    )


def _asks(job: Job) -> str:
    parts = [f"{job.slurm.nodes} ×"] if job.slurm and job.slurm.nodes > 1 else []
    parts += [f"{job.gpus:g} GPU"] if job.gpus else []
    parts += [f"{job.cpus} CPU"] if job.cpus and not job.gpus else []
    parts += [f"{job.memory_gb:g} GB"] if job.memory_gb else []
    return " ".join(parts) or "–"


def _reason(job: Job) -> str:
    if job.state != "running":
        return job.reason
    run = Run(Path(job.run))
    # What tasks on Slurm told stands in the reason.
    progress = progress_of(run).text if job.slurm else words_of_progress(run)
    return "  ".join(filter(None, (progress, job.reason)))


def _when(seconds: float) -> str:
    is_today = moment(seconds, "%F") == time.strftime("%F")
    return clock(seconds) if is_today else day_clock(seconds)


def _took(job: Job) -> str:
    return "" if job.started is None else span(max(0, (job.ended or time.time()) - job.started))


_LOOK_EVERY_S = 0.2
_REDRAW_EVERY_S = 1.0
_CLEAR = "\x1b[H\x1b[2J"
_job_ids = click.argument("job_ids", type=int, nargs=-1, metavar="[JOB]…")
_group = click.option("--group", help="All open jobs of this group as well.")


@click.command()
@click.option("--all", "show_all", is_flag=True, help="Also the jobs that ended long ago.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all ended jobs.")
@click.option("--watch", is_flag=True, help="Draw anew each second, on a terminal.")
def jobs(show_all: bool, as_json: bool, watch: bool) -> None:
    """List the jobs: running, waiting in their order, and the last that ended.

    Example: emcfsys-engine jobs --watch
    """
    with Queue.open() as queue:
        for number in queue.store.damaged():
            say(f"job {number}: its row in the queue cannot be read: it is left alone", err=True)
        if as_json:
            say_json({"jobs": queue.list()})
            return
        while True:
            _draw(queue, show_all=show_all, clear=watch and sys.stdout.isatty())
            if not (watch and sys.stdout.isatty()):
                return
            time.sleep(_REDRAW_EVERY_S)


@click.command()
@_job_ids
@_group
def cancel(job_ids: tuple[int, ...], group: str | None) -> None:
    """End jobs for good: a running one saves first, and is killed if it does not end.

    Example: emcfsys-engine cancel 12
    """
    _each(job_ids, group, Queue.cancel)


@click.command()
@_job_ids
@_group
def stop(job_ids: tuple[int, ...], group: str | None) -> None:
    """Let running jobs finish early: what they reached is their result.

    Example: emcfsys-engine stop 12
    """
    _each(job_ids, group, Queue.stop)


@click.command()
@_job_ids
@_group
def pause(job_ids: tuple[int, ...], group: str | None) -> None:
    """Take jobs out of the way: running ones save and free their GPUs; they keep their place.

    Example: emcfsys-engine pause 12
    """
    _each(job_ids, group, Queue.pause)


@click.command()
@_job_ids
@_group
def resume(job_ids: tuple[int, ...], group: str | None) -> None:
    """Queue paused or interrupted jobs again; they go on from their checkpoints.

    Example: emcfsys-engine resume 12
    """
    _each(job_ids, group, Queue.resume)


@click.command()
@_job_ids
def retry(job_ids: tuple[int, ...]) -> None:
    """Queue jobs again that failed, were cancelled, interrupted or lost.

    Example: emcfsys-engine retry 12
    """
    _each(job_ids, None, Queue.retry)


@click.command()
@click.argument("job_id", type=int, metavar="JOB")
@click.option("--before", type=int, metavar="JOB", help="Start before this one.")
@click.option("--first", is_flag=True, help="Start before all that wait.")
@click.option("--last", is_flag=True, help="Start after all that wait.")
def move(job_id: int, before: int | None, first: bool, last: bool) -> None:
    """Give a waiting job another place in the queue.

    Example: emcfsys-engine move 12 --before 9
    """
    if (before is not None) + first + last != 1:
        raise click.UsageError("Say one of --first, --last and --before JOB")
    with Queue.open() as queue:
        queue.move(job_id, before=before, last=last)
        _draw(queue, show_all=False, clear=False)


@click.command()
@click.argument("job_id", type=int, metavar="[JOB]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=40, show_default=True, help="How many."
)
def logs(job_id: int | None, follow: bool, lines: int) -> None:
    """Tell what a job's run says; without a number, the newest job.

    Example: emcfsys-engine logs -f
    """
    with Queue.open() as queue:
        job = queue.get(job_id) if job_id is not None else _newest(queue)
        news = RunLines(Run(Path(job.run)))
        for line in news.new_lines()[-lines:] if lines else []:
            say(line)
        if follow:
            job = _follow(queue, job, news)
        say(_ending(job), err=True)
    raise SystemExit(0 if not follow or job.state in ("done", "paused") else 1)


def _follow(queue: Queue, job: Job, news: RunLines) -> Job:
    """Tell a run's lines as they come until its job neither runs nor waits.

    Of a job on Slurm also how it gets on: the tasks of an array write no line of the run.
    """
    told = ""
    while True:
        job = queue.get(job.id)
        lines = news.new_lines()
        for line in lines:
            say(line)
        sys.stdout.flush()
        if job.state not in ("queued", *ACTIVE):
            return job
        if (job.state == "queued" or job.slurm) and told != (told := _ending(job)):
            say(told, err=True)
        time.sleep(_LOOK_EVERY_S)


def _ending(job: Job) -> str:
    reason = f": {printable(job.reason)}" if job.reason else ""
    return f"job {job.id} is {job.state}{reason}"


def _newest(queue: Queue) -> Job:
    jobs = queue.list()
    if not jobs:
        raise QueueError("queue", "holds no job", "Submit one: emcfsys-engine submit train PROJECT")
    return jobs[-1]


def _each(job_ids: tuple[int, ...], group: str | None, act: Callable[[Queue, int], Job]) -> None:
    """Do something to each job; those that refuse are told at the end, the others are done."""
    with Queue.open() as queue:
        wanted = list(dict.fromkeys(job_ids))
        members = [job.id for job in queue.list() if group and job.group == group and job.is_open]
        if not wanted and not members:
            raise click.UsageError(f"No open job in group {group}" if group else "Name a job")
        refusals: list[QueueError] = []
        changed: list[Job] = []
        for job_id in dict.fromkeys([*wanted, *members]):
            try:
                changed.append(act(queue, job_id))
            except QueueError as error:
                if job_id in wanted:  # the others of a group may be past it
                    refusals.append(error)
        for job in changed:
            say(_ending(job))
        if any(job.is_open and job.state != "paused" for job in changed):
            ensure_daemon(queue.folder)  # somebody must pass it on
    for refusal in refusals[:-1]:
        say(f"emcfsys-engine: {refusal}", err=True)
    if refusals:
        raise refusals[-1]


def _draw(queue: Queue, *, show_all: bool, clear: bool) -> None:
    found = queue.list()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    table = table_of(found if show_all else shown(found), width=width)
    say_lines(table, lead=_CLEAR if clear else "")
    waits = any(job.state in ("queued", *ACTIVE) for job in found)
    if waits and not daemon_status(queue.folder).running:
        say("No daemon runs. Start it: emcfsys-engine daemon start", err=True)
