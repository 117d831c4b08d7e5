"""evaluate: compare a model with masks that people made."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcfsys_engine import any_names
from emcfsys_engine.commands.foreground import run_in_foreground
from emcfsys_engine.commands.predict import compute_of, files_of, shards_on, where
from emcfsys_engine.commands.saying import say_json, say_lines
from emcfsys_engine.commands.shards import (
    WITH_OPTION,
    Option,
    run_in_shards,
    tell_forecast,
    with_options,
)
from emcfsys_engine.errors import InputError
from emcfsys_engine.files import plain_bytes
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.project_tables import Compute, Inference
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import EVALUATION, EvaluateRequest
from emcfsys_engine.text import how_many

if TYPE_CHECKING:
    from emcfsys_engine.learn.evaluate import Evaluation


def evaluation_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments of an evaluation; `submit evaluate` has the same."""
    return with_options(command, _OPTIONS)


_OPTIONS: tuple[Option, ...] = (
    click.argument("model", type=click.Path(path_type=Path)),
    click.argument("project", required=False, type=click.Path(path_type=Path)),
    click.option(
        "--split",
        type=click.Choice(["train", "val", "test", "all"]),
        default="val",
        help="Which of PROJECT's images, as the model's own training dealt them.",
    ),
    click.option(
        "--as-dealt-now",
        is_flag=True,
        help="Deal them out as PROJECT would today: the model may have trained on some.",
    ),
    click.option("--images", type=click.Path(), help="Instead of a project: folder of images."),
    click.option("--masks", type=click.Path(), help="Their masks or annotations."),
    WITH_OPTION,
    click.option("--tta", is_flag=True, help="Average over four flips."),
    click.option(
        "--overlap",
        type=click.FloatRange(0, 0.75),
        default=0.25,
        show_default=True,
        help="Of tiles.",
    ),
    click.option(
        "--boundary-px",
        type=click.FloatRange(0, 50),
        default=2.0,
        show_default=True,
        help="How far a boundary may lie from the true one (boundary F1).",
    ),
    click.option("--cl-dice", is_flag=True, help="Also clDice: do thin structures hang together?"),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Also evaluation.json in this folder, as --json prints it.",
    ),
    click.option(
        "--shards",
        metavar="N[%M]|auto",
        help="Deal the images to N tasks, M at a time, that go on by themselves after any end;"
        " `submit evaluate --slurm` makes them one array. With --out. See `manual cluster`.",
    ),
)


def make_evaluation(model: Path, project: Path | None, **options: Any) -> Run:
    """Make the run of an evaluation in shards, after a look at the model files.

    Raises: InputError while another run does the same, or is under way in the folder.
    """
    _refuse_nowhere(options["out"])
    request = _request_of(model, project, **options)
    return run_in_shards(request, Path(request.out))


def _refuse_nowhere(out: Path | None) -> None:
    if out is None:
        raise InputError("--shards", "needs a folder for scores and tasks", "Name it with --out")


def _request_of(
    model: Path,
    project: Path | None,
    *,
    also: tuple[Path, ...],
    images: str | None,
    masks: str | None,
    out: Path | None,
    shards: str | None,
    cl_dice: bool,
    gpus: int | None,
    **options: Any,
) -> EvaluateRequest:
    files, loaded = files_of(model, also), _project_of(project, images, masks)
    for file in files:
        read_card(file)
    gpus, _, threads = where(gpus, None, _compute(files[0], loaded))
    return EvaluateRequest(
        model=str(files[0].absolute()),
        also=tuple(str(file.absolute()) for file in files[1:]),
        project=loaded,
        images=str(Path(images or "").absolute()) if loaded is None else "",
        masks=str(Path(masks or "").absolute()) if loaded is None else "",
        out=str(out.absolute()) if out is not None else "",
        middle_lines=cl_dice,
        gpus=gpus,
        threads=threads,
        **shards_on(shards, gpus, 1, threads),
        **options,
    )


def _project_of(project: Path | None, images: str | None, masks: str | None) -> Project | None:
    """Return the project that is named; None where two folders are.

    Raises: UsageError where it is neither.
    """
    if project is not None and images is None and masks is None:
        return load_project(project)
    if project is None and images and masks:
        return None
    raise click.UsageError("Name a project, or both --images and --masks")


def _compute(model: Path, project: Project | None) -> Compute | None:
    return compute_of(model) if project is None else project.compute


@click.command()
@evaluation_options
@click.option("--gpus", type=click.IntRange(0, 64), help="One process each; 0: the processor.")
@click.option("--processes", type=click.IntRange(1, 64), help="On the processor.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="With --shards: try a few images and say how long all take; begin nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--report", type=click.Path(path_type=Path), help="Also one offline HTML page.")
def evaluate(
    model: Path,
    project: Path | None,
    split: str,
    also: tuple[Path, ...],
    processes: int | None,
    dry_run: bool,
    as_json: bool,
    report: Path | None,
    **options: Any,
) -> None:
    """Compare MODEL with a PROJECT's split, or with --images and --masks.

    MODEL is a model file, a run's folder, or runs/GROUP: all folds of a k-fold training at once.

    Example: emcfsys-engine evaluate best.safetensors --images test/images --masks test/masks
    """
    from emcfsys_engine.learn.evaluate import Evaluation, table_of

    first, *others = files_of(model, also)
    if project is not None and others and split in ("train", "val", "all") and not model.is_file():
        words = (
            "note: every fold trained on what the others validate on: a fair test is --split test"
        )
        say_lines(words, err=True)
    if project is not None:
        _tell_other_settings(load_project(project).inference, options["tta"], options["overlap"])
    if options["shards"] is None and dry_run:
        raise InputError("--dry-run", "is for tasks that share images out", "Add --shards auto")
    if options["shards"] is None:
        found = _here(first, others, project, split=split, processes=processes, **options)
    else:
        if processes is not None:
            raise InputError("--processes", "and --shards exclude one another", "Use --shards N%M")
        if dry_run:
            _refuse_nowhere(options["out"])
            _tell_forecast(_request_of(model, project, also=also, split=split, **options), as_json)
            return
        run = make_evaluation(model, project, also=also, split=split, **options)
        code = run_in_foreground(run)
        if code:
            raise SystemExit(code)
        found = any_names.decode(plain_bytes(run.folder / EVALUATION), Evaluation)
    table = table_of(found)
    if as_json:
        say_json(found)
    else:
        say_lines(table)
    if report is not None:
        request = _request_of(model, project, also=also, split=split, **options)
        title = f"{first.name} of {first.absolute().parent.name}: {how_many(found.images, 'image')}"
        _write_page(report, title, request, found)


def _tell_other_settings(own: Inference, tta: bool, overlap: float) -> None:
    """Say where [inference], by which the hot folder predicts, is not what is scored."""
    if (own.tta, own.overlap) != (tta, overlap):
        words = f"its hot folder predicts with tta = {str(own.tta).lower()}, overlap = "
        words += f"{own.overlap:g} ([inference]), and these scores are of --overlap {overlap:g}"
        say_lines(f"note: {words}, {'with' if tta else 'without'} --tta", err=True)


def _write_page(report: Path, title: str, request: EvaluateRequest, found: "Evaluation") -> None:
    from emcfsys_engine.learn.evaluate import table_of, worst_drawn
    from emcfsys_engine.tools.report.evaluation import write_evaluation

    worst = worst_drawn(request, found.per_image)
    write_evaluation(report, title, table_of(found), found.per_image, found.promise, worst)
    say_lines(f"page: {report}", err=True)


def _tell_forecast(request: EvaluateRequest, as_json: bool) -> None:
    from emcfsys_engine.learn.evaluate_shards import forecast

    tell_forecast(forecast(request), as_json=as_json)


def _here(
    first: Path,
    others: list[Path],
    project: Path | None,
    *,
    split: str,
    images: str | None,
    masks: str | None,
    as_dealt_now: bool,
    out: Path | None,
    gpus: int | None,
    processes: int | None,
    cl_dice: bool,
    shards: None,
    **options: Any,
) -> "Evaluation":
    """Compare in this process, or in several that it begins."""
    from emcfsys_engine.learn import evaluate as evaluation

    loaded = _project_of(project, images, masks)
    on_gpus, in_processes, _ = where(gpus, processes, _compute(first, loaded))
    options |= {"also": tuple(others), "middle_lines": cl_dice}
    options |= {"gpus": on_gpus, "processes": in_processes}
    if loaded is not None:
        found = evaluation.evaluate_project(
            first, loaded, split, as_dealt_now=as_dealt_now, **options
        )
    else:
        found = evaluation.evaluate_folders(first, str(images), str(masks), **options)
    if out is not None:
        say_lines(f"scores: {evaluation.write_scores(found, out)}", err=True)
    return found
