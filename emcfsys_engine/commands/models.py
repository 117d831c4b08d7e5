"""models and export: which backbones there are, and a model handed to other programs."""

import json
from dataclasses import asdict
from pathlib import Path

import click
import msgspec

from emcfsys_engine.commands.saying import say, say_json, say_lines
from emcfsys_engine.errors import InputError
from emcfsys_engine.files import remedy_of, try_to_write
from emcfsys_engine.learn.export import (
    ExportMetadata,
    ExportReport,
    export_onnx,
    export_torchscript,
)
from emcfsys_engine.learn.export_bioimageio import export_bioimageio
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.networks.models_list import list_models, names_like
from emcfsys_engine.model_card import NormaliserSettings

_SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "bioimageio": ".zip"}


@click.command()
@click.argument("pattern", default="")
@click.option("--names", is_flag=True, help="Only the names, of all where no PATTERN is given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(pattern: str, names: bool, as_json: bool) -> None:
    """List backbones whose name holds PATTERN (or matches its * and ?); all recommended without.

    Example: emcfsys-engine models 'convnext*tiny*'
    """
    if names:
        found = names_like(pattern or "*")
        say_json({"names": found}) if as_json else say_lines("\n".join(found))
        return
    rows = list_models(pattern)
    if as_json:
        say_json({"models": [asdict(row) for row in rows]})
        return
    heading = (
        f"{'backbone':<36} {'M param':>8}  {'strides':<13} {'weights':<12} {'licence':<13} use"
    )
    say(heading)
    for row in rows:
        here = row.weights_here or ("to download" if row.weights_exist else "none")
        count = f"{row.parameters / 1e6:.1f}"
        strides = " ".join(str(stride) for stride in row.strides)
        text = f"{row.name:<36} {count:>8}  {strides:<13} {here:<12} {row.licence:<13}"
        say(f"{text} {row.recommendation or ''}".rstrip())


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    required=True,
    type=click.Choice(["onnx", "torchscript", "bioimageio"]),
    help="What to write.",
)
@click.option("--out", type=click.Path(path_type=Path), help="File to write; beside MODEL if not.")
@click.option("--name", help="What the model is called.")
@click.option("--author", "authors", multiple=True, help="Who made it.")
@click.option("--licence", default="CC-BY-4.0", show_default=True, help="Of the weights (SPDX).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    model: Path,
    kind: str,
    out: Path | None,
    name: str | None,
    authors: tuple[str, ...],
    licence: str,
    as_json: bool,
) -> None:
    """Write MODEL as ONNX, TorchScript or a bioimage.io package, and compare the outputs.

    Example: emcfsys-engine export best.safetensors --format onnx
    """
    file = out or model.with_suffix(_SUFFIXES[kind])
    if file.exists():
        raise InputError(file, "is there already", "Name another with --out, or remove it")
    try:  # before minutes of work
        file.parent.mkdir(parents=True, exist_ok=True)
        try_to_write(file.parent)
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise InputError(file, what, remedy_of(error, "Name another with --out")) from None
    network, card = load_model(model)
    if card.normaliser != NormaliserSettings():  # of no training of ours, and not what we write
        what = "normalises otherwise than an export could tell"
        raise InputError(model, what, "Train it anew, or use it here")
    metadata = ExportMetadata(
        name=name or card.project or model.stem,
        class_names=card.classes,
        authors=authors or ("unknown",),
        licence=licence,
        pixel_nm=card.pixel_nm,
        class_values=card.class_values,
        objects=msgspec.structs.asdict(card.objects) if card.instances else {},
    )
    exporters = {
        "onnx": export_onnx,
        "torchscript": export_torchscript,
        "bioimageio": export_bioimageio,
    }
    try:
        report: ExportReport = exporters[kind](network, file, metadata)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise InputError(file, what, remedy_of(error)) from None
    if as_json:
        say_json(json.loads(json.dumps(asdict(report), default=str)))
        return
    size = "any size" if report.any_size else f"only {report.size_px[0]} × {report.size_px[1]}"
    say(f"largest difference {report.max_difference:.2g}, reads {size}", err=True)
    say(report.file)
