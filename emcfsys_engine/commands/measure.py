"""measure: masks to tables of objects and area fractions."""

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from emcfsys_engine.errors import printable


@click.command()
@click.argument("masks", type=click.Path())
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for tables.")
@click.option("--images", type=click.Path(), help="Their images: for intensity and pixel size.")
@click.option("--project", type=click.Path(path_type=Path), help="Take its classes.")
@click.option("--model", type=click.Path(path_type=Path), help="Take a model file's classes.")
@click.option("--pixel-nm", help="Size of a pixel; HEIGHT,WIDTH where they differ.")
@click.option(
    "--split", type=click.Choice(["none", "watershed"]), default="none", help="Part at necks."
)
@click.option(
    "--neck",
    type=click.FloatRange(0, 1),
    default=0.75,
    show_default=True,
    help="Part where the neck is narrower than this share of the smaller part.",
)
@click.option("--min-px", type=click.IntRange(min=1), default=1, help="Leave out below px².")
@click.option("--exclude-border", is_flag=True, help="Leave out objects at an edge.")
@click.option("--background", help='The class without objects ("none": all have objects).')
@click.option("--format", "table", type=click.Choice(["csv", "parquet"]), default="csv")
@click.option(
    "--histogram",
    type=click.Choice(["diameter", "area", "feret", "circularity", "neighbour", "none"]),
    default="diameter",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def measure(
    masks: str,
    out: Path,
    images: str | None,
    project: Path | None,
    model: Path | None,
    pixel_nm: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the objects in MASKS (a file, folder or quoted glob); tables go to --out.

    Writes objects.csv (one row an object), images.csv (one row a class of an image: area
    fractions, counts) and a histogram a class. Lengths are in nm when all pixel sizes are known,
    else in px; where rows and columns differ in size, all are those of the specimen.

    Example: emcfsys-engine measure masks --images new_images --model best.safetensors --out numbers
    """
    from emcfsys_engine.tools.measure.mask_pixel_size import parse_pixel_nm
    from emcfsys_engine.tools.measure.masks import measure_masks
    from emcfsys_engine.tools.measure.measure_classes import classes_for
    from emcfsys_engine.tools.measure.measurement import MeasureSettings

    named = classes_for(masks, project=project, model=model)
    settings = MeasureSettings(
        classes=named.classes,
        fallback_nm=named.pixel_nm,
        pixel_nm=parse_pixel_nm(pixel_nm) if pixel_nm else None,
        **options,
    )
    on_terminal = sys.stderr.isatty()
    found = measure_masks(
        masks, out, settings, images=images, on_mask=_show_progress if on_terminal else None
    )
    for note in (*named.notes, *found.notes):
        click.echo(printable(note), err=True)
    for one in found.failed:
        click.echo(printable(f"not measured: {one.file}: {one.why}"), err=True)
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo("\n".join(printable(line) for line in found.text.split("\n")))
        if found.num_masks:
            click.echo(printable(str(out.absolute())))
    raise SystemExit(1 if found.failed else 0)


def _show_progress(done: int, total: int) -> None:
    click.echo(f"\r{done:,} of {total:,} masks", err=True, nl=done == total)
