"""recipe: lock what a hot folder does in one file that is never changed, and show such a file."""

from pathlib import Path

import click
import msgspec

from emcfsys_engine.commands.saying import say, say_json
from emcfsys_engine.project import load_project


@click.group()
def recipe() -> None:
    """Lock what a hot folder does in one file, for `watch --recipe FILE`.

    Example: emcfsys-engine recipe lock projects/demo
    """


@recipe.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option("--out", type=click.Path(path_type=Path), help="The file; else PROJECT/recipes/….")
def lock(project: Path, overrides: tuple[str, ...], out: Path | None) -> None:
    """Write model digest, classes, inference, measurement and limits of PROJECT into one file.

    Example: emcfsys-engine recipe lock projects/demo --out demo-2026.json
    """
    from emcfsys_engine.hotfolder.recipe import lock_recipe
    from emcfsys_engine.hotfolder.status import resolve_model

    loaded = load_project(project, overrides)
    model = resolve_model(loaded, loaded.hotfolder.model)
    file = out or _free_name(loaded.folder / "recipes")
    made = lock_recipe(loaded, model, file)
    say(file)
    say(f"recipe {made.id}", err=True)


def _free_name(folder: Path) -> Path:
    number = 1
    while (file := folder / f"recipe-{number:04d}.json").exists():
        number += 1
    return file


@recipe.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The recipe as JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show a recipe, and check that it is as it was locked.

    Example: emcfsys-engine recipe show demo-2026.json
    """
    from emcfsys_engine.hotfolder.recipe import read_recipe

    made = read_recipe(file)
    if as_json:
        say_json({"id": made.id, **msgspec.to_builtins(made)})
        return
    say(f"recipe {made.id} of {made.project}, locked {made.locked} by {made.user} on {made.host}")
    say(f"model  {made.model}  SHA-256 {made.model_digest}")
    for key, value in made.settings().items():
        say(f"{key}  {value}")
    for name, version in made.versions.items():
        say(f"{name}  {version}")
