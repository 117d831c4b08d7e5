"""What there is, in one page of text: for pipes, cron, and terminals that cannot do more."""

from pathlib import Path

from emcfsys_engine.commands.jobs import shown, table_of
from emcfsys_engine.errors import EmcfError, printable
from emcfsys_engine.text import for_shell
from emcfsys_tui.engine.projects import read_projects
from emcfsys_tui.engine.runs import open_queue
from emcfsys_tui.engine.runs_reader import RunsReader
from emcfsys_tui.settings import remembered
from emcfsys_tui.text import one_line
from emcfsys_tui.view_models import STATE_LOOKS


def summary_of(folder: Path | None) -> str:
    """Return a project's runs, or the list of projects, and the queue."""
    lines = _projects() if folder is None else _runs(folder)
    return "\n".join([*lines, "", *_jobs()])


def num_active_jobs() -> int:
    """Return how many jobs run or wait."""
    try:
        with open_queue() as queue:
            return sum(job.state in ("running", "stopping", "queued") for job in queue.list())
    except EmcfError:
        return 0


def _projects() -> list[str]:
    projects = read_projects(remembered()).projects
    if not projects:
        return ["No projects here. Make one: emcfsys-engine demo projects/demo"]
    lines = [f"{'PROJECT':<20} {'IMAGES':>7} {'LABELS':>7} {'RUNS':>5} {'IOU':>6}  FOLDER"]
    for row in projects:
        score = "–" if row.score is None else f"{row.score:.3f}"
        note = f"  {row.fault or row.now}" if row.fault or row.now else ""
        lines.append(
            f"{row.name:<20} {row.num_images:>7} {row.num_labels:>7} {row.num_runs:>5} {score:>6}"
            f"  {row.folder}{note}"
        )
    return [one_line(line) for line in lines]


def _runs(folder: Path) -> list[str]:
    reader = RunsReader(folder)
    read = reader.read()
    while read is not None and not read.is_complete:
        read = reader.read()
    if read is None or not read.runs:
        return [printable(f"{folder.name}: no runs yet. emcfsys-engine train {for_shell(folder)}")]
    lines = [f"{'RUN':<12} {'STATE':<13} {'STEP':>8} {'IOU':>6}  REASON"]
    for row in read.runs:
        score = "–" if row.score is None else f"{row.score:.3f}"
        glyph = STATE_LOOKS.get(row.state, ("?", ""))[0]
        lines.append(f"{row.id:<12} {glyph} {row.state:<11} {row.step:>8} {score:>6}  {row.reason}")
    return [printable(line.rstrip()) for line in lines]


def _jobs() -> list[str]:
    try:
        with open_queue() as queue:
            jobs = shown(queue.list())
    except EmcfError as error:
        return [str(error)]
    return table_of(jobs).split("\n") if jobs else ["No jobs."]
