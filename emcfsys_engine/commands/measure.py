"""measure: the objects of masks as tables, in this process or in shards."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.core import ParameterSource

from emcfsys_engine import any_names
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
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import MeasureRequest
from emcfsys_engine.run.shards import finished
from emcfsys_engine.text import how_many

if TYPE_CHECKING:
    from emcfsys_engine.tools.measure.results import Measurement, MeasureSettings
    from emcfsys_engine.tools.measure.standards.results import Standard, StandardSettings


def measurement_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments of a measurement; `submit measure` has the same."""
    return with_options(command, _OPTIONS)


_OPTIONS: tuple[Option, ...] = (
    click.argument("masks", type=click.Path()),
    click.option("--out", type=click.Path(path_type=Path), help="Folder for tables."),
    click.option("--images", type=click.Path(), help="Their images: for intensity and pixel size."),
    click.option("--project", type=click.Path(path_type=Path), help="Take its classes."),
    click.option("--model", type=click.Path(path_type=Path), help="Take a model file's classes."),
    click.option("--pixel-nm", help="Size of a pixel; HEIGHT,WIDTH where they differ."),
    click.option(
        "--split", type=click.Choice(["none", "watershed"]), default="none", help="Part at necks."
    ),
    click.option(
        "--neck",
        type=click.FloatRange(0, 1),
        default=0.75,
        show_default=True,
        help="Part where the neck is narrower than this share of the smaller part.",
    ),
    click.option("--min-px", type=click.IntRange(min=1), default=1, help="Leave out below px²."),
    click.option("--exclude-border", is_flag=True, help="Leave out objects at an edge."),
    click.option("--numbered", is_flag=True, help="Each value but 0 is one object."),
    click.option("--background", help='The class without objects ("none": all have objects).'),
    click.option(
        "--format",
        "table",
        type=click.Choice(["csv", "parquet", "parts"]),
        default="csv",
        show_default=True,
        help="Of the tables; parts: Parquet files as they come, for any number of masks.",
    ),
    click.option(
        "--histogram",
        type=click.Choice(["diameter", "area", "feret", "circularity", "neighbour", "none"]),
        default="diameter",
        show_default=True,
        help="What the distribution is drawn of.",
    ),
    click.option(
        "--standard",
        type=click.Choice(["e112", "e562", "e1245", "iso13322"]),
        help="Numbers as a standard asks for them: see the manual, measurements.",
    ),
    click.option(
        "--lines",
        type=click.IntRange(9, 1_000_000),
        help="e112: test lines in a field (90).",
    ),
    click.option(
        "--points",
        type=click.IntRange(4, 100_000_000),
        help="e562: grid points in a field (100).",
    ),
    click.option(
        "--relative-error",
        type=click.FloatRange(0, 1, min_open=True),
        help="iso13322: of the mean that the particles are to be enough for (0.05).",
    ),
    click.option("--seed", type=click.IntRange(min=0), help="Of lines, points and resampling (0)."),
    click.option(
        "--calibrate",
        nargs=2,
        metavar="PREDICTED TRUE",
        help="Masks of validation images, to put the model's errors into the intervals.",
    ),
    shards_option("masks"),
)


@click.command()
@measurement_options
@click.option("--summary", is_flag=True, help="MASKS is a folder of tables: tell what they say.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Measure a few masks and say how long all take, what they read and write; begin nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def measure(
    masks: str,
    out: Path | None,
    summary: bool,
    dry_run: bool,
    shards: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the objects in MASKS (a file, folder or quoted glob); tables go to --out.

    Writes objects.csv (one row an object), images.csv (one row a class of an image: area
    fractions, counts) and a histogram a class. Lengths are in nm when all pixel sizes are known,
    else in px; where rows and columns differ in size, all are those of the specimen.
    --standard adds numbers as ASTM E112, E562, E1245 or ISO 13322-1 ask for them, with intervals.
    --summary reads the tables of a folder again, of 10⁸ objects in seconds.

    Example: emcfsys-engine measure masks --images new_images --model best.safetensors --out numbers
    """
    if summary:
        _refuse_what_tables_have_not()
        _say_summary(Path(masks), as_json=as_json)
        return
    out = _needed(out)
    images: str | None = options.pop("images")
    settings = _settings_of(masks, options)
    if dry_run:
        _tell_forecast(_request_of(masks, out, images, settings, shards or "1"), as_json)
        return
    if shards is not None:
        request = _request_of(masks, out, images, settings, shards)
        found = _measured_in_shards(request, out)
    else:
        found = _measured_here(masks, out, images, settings)
    if as_json:
        say_json(found)
    else:
        say_lines(found.text)
        if found.num_masks:
            say(str(out.absolute()))
    raise SystemExit(1 if found.failed else 0)


def _refuse_what_tables_have_not() -> None:
    """Refuse options of a measurement beside --summary: its tables are as they were measured."""
    context = click.get_current_context()
    names = {one.name: one.opts[0] for one in context.command.params}
    for name in context.params.keys() - {"masks", "summary", "as_json"}:
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            what = "says how to measure, and --summary tells what was measured"
            raise click.UsageError(f"{names[name]} {what}: measure anew with it")


def make_measurement(masks: str, out: Path | None, shards: str | None, **options: Any) -> Run:
    """Make the run of a measurement in shards, or return one that is not at its end.

    Raises: InputError for settings that make no sense, or while another is under way there.
    """
    out = _needed(out)
    images: str | None = options.pop("images")
    settings = _settings_of(masks, options)
    return run_in_shards(_request_of(masks, out, images, settings, shards or "auto"), out)


def _needed(out: Path | None) -> Path:
    if out is None:
        raise click.UsageError("Missing option '--out': the folder for the tables")
    return out


def _settings_of(masks: str, options: dict[str, Any]) -> "MeasureSettings":
    from emcfsys_engine.tools.measure.fields import parse_pixel_nm
    from emcfsys_engine.tools.measure.masks import need_libraries
    from emcfsys_engine.tools.measure.results import MeasureSettings, classes_for

    applied = _standard_of(options.pop("standard"), options)
    calibrate: tuple[str, str] | None = options.pop("calibrate")
    pixel_nm: str | None = options.pop("pixel_nm")
    if calibrate is not None and applied is None:
        raise click.UsageError("--calibrate corrects a standard's numbers: give --standard")
    named = classes_for(masks, project=options.pop("project"), model=options.pop("model"))
    for note in named.notes:
        say(note, err=True)
    settings = MeasureSettings(
        standard=applied,
        calibrate=calibrate,
        classes=named.classes,
        labels=dict(named.labels),
        fallback_nm=named.pixel_nm,
        pixel_nm=parse_pixel_nm(pixel_nm) if pixel_nm else None,
        **options,
    )
    need_libraries(settings)
    return settings


def _request_of(
    masks: str, out: Path, images: str | None, settings: "MeasureSettings", shards: str
) -> MeasureRequest:
    if settings.calibrate is not None:
        first, second = map(absolute, settings.calibrate)
        settings = msgspec.structs.replace(settings, calibrate=(first, second))
    cores = len(os.sched_getaffinity(0))
    return MeasureRequest(
        masks=absolute(masks),
        images=absolute(images) if images else "",
        out=str(out.absolute()),
        settings=any_names.decode(any_names.encode(settings), dict),
        **shards_of(shards, cores),  # type: ignore[arg-type]
    )


def _measured_here(
    masks: str, out: Path, images: str | None, settings: "MeasureSettings"
) -> "Measurement":
    from emcfsys_engine.tools.measure.masks import measure_masks

    progress = _show_progress if sys.stderr.isatty() else None
    found = measure_masks(masks, out, settings, images=images, on_mask=progress)
    _say_notes(found)
    _say_failed(found)
    return found


def _measured_in_shards(request: MeasureRequest, out: Path) -> "Measurement":
    """Measure in shards, or say what a run found that did the same; of masks that failed once."""
    from emcfsys_engine.tools.measure.in_shards import result_of, what_was_found

    for run in finished(out.absolute() / ".emcfsys", request):
        if (found := what_was_found(run)) is not None:
            words = "measured all of it, and no mask or image changed since: all is done"
            say_lines(f"{run.id} {words}", err=True)
            _say_notes(found)
            _say_failed(found)
            return found
    run = run_in_shards(request, out)
    code = run_in_foreground(run)
    found = result_of(run) if code in (0, 1) and run.outcome()[0] == "done" else None
    if found is None:
        raise SystemExit(code)
    return found  # the run told its notes


def _say_notes(found: "Measurement") -> None:
    for note in found.all_notes:
        say(note, err=True)


def _say_failed(found: "Measurement") -> None:
    for one in found.failed:
        say(f"not measured: {one.file}: {one.why}", err=True)


def _tell_forecast(request: MeasureRequest, as_json: bool) -> None:
    from emcfsys_engine.tools.measure.in_shards import forecast

    tell_forecast(forecast(request), as_json=as_json)


def _say_summary(folder: Path, *, as_json: bool) -> None:
    from emcfsys_engine.tools.measure.summary import summarise

    found = summarise(folder)
    if as_json:
        say_json(found)
    else:
        say_lines(found.text)


def _standard_of(name: "Standard | None", options: dict[str, Any]) -> "StandardSettings | None":
    """Return how a standard is applied; its options leave the others."""
    from emcfsys_engine.tools.measure.standards.results import StandardSettings

    given = {
        key: value
        for key in ("lines", "points", "relative_error", "seed")
        if (value := options.pop(key)) is not None
    }
    for key, of in (("lines", "e112"), ("points", "e562"), ("relative_error", "iso13322")):
        if name not in (None, of) and key in given:
            raise click.UsageError(f"--{key.replace('_', '-')} is of {of}, not of {name}")
    if name is not None:
        return StandardSettings(standard=name, **given)
    if given:
        word = next(iter(given)).replace("_", "-")
        raise click.UsageError(f"--{word} is of a standard: give --standard, too")
    return None


def _show_progress(done: int, total: int) -> None:
    say(f"{done:,} of {how_many(total, 'mask')}", err=True, nl=done == total, lead="\r")
