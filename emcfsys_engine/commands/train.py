"""train: a project becomes a model."""

from pathlib import Path
from typing import Any

import click
import msgspec

from emcfsys_engine.commands.foreground import refuse_cluster, run_in_foreground
from emcfsys_engine.errors import InputError, ProjectError, ProjectFaults
from emcfsys_engine.project import Training, load_project
from emcfsys_engine.project_faults import check_table
from emcfsys_engine.run import TrainRequest, new_run, open_run

_EXTENDABLE = ("steps", "minutes", "patience")


@click.command()
@click.argument("project", required=False, type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with a run's folder."
)
def train(project: Path | None, overrides: tuple[str, ...], resume: Path | None) -> None:
    """Train as PROJECT (a project.toml or its folder) says; print the run's folder.

    Example: emcfsys-engine train projects/demo/project.toml --set training.minutes=5
    """
    if (project is None) == (resume is None):
        raise click.UsageError("Name a project, or a run with --resume RUN")
    if resume is not None:
        _resume(resume, overrides)
        return
    assert project is not None
    loaded = load_project(project, overrides)
    refuse_cluster(loaded, "train")
    run = new_run(loaded.runs_folder, TrainRequest(), project=loaded)
    code = run_in_foreground(run)
    click.echo(run.folder)
    raise SystemExit(code)


def _resume(folder: Path, overrides: tuple[str, ...]) -> None:
    run = open_run(folder)
    record = run.record()
    if not isinstance(record.request, TrainRequest) or record.project is None:
        raise InputError(folder, "is no training", "Name the folder of a training run")
    if run.is_alive():
        raise InputError(folder, "is running", "Stop it first")
    if overrides:
        training = _extended(record.project.training, overrides)
        project = msgspec.structs.replace(record.project, training=training)
        run.write_record(msgspec.structs.replace(record, project=project))
    is_over = run.state() == "done" and not overrides
    code = 0 if is_over else run_in_foreground(run)
    click.echo(run.folder)
    raise SystemExit(code)


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
