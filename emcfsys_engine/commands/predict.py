"""predict and suggest: use a model file on images."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from emcfsys_engine.commands.foreground import run_in_foreground
from emcfsys_engine.commands.saying import say, say_json, say_lines
from emcfsys_engine.commands.shards import (
    WITH_OPTION,
    Option,
    run_in_shards,
    shards_of,
    shards_option,
    tell_forecast,
    with_options,
)
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import compute_near, load_project
from emcfsys_engine.project_tables import Compute
from emcfsys_engine.regions import LEAST_CUT_PX, written
from emcfsys_engine.run.events import AnyEvent, ImageDone, ImageFailed
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.groups import models_of
from emcfsys_engine.run.outcome import became_of_images
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.text import for_shell


def prediction_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments of a prediction; `submit predict` has the same."""
    return with_options(command, _OPTIONS)


_VECTORS = ("labelme", "coco", "geojson", "imagej")
_OPTIONS: tuple[Option, ...] = (
    click.argument("model", type=click.Path(path_type=Path)),
    click.argument("inputs", nargs=-1, required=True),
    click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for masks."),
    WITH_OPTION,
    click.option("--overlay", is_flag=True, help="Also write the classes laid over the image."),
    click.option("--probability", is_flag=True, help="Also each class's probability (0-255)."),
    click.option(
        "--uncertainty", is_flag=True, help="Also how unsure it is (entropy, 0-255), as a picture."
    ),
    click.option(
        "--rank-uncertain",
        is_flag=True,
        help="Also which images to annotate next: ranking.json and ranking.csv in --out.",
    ),
    click.option(
        "--vectors",
        default="",
        help="Also outlines: labelme, coco, geojson, imagej; several with commas.",
    ),
    click.option(
        "--format",
        "mask_format",
        type=click.Choice(["png", "tiff", "ome-tiff", "ome-zarr", "tif"]),
        default="png",
        show_default=True,
        help="Of masks; the OME formats carry the pixel size to napari and Fiji.",
    ),
    click.option(
        "--force",
        is_flag=True,
        help="Do images again whose mask is there already, also of the same image.",
    ),
    click.option("--tta", is_flag=True, help="Average over four flips: better, 4 times slower."),
    click.option("--rescale", is_flag=True, help="Bring images to the model's pixel size."),
    click.option(
        "--overlap",
        type=click.FloatRange(0, 0.75),
        default=0.25,
        show_default=True,
        help="Of tiles.",
    ),
    click.option("--tile-px", type=click.IntRange(min=32), help="Side of a tile."),
    click.option("--batch", type=click.IntRange(min=1), help="Tiles at a time."),
    click.option(
        "--processes",
        type=click.IntRange(1, 64),
        help="On the processor, for servers of many cores: as several GPUs.",
    ),
    click.option(
        "--region",
        default="",
        metavar="ROW:ROW,COLUMN:COLUMN",
        help="Only this of each image, in px from 0: `0:2048,1024:4096`; an end left out is the"
        " image's. The same mask as of the whole image there.",
    ),
    click.option(
        "--region-px",
        type=click.IntRange(LEAST_CUT_PX),
        default=8192,
        show_default=True,
        help="With --shards and --format ome-zarr: side of the regions that a larger image is"
        " dealt in, a multiple of 256.",
    ),
    shards_option("images"),
)


def make_prediction(
    model: Path, inputs: Sequence[str], out: Path, also: Sequence[Path] = (), **options: Any
) -> Run:
    """Make the run of a prediction, after a look at the model files."""
    request = _request_of(model, inputs, out, also, options)
    if request.shards:
        return run_in_shards(request, out)
    return new_run(out.absolute() / ".emcfsys", request)


def _request_of(
    model: Path, inputs: Sequence[str], out: Path, also: Sequence[Path], options: dict[str, Any]
) -> PredictRequest:
    vectors = tuple(part.strip() for part in options.pop("vectors", "").split(",") if part.strip())
    for name in vectors:
        if name not in _VECTORS:
            raise InputError("--vectors", f"{name!r} is no format", f"Use {', '.join(_VECTORS)}")
    files = files_of(model, also)
    for file in files:
        read_card(file)
    _look_at_regions(options, vectors)
    gpus, processes, threads = where(
        options.get("gpus"), options.get("processes"), compute_of(files[0])
    )
    options |= {"gpus": gpus, "processes": processes, "threads": threads}
    options |= shards_on(options.pop("shards", None), gpus, processes, threads)
    return PredictRequest(
        model=str(files[0].absolute()),
        also=tuple(str(file.absolute()) for file in files[1:]),
        inputs=tuple(str(Path(place).absolute()) for place in inputs),
        out=str(out.absolute()),
        vectors=vectors,
        **options,
    )


def _look_at_regions(options: dict[str, Any], vectors: Sequence[str]) -> None:
    """Write out what is said of regions, or say why it cannot be."""
    if region := options.get("region"):
        options["region"] = written(region)
        if vectors:
            what = "outlines are of whole images, not of a --region"
            raise InputError("--vectors", what, "Leave out one of the two")
    if options.get("region_px", 0) % LEAST_CUT_PX:
        what = f"{options['region_px']} is no multiple of {LEAST_CUT_PX}"
        raise InputError("--region-px", what, "Use 4096, 8192 or 16384")


def shards_on(
    text: str | None, gpus: int | None, processes: int, threads: int | None
) -> dict[str, int | None]:
    if text is not None and processes > 1:
        raise InputError("--processes", "and --shards exclude one another", "Use --shards N%M")
    cores = len(os.sched_getaffinity(0)) // (threads or 1)
    return shards_of(text, gpus or (cores if gpus == 0 else 1))


@click.command()
@prediction_options
@click.option(
    "--gpus",
    type=click.IntRange(0, 64),
    help="One process each, fed from one list; 0: the processor. Left out: as the model's project"
    " says, else one, if there is one.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Try a few images and say how long all take, what they read and write; begin nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def predict(
    model: Path,
    inputs: tuple[str, ...],
    out: Path,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Segment INPUTS (files, folders or quoted globs) with MODEL; masks go to --out.

    MODEL is a model file, a run's folder, or runs/GROUP: all folds of a k-fold training at once.

    Example: emcfsys-engine predict best.safetensors new_images --out masks --overlay
    """
    if dry_run:
        _tell_forecast(_request_of(model, inputs, out, options.pop("also"), options), as_json)
        return
    run = make_prediction(model, inputs, out, **options)
    code = run_in_foreground(run)
    if as_json:
        say_json(_summary(run.folder, run.events()))
    else:
        say(str(out.absolute()))
    raise SystemExit(code)


def _tell_forecast(request: PredictRequest, as_json: bool) -> None:
    from emcfsys_engine.learn.inference.shards import forecast

    tell_forecast(forecast(request), as_json=as_json)


@click.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option(
    "--number",
    type=click.IntRange(min=1),
    help="Of suggestions that wait to be saved, older ones included.",
)
@click.option("--model", help="best, a run's name, or a model file.")
@click.option(
    "--look-at",
    type=click.IntRange(min=1),
    help="Most images to predict; of more, so many are drawn.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def suggest(
    project: Path, number: int | None, model: str | None, look_at: int | None, as_json: bool
) -> None:
    """Fill in Labelme files for the images of PROJECT most worth labelling next.

    What no option says, [suggest] of its project.toml does. They lie where PROJECT's annotations
    lie, and count as labels once a person saved them.

    Example: emcfsys-engine suggest my_micrographs --number 5
    """
    from emcfsys_engine.annotations.formats.labelme import SuggestedBy
    from emcfsys_engine.hotfolder.status import resolve_model
    from emcfsys_engine.tools.suggest import (
        Suggestion,
        refuse_other_classes,
        remove_last,
        what_to_suggest,
        words_of,
        write_suggestions,
    )

    loaded = load_project(project)
    own = loaded.suggest
    file = resolve_model(loaded, model or own.model)
    card = read_card(file)
    refuse_other_classes(loaded, card, file)
    by = SuggestedBy(model=card.run, score=card.scores.get("mean_iou"))
    wanted = what_to_suggest(loaded, number or own.number, look_at or own.look_at, by.score)
    made: list[Suggestion] = []
    for source in {source for source, _ in wanted.images.values()}:
        words_of(loaded, source, card.classes)  # refused before anything is predicted
    if wanted.number or wanted.renewed:
        out = loaded.folder / ".emcfsys" / "suggestions"
        remove_last(out)
        inputs = [str(image) for image in wanted.images]
        run = make_prediction(file, inputs, out, rank_uncertain=True, force=True)
        if code := run_in_foreground(run):
            raise SystemExit(code)
        made = write_suggestions(loaded, wanted, out / "ranking.json", by, card)
    if as_json:
        say_json({"suggestions": msgspec.to_builtins(made), "waiting": wanted.kept + len(made)})
        return
    for one in made:
        say(one.file)
    waiting = (
        f"{wanted.kept + len(made)} wait to be saved in Labelme: until then they are no labels"
    )
    say(f"{len(made)} suggestions of {card.run or file}; {waiting}", err=True)


def files_of(model: Path, also: Sequence[Path]) -> list[Path]:
    """Return the model files that are named: files, runs, or all folds of a group."""
    found: list[Path] = []
    for place in (model, *also):
        # A name that is no file is told as one, unless it may be a run or a group of runs.
        is_run = place.is_dir() or place.parent.name == "runs"
        models = models_of(place) if is_run else (place,)
        if place.is_dir() and len(models) > 1:
            own = place / models[0].name
            told = f"{place.name} is one of {len(models)} folds, and the mean of all is used"
            say_lines(f"note: {told}: for its own model alone name {for_shell(own)}", err=True)
        found += models
    return list(dict.fromkeys(found))


def where(
    gpus: int | None, processes: int | None, compute: Compute | None
) -> tuple[int | None, int, int | None]:
    """Return GPUs, processes and threads: as the options say, else as [compute] of a project."""
    if gpus and (processes or 1) > 1:
        raise InputError("--processes", "is for the processor", "Leave it out, or --gpus")
    threads = None if compute is None else compute.threads
    if gpus is None and processes is None and compute is not None:
        several = compute.processes if compute.gpus == 0 else 1
        return compute.gpus, several, threads
    if gpus is None and (processes or 1) > 1:
        gpus = 0
    return gpus, processes or 1, threads


def compute_of(model: Path) -> Compute | None:
    """Return [compute] of the project that a model lies in; None where it lies in none.

    A project that cannot be read is said, and not heeded: the model is whole.
    """
    try:
        return compute_near(model)
    except EmcfError as error:
        first = str(error).splitlines()[0]
        say_lines(f"note: {first} Its [compute] is not heeded", err=True)
        return None


def _summary(folder: Path, events: list[AnyEvent]) -> dict[str, object]:
    became = became_of_images(events)
    done = [msgspec.to_builtins(event) for event in became if isinstance(event, ImageDone)]
    failed = [msgspec.to_builtins(event) for event in became if isinstance(event, ImageFailed)]
    return {"run": str(folder), "done": done, "failed": failed}
