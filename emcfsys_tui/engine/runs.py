"""The engine as the interface sees it: projects and runs; called from threads."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import InputError, RunFolderError, printable
from emcfsys_engine.jobs.control import ensure_daemon
from emcfsys_engine.jobs.queue import submit_extension
from emcfsys_engine.run.folder import Run, same_run
from emcfsys_engine.text import flattened, moment
from emcfsys_tui.messages import Told
from emcfsys_tui.settings import remembered
from emcfsys_tui.view_models import RunRow

if TYPE_CHECKING:
    from emcfsys_engine.jobs.queue import Queue


class CommandEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine command ended."""

    code: int
    out: str
    words: str  # what it said on stderr

    @property
    def told(self) -> str:
        """Its answer, then what it said beside it: what counts otherwise, or was left out."""
        return "\n\n".join(filter(None, (self.out.strip(), self.words.replace("; ", "\n"))))

    @property
    def notes(self) -> str:
        """What a job that is queued said besides its run's folder, in brackets; or nothing."""
        notes = [one for one in self.words.split("; ") if one.startswith(("note:", "warning:"))]
        return f" ({'; '.join(notes)})" if notes else ""


_GIVES_WAY = 5  # a third of what other processes get, where all cores are busy
# Children that only look: they may be ended at any time, and are when the interface leaves.
LOOKING: "set[subprocess.Popen[bytes]]" = set()


def end_looking() -> None:
    """End every child that only looks, so that leaving never waits for one."""
    for child in list(LOOKING):
        child.kill()


def give_way(child: "subprocess.Popen[bytes]") -> None:
    """Let a child that nobody waits for come behind the keys: it would take a core of its own."""
    with contextlib.suppress(OSError):  # it has ended
        now = os.getpriority(os.PRIO_PROCESS, child.pid)
        os.setpriority(os.PRIO_PROCESS, child.pid, min(now + _GIVES_WAY, 19))


def run_command(
    arguments: Sequence[str],
    *,
    is_look: bool = False,
    on_start: Callable[["subprocess.Popen[bytes]"], None] | None = None,
) -> CommandEnd:
    """Run an engine command in a child and wait for it; nothing of it reaches the terminal.

    `is_look`: it changes nothing, and is ended when the interface leaves.
    `on_start`: gets the child, to end it earlier.
    """
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "emcfsys_engine", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    ) as child:
        if is_look:
            LOOKING.add(child)
        if on_start is not None:
            on_start(child)
        out, told = child.communicate()
        LOOKING.discard(child)
    words = printable(told.decode("utf-8", "replace").strip().replace("\n", "; "))
    return CommandEnd(code=child.returncode, out=out.decode("utf-8", "replace"), words=words)


def child_environment() -> dict[str, str]:
    """Return our environment, in which a child finds the packages that we are."""
    place = Path(__file__).resolve().parents[2]
    if place.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    paths = [str(place), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def open_queue() -> "Queue":
    """Open the user's queue."""
    return import_module("emcfsys_engine.jobs.queue").Queue.open()


def ask_run(folder: Path, ask: str) -> str:
    """Ask something of a run: through its job where it has one, else by word in its folder.

    Raises: QueueError or RunFolderError when it cannot be done.
    """
    run = Run(folder)
    with open_queue() as queue:
        jobs = [job for job in queue.list() if job.run == str(run.folder)]
        if jobs and (jobs[-1].is_open or ask in ("resume", "retry")):
            job = jobs[-1]
            act = {
                "stop": queue.stop,
                "cancel": queue.cancel,
                "pause": queue.pause,
                "resume": queue.retry
                if job.state in ("failed", "cancelled", "lost")
                else queue.resume,
            }[ask]
            job = act(job.id)
            import_module("emcfsys_engine.jobs.control").ensure_daemon(queue.folder)
            return f"job {job.id}: {job.state}"
        if ask == "resume":
            record = run.record()
            name = record.project.name if record.project else run.folder.parent.name
            number = queue.add(run.folder, project_name=name, resume="auto")
            import_module("emcfsys_engine.jobs.control").ensure_daemon(queue.folder)
            return f"job {number}: queued"
    if not run.is_alive():
        raise RunFolderError(run.folder, "does not run", "Nothing to do")
    run.ask("stop" if ask == "stop" else "pause" if ask == "pause" else "cancel")
    return f"{run.id}: asked to {ask}"


def delete_run(folder: Path, created: float) -> str:
    """Remove a run's folder for good: of the run that was `created` then, as a person saw it.

    Raises: RunFolderError while it runs or waits in the queue, while a job, a process or a
    project.toml that is known needs something in it, if it holds what it did not make, or if
    another lies there by now.
    """
    run = same_run(folder, created)
    run.record()
    if run.is_alive():
        raise RunFolderError(run.folder, "is running", "Cancel it first")
    users = import_module("emcfsys_engine.jobs.run_users").RunUsers(
        [run.folder.parent.parent, *map(Path, remembered().recent)]
    )
    if use := users.of(run, [run.folder]):
        raise RunFolderError(run.folder, use.why, use.remedy)
    try:
        if inside := import_module("emcfsys_engine.tools.run_contents").not_of_run(run):
            what = f"holds what it did not make: {inside}"
            remedy = "Move that elsewhere first, or remove it yourself"
            raise RunFolderError(run.folder, what, remedy)
        shutil.rmtree(run.folder)
    except OSError as error:
        what = f"could not be removed: {error.strerror}"
        raise RunFolderError(run.folder, what, "Check its permissions") from None
    return f"{run.id} deleted"


def compare_runs(folders: list[Path]) -> str:
    """Return the settings in which runs differ, one a line, with each run's value."""
    tables = {folder.name: _settings(Run(folder)) for folder in folders}
    keys = sorted({key for table in tables.values() for key in table})
    width = max([len(key) for key in keys], default=0)
    names = list(tables)
    lines = [" ".join([" " * width, *(f"{name:<18}" for name in names)]).rstrip()]
    for key in keys:
        values = [tables[name].get(key, "–") for name in names]
        if len(set(values)) > 1:
            cells = " ".join(f"{value:<18}" for value in values)
            lines.append(f"{key:<{width}} {cells}".rstrip())
    if len(lines) == 1:
        lines.append("These runs were asked for with the same settings.")
    return "\n".join(printable(line) for line in lines)


def _settings(run: Run) -> dict[str, str]:
    """Return what a run was asked for and what was planned, as flat keys."""
    record = run.record()
    settings = flattened(msgspec.to_builtins(record.project))
    flat = {key: str(value) for key, value in settings.items() if value is not None}
    flat["created"] = moment(record.created, "%F %H:%M")
    try:
        plan: dict[str, Any] = any_names.read(run.plan_file, dict[str, Any]) or {}
    except OSError:
        plan = {}
    kept = ("device", "precision", "patch_px", "batch", "total_steps", "encoder_lr", "decoder_lr")
    flat |= {f"plan.{key}": str(plan[key]) for key in kept if key in plan}
    return flat


EXPORTS = {
    "onnx": "ONNX: for other programs, one file",
    "torchscript": "TorchScript: for PyTorch without this package",
    "bioimageio": "bioimage.io package: for ilastik, deepImageJ, QuPath …",
}


def budget_of(answer: str) -> str:
    """Return an answer like "2000", "2000 steps" or "30 min" as a setting.

    Raises: InputError for anything else.
    """
    number, _, unit = answer.strip().replace(",", "").lower().partition(" ")
    unit = unit.strip()
    if number.endswith("min") and not unit:
        number, unit = number.removesuffix("min"), "min"
    if number.isdecimal() and unit in ("", "step", "steps"):
        return f"training.steps={int(number)}"
    if number.replace(".", "", 1).isdecimal() and unit in ("min", "minute", "minutes"):
        return f"training.minutes={float(number):g}"
    raise InputError(answer, "is no budget", "Write steps like 2000, or a time like 30 min")


def proposed_budget(run: RunRow) -> str:
    """Return twice of what the run had."""
    settings = None
    record = Run(run.folder).record()
    if record.project is not None:
        settings = record.project.training
    if settings is not None and settings.minutes is not None:
        return f"{2 * settings.minutes:g} min"
    return str(2 * max(run.total_steps or run.step, 1))


def extend_run(folder: Path, answer: str) -> str:
    """Queue a run that ended with a larger budget.

    Raises: InputError, ProjectFaults, RunFolderError, QueueError, DaemonError.
    """
    budget = budget_of(answer)
    with open_queue() as queue:
        number = submit_extension(queue, Run(folder), (budget,))
        ensure_daemon(queue.folder)
    return f"job {number}: {folder.name} goes on with {budget}"


def export_command(folder: Path, kind: str) -> list[str]:
    """Return the engine's arguments that export a run's best model."""
    return ["export", str(Run(folder).best_model), "--format", kind]


def export_model(folder: Path, kind: str) -> Told:
    """Export a run's best model, in a child.

    Raises: RunFolderError without a model; InputError with the engine's own word.
    """
    if not Run(folder).best_model.is_file():
        remedy = "It is written at the first validation"
        raise RunFolderError(folder, "has no best model yet", remedy)
    done = run_command(export_command(folder, kind))
    if done.code != 0:
        raise InputError("export", done.words.removeprefix("emcfsys-engine: ") or "failed")
    return Told(f"Written: {printable(done.out.strip())} ({done.words})", loud=True)


def write_report(folder: Path) -> Path:
    """Write a run as one HTML page, in a child, and return the file.

    Raises: InputError with the engine's own word.
    """
    done = run_command(["report", str(folder)])
    if done.code != 0:
        raise InputError("report", done.words.removeprefix("emcfsys-engine: ") or "failed")
    return Path(done.out.strip())


def as_command(*words: str) -> str:
    """Return an engine command to paste."""
    return shlex.join(["emcfsys-engine", *words])
