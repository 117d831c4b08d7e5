"""submit: put a run of any command into the queue; the daemon runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from emcfsys_engine.commands.convert import conversion_options, make_conversion
from emcfsys_engine.commands.evaluate import evaluation_options, make_evaluation
from emcfsys_engine.commands.hotfolder import make_watch
from emcfsys_engine.commands.measure import make_measurement, measurement_options
from emcfsys_engine.commands.predict import make_prediction, prediction_options
from emcfsys_engine.commands.saying import say
from emcfsys_engine.commands.shards import Option, refuse_gpus, with_options
from emcfsys_engine.jobs.control import ensure_daemon
from emcfsys_engine.jobs.queue import Options, Queue, submit_extension, submit_run, submit_training
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.folder import Run, open_run
from emcfsys_engine.run.records import EvaluateRequest, PredictRequest

_OPTIONS: tuple[Option, ...] = (
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
    click.option(
        "--slurm/--local",
        default=None,
        help="On the cluster or here, not as the project"
        " says; partition, time … stand in [compute.slurm] or the user's [slurm].",
    ),
)


def _queue_options(command: Callable[..., None]) -> Callable[..., None]:
    return with_options(command, _OPTIONS)


@click.group()
def submit() -> None:
    """Put a run of one of these commands into the queue; prints the job's number.

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
    with Queue.open() as queue:
        numbers, runs = submit_training(queue, loaded, Options(**options))
    ensure_daemon()
    for number, run in zip(numbers, runs, strict=True):
        say(str(run.folder), err=True)
        say(number)


@submit.command()
@prediction_options
@_queue_options
def predict(
    model: Path,
    inputs: tuple[str, ...],
    out: Path,
    **options: Any,
) -> None:
    """Segment INPUTS with MODEL, when its turn comes.

    Example: emcfsys-engine submit predict best.safetensors images --out masks
    """
    of_queue = {name: options.pop(name) for name in Options.__struct_fields__}
    asked: float | None = of_queue["gpus"]
    if asked is not None:  # what it gets is what it computes on
        options["gpus"] = int(max(1, asked)) if asked else 0
    run = make_prediction(model, inputs, out, **options)
    request = run.record().request
    if asked is None and isinstance(request, PredictRequest) and request.gpus is not None:
        of_queue["gpus"] = float(request.gpus)
    _add(run, out.absolute().name, None, of_queue)


@submit.command()
@evaluation_options
@_queue_options
def evaluate(model: Path, project: Path | None, out: Path | None, **options: Any) -> None:
    """Compare MODEL with labels in shards, when its turn comes; scores go to --out.

    Example: emcfsys-engine submit evaluate best.safetensors projects/demo --out scores --shards 8
    """
    of_queue = {name: options.pop(name) for name in Options.__struct_fields__}
    asked: float | None = of_queue["gpus"]
    options["gpus"] = None if asked is None else int(max(1, asked)) if asked else 0
    options["shards"] = options["shards"] or "1"
    run = make_evaluation(model, project, out=out, **options)
    request = run.record().request
    if asked is None and isinstance(request, EvaluateRequest) and request.gpus is not None:
        of_queue["gpus"] = float(request.gpus)
    _add(run, Path(run.folder).parents[1].name, None, of_queue)


@submit.command()
@measurement_options
@_queue_options
def measure(masks: str, out: Path | None, **options: Any) -> None:
    """Measure the objects in MASKS in shards, when its turn comes; tables go to --out.

    Example: emcfsys-engine submit measure masks --out numbers --shards 64%8
    """
    of_queue = {name: options.pop(name) for name in Options.__struct_fields__}
    refuse_gpus(of_queue, "measure")
    run = make_measurement(masks, out, **options)
    _add(run, run.folder.parents[1].name, None, of_queue)


@submit.command()
@conversion_options
@_queue_options
def convert(source: str, out: Path, **options: Any) -> None:
    """Convert SOURCE in shards, when its turn comes; files go to --out.

    Example: emcfsys-engine submit convert masks --to labelme --out outlines --shards 64%8
    """
    of_queue = {name: options.pop(name) for name in Options.__struct_fields__}
    refuse_gpus(of_queue, "convert")
    run = make_conversion(source, out, **options)
    _add(run, out.absolute().name, None, of_queue)


@submit.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    help="Do exactly what this locked recipe says, or refuse.",
)
@_queue_options
def watch(project: Path, overrides: tuple[str, ...], recipe: Path | None, **options: Any) -> None:
    """Watch PROJECT's hot folder; started again when it dies or the machine restarts.

    Example: emcfsys-engine submit watch projects/demo
    """
    loaded = load_project(project, overrides)
    run = make_watch(loaded, recipe=recipe)
    _add(run, loaded.name, loaded, options)


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
    from emcfsys_engine.dataset.samples import refuse_unresumable

    refuse_unresumable(open_run(run))
    with Queue.open() as queue:
        number = submit_extension(queue, open_run(run), overrides)
    ensure_daemon()
    say(number)


def _add(run: Run, name: str, project: Project | None, options: dict[str, Any]) -> None:
    """Queue a run, see that a daemon runs, and print the job's number."""
    with Queue.open() as queue:
        number = submit_run(queue, run, name, project, Options(**options))
    ensure_daemon()
    say(str(run.folder), err=True)
    say(number)
