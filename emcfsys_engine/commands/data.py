"""new, demo, check, inspect: projects and the files in them."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
import msgspec

from emcfsys_engine.annotations.layouts import what_pairs
from emcfsys_engine.commands.saying import say, say_json, say_lines
from emcfsys_engine.errors import InputError, ProjectFaults
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.text import how_many
from emcfsys_engine.tools.check import check_project
from emcfsys_engine.tools.check_data import Finding
from emcfsys_engine.tools.contact_sheet import contact_sheet
from emcfsys_engine.tools.demo import Manner, make_demo, play_microscope
from emcfsys_engine.tools.new_project import FolderLook, look_into, make_project

if TYPE_CHECKING:
    import numpy as np


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", help="The project's name; the folder's, if left out.")
@click.option(
    "--merge",
    "merges",
    multiple=True,
    metavar="LABEL=CLASS",
    help="Shapes called LABEL are of CLASS. Repeatable.",
)
@click.option(
    "--classes",
    metavar="NAME,NAME…",
    help="Where nothing is labelled yet: the classes, first the one that nobody draws.",
)
@click.option("--look", is_flag=True, help="Only tell what is found; nothing is written.")
@click.option("--json", "as_json", is_flag=True, help="With --look: print JSON.")
def new(
    folder: Path,
    name: str | None,
    merges: tuple[str, ...],
    classes: str | None,
    look: bool,
    as_json: bool,
) -> None:
    """Make a project from FOLDER: finds images, masks or annotations, and proposes classes.

    Example: emcfsys-engine new my_micrographs --merge mitochondria=mitochondrion
    """
    merge = dict(_merging(one) for one in merges)
    names = () if classes is None else tuple(one.strip() for one in classes.split(","))
    if look:
        found = look_into(folder, merge, names)
        say_json(msgspec.to_builtins(found)) if as_json else say_lines(_look_words(found))
        return
    made = make_project(folder, name, merge, names)
    for note in made.notes:
        say(note, err=True)
    say(made.file)


def _merging(merge: str) -> tuple[str, str]:
    label, equals, name = (part.strip() for part in merge.partition("="))
    if not equals or not label or not name or label == name:
        raise InputError(
            "--merge", f"{merge!r} is no LABEL=CLASS", "Write mitochondria=mitochondrion"
        )
    return label, name


def _look_words(found: FolderLook) -> str:
    labelled = f"{found.num_labelled} with {found.kind} in {found.labels}"
    lines = [
        f"{how_many(found.num_images, 'image')} in {found.images}, {labelled}",
        f"{'class':<24} {'value':>5} {'shapes':>7} {'images':>7}",
        *(
            f"{one.name:<24} {one.value:>5} {one.shapes or '–':>7} {one.images:>7}"
            for one in found.classes
        ),
        *(f"cannot be used: {one.file}: {one.what}. {one.remedy}" for one in found.unreadable),
        *found.notes,
    ]
    return "\n".join(lines)


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--microscope", type=click.Path(path_type=Path), help="Write micrographs here.")
@click.option(
    "--manner",
    type=click.Choice(["whole", "slow", "rename", "burst", "mixed"]),
    default="mixed",
    help="How files arrive.",
)
@click.option("--every", type=click.FloatRange(min=0), default=2.0, help="Seconds between images.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many images.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Of the pictures."
)
def demo(
    folder: Path | None,
    microscope: Path | None,
    manner: str,
    every: float,
    count: int | None,
    seed: int,
) -> None:
    """Make the demo project in FOLDER; or, with --microscope, write micrographs into a folder.

    Example: emcfsys-engine demo --microscope projects/demo/incoming --every 5
    """
    if (folder is None) == (microscope is None):
        raise click.UsageError("Name a folder for the project, or --microscope DIR")
    if microscope is not None:
        made = play_microscope(
            microscope, manner=cast("Manner", manner), every_s=every, count=count, seed=seed
        )
        for file in made:
            say(file)
        return
    assert folder is not None
    written = make_demo(folder, seed=seed)
    say(f"{len(written)} micrographs", err=True)
    say(folder / "project.toml")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="A model file: recompute digests and test vector.")
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
        say_json({**document, "verified": verdict})
        return
    say_lines(facts.text)
    if verdict:
        say(f"verified: {verdict}")


@click.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option(
    "--dry-run/--no-dry-run",
    default=True,
    help="Read every image and do one training and validation step, too.",
)
@click.option("--quick", is_flag=True, help="Instead, only build the network with its weights.")
@click.option("--preview", type=click.Path(path_type=Path), help="Draw a contact sheet (PNG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    project: Path,
    overrides: tuple[str, ...],
    dry_run: bool,
    quick: bool,
    preview: Path | None,
    as_json: bool,
) -> None:
    """Name every fault of PROJECT's images, labels and network, with file and remedy.

    What passes reaches the first step of its training; --no-dry-run and --quick look at less.

    Example: emcfsys-engine check projects/demo --preview look.png
    """
    loaded = _loaded(project, overrides)
    report = check_project(loaded, dry_run=(_network if quick else _dry_run) if dry_run else None)
    say_json(report) if as_json else say_lines(report.text)
    if preview is not None:
        contact_sheet(loaded, preview, patches=_patches(loaded) if not report.errors else ())
        say(f"drawn: {preview}", err=True)
    raise SystemExit(2 if report.errors else 0)


def _loaded(project: Path, overrides: tuple[str, ...]) -> Project:
    """Return the project; where a folder that it names is not there, say what is and would pair."""
    try:
        return load_project(project, overrides)
    except ProjectFaults as found:
        away = [one for one in found.faults if one.what.endswith("does not exist")]
        if not away:
            raise
        folder = Path(str(away[0].where).partition(": ")[0]).parent
        remedy = what_pairs(folder)
        mended = [
            InputError(one.where, one.what, remedy) if one in away else one for one in found.faults
        ]
        raise ProjectFaults(mended) from None


def _dry_run(project: Project) -> list[Finding]:
    from emcfsys_engine.learn.training.run import dry_run

    return [Finding.of(fault) for fault in dry_run(project)]


def _network(project: Project) -> list[Finding]:
    from emcfsys_engine.learn.training.run import network_faults

    return [Finding.of(fault) for fault in network_faults(project)]


def _patches(project: Project) -> list[tuple["np.ndarray", "np.ndarray"]]:
    from emcfsys_engine.learn.training.run import augmented_patches

    return augmented_patches(project, 8)
