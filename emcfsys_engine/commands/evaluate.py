"""evaluate: compare a model with masks that people made."""

from pathlib import Path
from typing import Any

import click

from emcfsys_engine.commands.predict import compute_of, files_of, where
from emcfsys_engine.commands.saying import say_json, say_lines
from emcfsys_engine.project import load_project


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("project", required=False, type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default="val",
    help="Which of PROJECT's images, as the model's own training dealt them.",
)
@click.option(
    "--as-dealt-now",
    is_flag=True,
    help="Deal them out as PROJECT would today: the model may have trained on some.",
)
@click.option("--images", type=click.Path(), help="Instead of a project: folder of images.")
@click.option("--masks", type=click.Path(), help="Their masks or annotations.")
@click.option(
    "--with",
    "also",
    multiple=True,
    type=click.Path(path_type=Path),
    help="One more model file; the mean of all is used. Repeatable.",
)
@click.option("--tta", is_flag=True, help="Average over four flips.")
@click.option(
    "--overlap", type=click.FloatRange(0, 0.75), default=0.25, show_default=True, help="Of tiles."
)
@click.option(
    "--boundary-px",
    type=click.FloatRange(0, 50),
    default=2.0,
    show_default=True,
    help="How far a boundary may lie from the true one (boundary F1).",
)
@click.option("--cl-dice", is_flag=True, help="Also clDice: do thin structures hang together?")
@click.option("--gpus", type=click.IntRange(0, 64), help="One process each; 0: the processor.")
@click.option("--processes", type=click.IntRange(1, 64), help="On the processor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--report", type=click.Path(path_type=Path), help="Also one offline HTML page.")
def evaluate(
    model: Path,
    project: Path | None,
    split: str,
    as_dealt_now: bool,
    images: str | None,
    masks: str | None,
    also: tuple[Path, ...],
    tta: bool,
    overlap: float,
    boundary_px: float,
    cl_dice: bool,
    gpus: int | None,
    processes: int | None,
    as_json: bool,
    report: Path | None,
) -> None:
    """Compare MODEL with a PROJECT's split, or with --images and --masks.

    MODEL is a model file, a run's folder, or runs/GROUP: all folds of a k-fold training at once.

    Example: emcfsys-engine evaluate best.safetensors --images test/images --masks test/masks
    """
    from emcfsys_engine.learn import evaluate as evaluation

    first, *others = files_of(model, also)
    if project is not None and others and split in ("train", "val", "all") and not model.is_file():
        words = (
            "note: every fold trained on what the others validate on: a fair test is --split test"
        )
        say_lines(words, err=True)
    loaded = None if project is None else load_project(project)
    compute = compute_of(first) if loaded is None else loaded.compute
    on_gpus, in_processes, _ = where(gpus, processes, compute)
    options: dict[str, Any] = {
        "also": tuple(others),
        "tta": tta,
        "overlap": overlap,
        "boundary_px": boundary_px,
        "middle_lines": cl_dice,
        "gpus": on_gpus,
        "processes": in_processes,
    }
    if loaded is not None and images is None and masks is None:
        found = evaluation.evaluate_project(
            first, loaded, split, as_dealt_now=as_dealt_now, **options
        )
    elif project is None and images and masks:
        found = evaluation.evaluate_folders(first, images, masks, **options)
    else:
        raise click.UsageError("Name a project, or both --images and --masks")
    table = evaluation.table_of(found)
    if as_json:
        say_json(found)
    else:
        say_lines(table)
    if report is not None:
        from emcfsys_engine.tools.report.evaluation import write_evaluation

        title = f"{first.name} of {first.absolute().parent.name}: {found.images} images"
        write_evaluation(report, title, table, found.per_image, found.promise)
        say_lines(f"page: {report}", err=True)
