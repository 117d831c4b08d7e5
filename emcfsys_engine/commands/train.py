"""train: a project becomes a model, or one a fold."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from emcfsys_engine.commands.foreground import run_in_foreground
from emcfsys_engine.errors import InputError, ProjectError, ProjectFaults, printable
from emcfsys_engine.events import RunFinished
from emcfsys_engine.project import Training, load_project
from emcfsys_engine.project_faults import check_table
from emcfsys_engine.run import Run, TrainRequest
from emcfsys_engine.run_groups import new_trainings, runs_at

_EXTENDABLE = ("steps", "minutes", "patience")


@click.command()
@click.argument("project", required=False, type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with a run's folder, or with the unfinished folds of runs/GROUP.",
)
def train(project: Path | None, overrides: tuple[str, ...], resume: Path | None) -> None:
    """Train as PROJECT (a project.toml or its folder) says; print the run's folder.

    With training.kfold the folds train one after the other, each in a run of its own.

    Example: emcfsys-engine train projects/demo/project.toml --set training.minutes=5
    """
    if (project is None) == (resume is None):
        raise click.UsageError("Name a project, or a run with --resume RUN")
    if resume is not None:
        _resume(resume, overrides)
        return
    assert project is not None
    _train_all(new_trainings(load_project(project, overrides)))


def _train_all(runs: Sequence[Run]) -> None:
    """Train one run after the other; the first that does not end well ends it all."""
    code = 0
    for run in runs:
        record = run.record()
        if record.fold and record.project is not None:
            folds = record.project.training.kfold
            click.echo(f"{run.id}: fold {record.fold} of {folds} of {record.group}", err=True)
        code = run_in_foreground(run)
        click.echo(run.folder)
        if code:
            break
    if len(runs) > 1 and code == 0:
        click.echo(_folds_summary(runs), err=True)
    raise SystemExit(code)


def _folds_summary(runs: Sequence[Run]) -> str:
    """Return the mean of the folds' best scores, and how far they spread."""
    endings = [run.ending() for run in runs]
    scores = [e.score for e in endings if isinstance(e, RunFinished) and e.score is not None]
    if len(scores) < 2:
        return f"{len(runs)} folds"
    mean, spread = statistics.mean(scores), statistics.stdev(scores)
    place = runs[0].folder.parent / runs[0].record().group
    text = f"{len(scores)} folds: best score {mean:.3f} ± {spread:.3f} (mean ± standard deviation)"
    return f"{text}\ntogether they are one model: {printable(str(place))}"


def _resume(place: Path, overrides: tuple[str, ...]) -> None:
    runs = runs_at(place)
    for run in runs:
        record = run.record()
        if not isinstance(record.request, TrainRequest) or record.project is None:
            raise InputError(run.folder, "is no training", "Name the folder of a training run")
        if run.is_alive():
            raise InputError(run.folder, "is running", "Stop it first")
    for run in runs:
        record = run.record()
        if overrides and record.project is not None:
            training = _extended(record.project.training, overrides)
            project = msgspec.structs.replace(record.project, training=training)
            run.write_record(msgspec.structs.replace(record, project=project))
    waiting = [run for run in runs if overrides or run.state() != "done"]
    if waiting:
        _train_all(waiting)
    click.echo(runs[-1].folder)


def _extended(training: Training, overrides: tuple[str, ...]) -> Training:
    """Return the run's own settings with another budget or patience: nothing else may change."""
    given = msgspec.to_builtins(training)
    for override in overrides:
        key, _, text = override.partition("=")
        name = key.strip().removeprefix("training.")
        if name not in _EXTENDABLE:
            remedy = f"Use {', '.join(f'training.{one}' for one in _EXTENDABLE)}, or a new run"
            raise InputError("--set", f"{override!r} cannot change a resumed run", remedy)
        given |= {"steps": None, "minutes": None} if name != "patience" else {}
        given[name] = float(text) if name == "minutes" and _is_number(text) else text
    faults: list[ProjectError] = []
    made = check_table(Path("--set"), "training", {**given, **_whole(given)}, Training, faults)
    if faults or made is None:
        raise ProjectFaults(faults)
    return made


def _whole(given: dict[str, Any]) -> dict[str, Any]:
    """Return steps and patience as numbers where their text is one."""
    return {
        name: int(given[name])
        for name in ("steps", "patience")
        if isinstance(given[name], str) and given[name].strip().isdecimal()
    }


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdecimal()
