"""convert: labels and micrographs to other formats, in this process or in shards."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcfsys_engine.commands.foreground import run_in_foreground
from emcfsys_engine.commands.saying import say, say_json, say_lines
from emcfsys_engine.commands.shards import (
    Option,
    absolute,
    run_in_shards,
    shards_of,
    shards_option,
    tell_forecast,
    with_options,
)
from emcfsys_engine.errors import InputError
from emcfsys_engine.project import UNLABELLED, Source, load_project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import ConvertRequest

if TYPE_CHECKING:
    from emcfsys_engine.tools.convert.writing import Conversion


def conversion_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments of a conversion; `submit convert` has the same."""
    return with_options(command, _OPTIONS)


_OPTIONS: tuple[Option, ...] = (
    click.argument("source", type=click.Path()),
    click.option("--out", required=True, type=click.Path(path_type=Path), help="Output folder."),
    click.option(
        "--to",
        required=True,
        type=click.Choice(["masks", "labelme", "coco", "geojson", "imagej", "png"]),
        help="png: micrographs as 8-bit PNG, for Labelme.",
    ),
    click.option("--images", type=click.Path(), help="The images that labels belong to."),
    click.option("--project", type=click.Path(path_type=Path), help="Take its classes."),
    click.option(
        "--class",
        "classes",
        multiple=True,
        metavar="NAME=VALUE",
        help="A class and its mask value.",
    ),
    click.option("--label", "labels", multiple=True, metavar="NAME=CLASS", help="Rename a label."),
    click.option("--tolerance", type=click.FloatRange(0, 2), help="Pixels an outline may stray."),
    click.option(
        "--smallest",
        type=click.IntRange(min=0),
        default=0,
        help="Leave out below px²; of outlines.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace files that are there."),
    shards_option("files"),
)


@click.command()
@conversion_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Convert a few files and say how long all take, what they read and write; begin nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def convert(
    source: str, out: Path, dry_run: bool, shards: str | None, as_json: bool, **options: Any
) -> None:
    """Turn labels of SOURCE into masks or another tool's format, or micrographs into PNG.

    Example: emcfsys-engine convert predictions --to labelme --out corrections --images incoming
    """
    request = _request_of(source, out, shards or "1", options)
    if dry_run:
        _tell_forecast(request, as_json)
        return
    if shards is None:
        found = _converted_here(source, out, request)
    else:
        found = _converted_in_shards(request, out)
    for note in found.notes if shards is None else ():  # a run told its own
        say(note, err=True)
    say_json(found) if as_json else say_lines(found.summary)
    raise SystemExit(1 if found.skipped else 0)


def make_conversion(source: str, out: Path, *, shards: str | None, **options: Any) -> Run:
    """Make the run of a conversion in shards, after a look at its options."""
    return run_in_shards(_request_of(source, out, shards or "1", options), out)


def _request_of(source: str, out: Path, shards: str, options: dict[str, Any]) -> ConvertRequest:
    project: Path | None = options["project"]
    classes = _classes(project, options["classes"]) if options["to"] != "png" else None
    _refuse_other_words(project, out, options["to"])
    images: str | None = options["images"]
    is_picture = options["to"] == "png"  # of these nothing is labelled
    return ConvertRequest(
        source=absolute(source),
        images=absolute(images) if images and not is_picture else "",
        out=str(out.absolute()),
        to=options["to"],
        classes=classes,
        labels=dict(_pair(text) for text in options["labels"]) if not is_picture else {},
        own=_own_source(project, source) if not is_picture else None,
        instances=tuple(load_project(project).instances) if project and not is_picture else (),
        tolerance_px=options["tolerance"],
        smallest_px=options["smallest"],
        overwrite=options["overwrite"],
        **shards_of(shards, len(os.sched_getaffinity(0))),  # type: ignore[arg-type]
    )


def _converted_here(source: str, out: Path, request: ConvertRequest) -> "Conversion":
    from emcfsys_engine.tools.convert.conversion import convert_images, convert_labels, options_of

    if request.to == "png":
        found = convert_images(source, out, overwrite=request.overwrite)
    else:
        found = convert_labels(source, out, **options_of(request))
    for one in found.skipped:
        say(f"skipped {one.file}: {one.why}", err=True)
    return found


def _converted_in_shards(request: ConvertRequest, out: Path) -> "Conversion":
    """Convert in shards; files that are skipped are told while it runs."""
    from emcfsys_engine.tools.convert.in_shards import result_of

    run = run_in_shards(request, out)
    code = run_in_foreground(run)
    found = result_of(run) if code in (0, 1) and run.outcome()[0] == "done" else None
    if found is None:
        raise SystemExit(code)
    return found


def _tell_forecast(request: ConvertRequest, as_json: bool) -> None:
    from emcfsys_engine.tools.convert.in_shards import forecast

    tell_forecast(forecast(request), as_json=as_json)


def _classes(project: Path | None, named: tuple[str, ...]) -> dict[str, int] | None:
    """Return the classes that were said: by a project, or one by one; None when neither was."""
    if project is not None and named:
        raise click.UsageError("--project and --class exclude each other: give one of them")
    if project is not None:
        return load_project(project).classes
    found: dict[str, int] = {}
    for text in named:
        name, equals, value = text.partition("=")
        if not name or not equals or not value.isdecimal() or not 0 <= int(value) < UNLABELLED:
            raise click.UsageError(f"--class {text}: write NAME=VALUE, the value from 0 to 254")
        if name in found or int(value) in found.values():
            raise click.UsageError(f"--class {text}: this name or value was given already")
        found[name] = int(value)
    return found or None


def _refuse_other_words(project: Path | None, out: Path, to: str) -> None:
    """Refuse a place whose [data.labels] would read classes, as they are written, as others.

    Raises: InputError.
    """
    from emcfsys_engine.annotations.masks import label_table
    from emcfsys_engine.annotations.pairing import source_of

    if project is None or to == "png":
        return
    loaded = load_project(project)
    source = source_of(loaded, str(out), Path.cwd())
    if source is None:
        return
    table = label_table(loaded, source)
    for name, value in loaded.classes.items():
        word = str(value) if to == "masks" else name
        read = table.of_value(value) if to == "masks" else table.of_name(name)
        if read not in (value, UNLABELLED):
            what = f"[data.labels] there takes {word!r} for another class than {name!r}"
            raise InputError(out, what, "Choose an --out that no [[data]] table reads")


def _own_source(project: Path | None, place: str) -> Source | None:
    """Return the project's [[data]] table that the labels are of: what it says of them holds."""
    from emcfsys_engine.annotations.pairing import source_of

    return source_of(load_project(project), place, Path.cwd()) if project is not None else None


def _pair(text: str) -> tuple[str, str]:
    name, equals, class_name = text.partition("=")
    if not equals:
        raise click.UsageError(f"--label {text!r} is no NAME=CLASS")
    return name, class_name
