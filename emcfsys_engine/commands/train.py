"""train: a project becomes a model."""

from pathlib import Path

import click

from emcfsys_engine.commands.foreground import run_in_foreground
from emcfsys_engine.errors import InputError
from emcfsys_engine.project import load_project
from emcfsys_engine.run import TrainRequest, new_run, open_run


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
    run = new_run(loaded.runs_folder, TrainRequest(), project=loaded)
    code = run_in_foreground(run)
    click.echo(run.folder)
    raise SystemExit(code)


def _resume(folder: Path, overrides: tuple[str, ...]) -> None:
    run = open_run(folder)
    if not isinstance(run.record().request, TrainRequest):
        raise InputError(folder, "is no training", "Name the folder of a training run")
    if overrides:
        raise InputError("--set", "cannot change a run that is resumed yet", "Start a new run")
    code = 0 if run.state() == "done" else run_in_foreground(run)
    click.echo(run.folder)
    raise SystemExit(code)
