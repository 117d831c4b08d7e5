"""runs: what a project has trained so far."""

import json
from pathlib import Path

import click

from emcfsys_engine.errors import printable
from emcfsys_engine.events import RunStarted, ValidationDone
from emcfsys_engine.project import load_project
from emcfsys_engine.run import Run, list_runs


@click.command()
@click.argument("project", type=click.Path(path_type=Path), default=".")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(project: Path, as_json: bool) -> None:
    """List PROJECT's runs with their state and best score.

    Example: emcfsys-engine runs projects/demo
    """
    found = [_row(run) for run in list_runs(load_project(project).folder)]
    if as_json:
        click.echo(json.dumps({"runs": found}))
        return
    if not found:
        click.echo("no runs yet", err=True)
    for row in found:
        score = "–" if row["score"] is None else f"{row['score']:.3f}"
        text = f"{row['run']:<10} {row['does']:<8} {row['state']:<12} {score:>6} {row['reason']}"
        click.echo(printable(text.rstrip()))


def _row(run: Run) -> dict[str, object]:
    events = run.events()
    validations = [event for event in events if isinstance(event, ValidationDone)]
    scores = [event.score for event in validations if event.score is not None]
    started = next((event for event in events if isinstance(event, RunStarted)), None)
    state, reason = ("running", "") if run.is_alive() else run.outcome()
    return {
        "run": run.id,
        "folder": str(run.folder),
        "does": started.does if started else "",
        "state": state,
        "reason": reason,
        "score": max(scores, default=None),
        "step": validations[-1].step if validations else None,
    }
