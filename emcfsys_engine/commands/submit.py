"""submit: put a training, prediction or watch into the queue; the daemon runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from emcfsys_engine.commands.predict import make_prediction, prediction_options
from emcfsys_engine.commands.watch import make_watch
from emcfsys_engine.errors import QueueError, printable
from emcfsys_engine.jobs.control import ensure_daemon
from emcfsys_engine.jobs.extension import submit_extension
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run import Run, open_run
from emcfsys_engine.run_groups import new_trainings

_OPTIONS: tuple[Callable[[Callable[..., None]], Callable[..., None]], ...] = (
    click.option("--priority", type=int, default=0, help="Higher ones start first."),
    click.option("--after", type=int, multiple=True, metavar="JOB", help="Wait until it is done."),
    click.option("--group", help="A name that several jobs share."),
    click.option("--gpus", type=click.FloatRange(min=0), help="Whole ones, or a fraction of one."),
    click.option("--cpus", type=click.IntRange(min=0), help="Processor slots."),
    click.option("--memory-gb", type=click.FloatRange(min=0), help="Memory to keep free for it."),
    click.option(
        "--resume", type=click.Choice(["auto", "never"]), help="Go on by itself when interrupted."
    ),
    click.option("--retries", type=click.IntRange(min=-1), help="Restarts after a crash."),
)


def _queue_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def submit() -> None:
    """Put a training, prediction or watch into the queue; prints the job's number.

    Example: emcfsys-engine submit train projects/demo && emcfsys-engine logs -f
    """


@submit.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@_queue_options
def train(project: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Train as PROJECT says, when its turn comes; with training.kfold, one job a fold.

    Example: emcfsys-engine submit train projects/demo --set training.minutes=5
    """
    loaded = load_project(project, overrides)
    gpus = options["gpus"]
    if gpus is not None:  # what it gets is what it computes on
        compute = msgspec.structs.replace(loaded.compute, gpus=int(max(1, gpus)) if gpus else 0)
        loaded = msgspec.structs.replace(loaded, compute=compute)
    runs = new_trainings(loaded, resume="auto")
    for place, run in enumerate(runs):
        group = options["group"] or run.record().group or None
        try:
            _add_of_project(run, loaded, {**options, "group": group})
        except QueueError:
            for other in runs[place + 1 :]:
                other.discard()
            raise


@submit.command()
@prediction_options
@_queue_options
def predict(
    model: Path,
    inputs: tuple[str, ...],
    out: Path,
    priority: int,
    after: tuple[int, ...],
    group: str | None,
    gpus: float | None,
    cpus: int | None,
    memory_gb: float | None,
    resume: Literal["auto", "never"] | None,
    retries: int | None,
    **options: Any,
) -> None:
    """Segment INPUTS with MODEL, when its turn comes.

    Example: emcfsys-engine submit predict best.safetensors images --out masks
    """
    run = make_prediction(model, inputs, out, **options)
    add(
        run,
        out.absolute().name,
        priority=priority,
        after=after,
        group=group,
        gpus=gpus,
        cpus=cpus,
        memory_gb=memory_gb,
        resume=resume,
        retries=retries,
    )


@submit.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@_queue_options
def watch(project: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Watch PROJECT's hot folder; started again when it dies or the machine restarts.

    Example: emcfsys-engine submit watch projects/demo
    """
    loaded = load_project(project, overrides)
    run = make_watch(loaded)
    if options["gpus"] is None and (loaded.compute.gpus or 0) > 1:
        options["gpus"] = 1.0  # a watch computes in one process
    _add_of_project(run, loaded, options)


@submit.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    required=True,
    metavar="KEY=VALUE",
    help="training.steps, training.minutes (both in all, not added) or training.patience.",
)
def extend(run: Path, overrides: tuple[str, ...]) -> None:
    """Let RUN, a training that ended, go on from its checkpoint when its turn comes.

    Example: emcfsys-engine submit extend projects/demo/runs/run-0001 --set training.steps=2000
    """
    with Queue.open() as queue:
        number = submit_extension(queue, open_run(run), overrides)
    ensure_daemon()
    click.echo(number)


def _add_of_project(run: Run, project: Project, options: dict[str, Any]) -> None:
    """Queue a project's run; what the command line leaves open, [compute] says."""
    if options["gpus"] is None and project.compute.gpus is not None:
        options["gpus"] = float(project.compute.gpus)
    if options["cpus"] is None:
        options["cpus"] = project.compute.threads
    add(run, project.name, **{**options, "resume": options["resume"] or "auto"})


def add(run: Run, name: str, **options: Any) -> None:
    """Queue a run, see that a daemon runs, and print the job's number."""
    with Queue.open() as queue:
        try:
            number = queue.add(run.folder, project_name=name, **options)
        except QueueError:
            run.discard()  # nothing half-made is left of a request that was refused
            raise
    ensure_daemon()
    click.echo(printable(str(run.folder)), err=True)
    click.echo(number)
