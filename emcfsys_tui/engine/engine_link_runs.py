"""The engine as the interface sees it: what is made of a run that is there."""

import shlex
from pathlib import Path

from emcfsys_engine.errors import InputError, RunFolderError, printable
from emcfsys_engine.jobs.control import ensure_daemon
from emcfsys_engine.jobs.extension import submit_extension
from emcfsys_engine.run.folder import Run
from emcfsys_tui.engine.runs import open_queue, run_command
from emcfsys_tui.messages import Told
from emcfsys_tui.view_models import RunRow

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
