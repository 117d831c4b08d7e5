"""new, demo, check, inspect: projects and the files in them."""

import sys
from pathlib import Path

import click
import msgspec

from emcfsys_engine.errors import EmcfError, InputError, printable
from emcfsys_engine.tools.new_project import make_project


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", help="The project's name; the folder's, if left out.")
def new(folder: Path, name: str | None) -> None:
    """Make a project from FOLDER: finds images, masks or annotations, and proposes classes.

    Example: emcfsys-engine new my_micrographs
    """
    made = make_project(folder, name)
    for note in made.notes:
        click.echo(printable(note), err=True)
    click.echo(made.file)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True)
def demo(folder: Path, seed: int) -> None:
    """Make the demo project in FOLDER: synthetic micrographs with Labelme annotations.

    Example: emcfsys-engine demo demo && emcfsys-engine train demo/project.toml
    """
    from emcfsys_engine.tools.demo import make_demo

    written = make_demo(folder, seed=seed)
    click.echo(f"{len(written)} micrographs", err=True)
    click.echo(folder / "project.toml")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Recompute a model file's test vector.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(file: Path, verify: bool, as_json: bool) -> None:
    """Tell what FILE is: a model file, a micrograph or an annotation file.

    Example: emcfsys-engine inspect runs/run-0001/best.safetensors --verify
    """
    from emcfsys_engine.tools.inspect_file import inspect_file

    facts = inspect_file(file)
    verdict = None
    if verify:
        from emcfsys_engine.learn.model_file import verify_model

        verdict = verify_model(file)
    if as_json:
        document = msgspec.to_builtins(facts)
        click.echo(msgspec.json.encode({**document, "verified": verdict}).decode())
        return
    click.echo(facts.text)
    if verdict:
        click.echo(f"verified: {verdict}")


@click.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(project: Path, as_json: bool) -> None:
    """Name every fault of PROJECT's images and labels, with file and remedy.

    Example: emcfsys-engine check projects/demo
    """
    raise EmcfError("check is under construction")


__all__ = ["InputError", "check", "demo", "inspect", "new", "sys"]
