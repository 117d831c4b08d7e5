"""The engine as the interface sees it: every project at a glance, and what was said last."""

import platform
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.data_counts import recall_counts
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.hotfolder.places import watcher_of, watching_run
from emcfsys_engine.hotfolder.status import choose_best
from emcfsys_engine.images.walk import names_below
from emcfsys_engine.jobs.job import Job, what_they_wait_for
from emcfsys_engine.jobs.machine import Machine
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.events import AnyEvent, ImageDone, ImageFailed, reversed_events
from emcfsys_engine.run.folder import Run, list_runs
from emcfsys_engine.run.progress import progress_of
from emcfsys_engine.suffixes import MICROGRAPH_SUFFIXES
from emcfsys_tui.engine.runs import run_command
from emcfsys_tui.messages import ProjectsRead
from emcfsys_tui.settings import Memory
from emcfsys_tui.text import reason_words
from emcfsys_tui.view_models import BADLY_ENDED, FolderLook, NewProject, ProjectRow, SaidLine

_NUM_SAID = 20
_RECENT_S = 14 * 86_400.0  # what was said before is no news


def find_projects(memory: Memory) -> list[Path]:
    """Return the folders of ./projects that hold a project, this one's, and the recent ones."""
    here = Path.cwd()
    found = [here] if (here / "project.toml").is_file() else []
    base = here / "projects"
    if base.is_dir():
        found += [
            folder for folder in sorted(base.iterdir()) if (folder / "project.toml").is_file()
        ]
    found += [Path(place) for place in memory.recent if (Path(place) / "project.toml").is_file()]
    return list(dict.fromkeys(folder.absolute() for folder in found))


def look_into(new: NewProject) -> FolderLook:
    """Return what a folder of images holds, found in a child; nothing is written.

    Raises: InputError with the engine's own word.
    """
    done = run_command([*_command(new), "--look", "--json"], is_look=True)
    try:
        return any_names.decode(done.out, FolderLook)
    except msgspec.MsgspecError:
        raise InputError("new", done.words.removeprefix("emcfsys-engine: ") or "ended") from None


def make_project(new: NewProject) -> None:
    """Write a project's project.toml, in a child.

    Raises: InputError with the engine's own word.
    """
    done = run_command(_command(new))
    if done.code != 0:
        raise InputError("new", done.words.removeprefix("emcfsys-engine: ") or "failed")


def _command(new: NewProject) -> list[str]:
    merges = [word for label, name in new.merges for word in ("--merge", f"{label}={name}")]
    classes = ["--classes", new.classes] if new.classes else []
    return ["new", str(new.folder), *merges, *classes]


def read_projects(memory: Memory) -> ProjectsRead:
    """Return the projects at a glance, and what jobs and hot folders said last."""
    try:
        with import_module("emcfsys_engine.jobs.queue").Queue.open() as queue:
            jobs: list[Job] = queue.list()
    except EmcfError:
        jobs = []
    rows: list[ProjectRow] = []
    said = [_ending(job) for job in jobs if job.ended and job.state in BADLY_ENDED]
    for folder in find_projects(memory):
        row, lines = _project(folder, jobs)
        rows.append(row)
        said += lines
    since = time.time() - _RECENT_S
    newest = sorted((line for line in said if line.time > since), key=lambda line: -line.time)
    return ProjectsRead(tuple(rows), tuple(newest[:_NUM_SAID]), _status(jobs))


def _status(jobs: Sequence[Job]) -> str:
    """Return where we are and what runs here, in a few words."""
    running = sum(job.state in ("running", "stopping") for job in jobs)
    waiting = sum(job.state == "queued" for job in jobs)
    words = [platform.node()]
    words += [f"●{running} running"] if running else []
    words += [f"○{waiting} waiting"] if waiting else []
    try:
        gpus = _machine().gpus()
    except EmcfError:
        gpus = []
    busy = sum(bool(gpu.num_taken) or gpu.is_used_by_others for gpu in gpus)
    words += [f"GPU {busy}/{len(gpus)}"] if gpus else []
    return " ".join(word for word in words if word)


@cache
def _machine() -> Machine:
    return Machine()


def count_images(project: Project) -> tuple[int, int]:
    """Return the number of images and of those with labels: as `check` counted, else by names."""
    known = recall_counts(project)
    if known is not None:
        return known
    images = labels = 0
    for source in project.data:
        names = _stems(project.folder, source.images, MICROGRAPH_SUFFIXES)
        images += len(names)
        place = source.masks or source.annotations
        if place:
            labels += len(_stems(project.folder, place, None) & names)
    return images, labels


def _stems(base: Path, place: str, suffixes: Collection[str] | None) -> set[str]:
    folder = base / place
    if not folder.is_dir():
        folder = folder.parent
    found: set[str] = set()
    for path in names_below(folder) if folder.is_dir() else ():
        stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
        if stem and (suffixes is None or f"{dot}{suffix}".lower() in suffixes):
            found.add(stem)
    return found


def _project(folder: Path, jobs: Sequence[Job]) -> tuple[ProjectRow, list[SaidLine]]:
    try:
        project = load_project(folder)
    except EmcfError as error:
        return ProjectRow(folder=folder, name=folder.name, fault=str(error)), []
    num_images, num_labels = count_images(project)
    runs = list_runs(folder)
    mine = [job for job in jobs if job.is_open and Path(job.run).parent.parent == folder]
    now, tone, said = _now(project, runs, mine, what_they_wait_for(jobs))
    row = ProjectRow(
        folder=folder,
        name=project.name,
        num_images=num_images,
        num_labels=num_labels,
        num_runs=len(runs),
        score=_best_score(project, runs),
        now=now,
        tone=tone,
    )
    return row, said


def _now(
    project: Project, runs: Sequence[Run], jobs: Sequence[Job], waits: dict[int, str]
) -> tuple[str, str, list[SaidLine]]:
    """Return what a project does now, how that looks, and what its hot folder said last."""
    words: list[str] = []
    said: list[SaidLine] = []
    words += [
        f"● {Path(job.run).name} {progress_of(Run(Path(job.run))).text or job.kind}"
        for job in jobs
        if job.state in ("running", "stopping") and job.kind != "watch"
    ]
    output = project.folder / project.hotfolder.output
    if watcher_of(output) is not None:
        states = [entry.state for entry in read_ledger(output)]
        failed = f", {states.count('failed'):,} failed" if "failed" in states else ""
        words.append(
            f"● watching {project.hotfolder.watch}/ {states.count('done'):,} masked{failed}"
        )
        watch = watching_run(output)
        said = _said_by_watch(project, Run(watch)) if watch is not None else []
    words += [
        f"○ {Path(job.run).name} {job.state} {waits.get(job.id, '')}".rstrip()
        for job in jobs
        if job.state in ("queued", "paused")
    ]
    if words:
        return "   ".join(words), "live", said
    if runs and not runs[-1].is_alive():
        state, reason = runs[-1].outcome()
        if state in BADLY_ENDED:
            return f"✗ {runs[-1].id} {state}: {reason_words(reason)}", "bad", said
    return "", "", said


def _said_by_watch(project: Project, run: Run) -> list[SaidLine]:
    found: list[SaidLine] = []
    events: list[AnyEvent] = []
    with suppress(OSError):  # it cannot be read now
        events = list(islice(reversed_events(run.events_file), 500))
    for event in events:
        text = ""
        if isinstance(event, ImageFailed):
            text = f"{Path(event.image).name} failed: {event.reason}"
        elif isinstance(event, ImageDone) and event.unlike:
            text = f"{Path(event.image).name} is unlike the training data: {event.unlike}"
        if text:
            found.append(
                SaidLine(time=event.time, project=project.name, text=text, folder=project.folder)
            )
    return found[:_NUM_SAID]


def _ending(job: Job) -> SaidLine:
    run = Path(job.run)
    words = f"{job.state}: {reason_words(job.reason)}" if job.reason else job.state
    return SaidLine(
        time=job.ended or 0.0,
        project=job.project,
        text=f"{run.name} {words}",
        folder=run.parent.parent,
        log=Run(run).log_file,
    )


def _best_score(project: Project, runs: Sequence[Run]) -> float | None:
    """Return the IoU of the model that "best" stands for, else of the newest that has one."""
    try:
        best = choose_best(project)
    except OSError:
        return None  # its disk fails: it is looked at again
    files = [best.file] if best is not None else [run.best_model for run in reversed(runs[-3:])]
    for file in files:
        try:
            score = read_card(file).scores.get("mean_iou")
        except EmcfError:
            continue
        if score is not None:
            return score
    return None
