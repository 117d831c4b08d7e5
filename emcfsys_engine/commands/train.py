"""train and plan: a project becomes a model, or one a fold; and what that would be."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from emcfsys_engine.commands.foreground import refuse_cluster, run_in_foreground
from emcfsys_engine.commands.saying import say, say_json, say_lines
from emcfsys_engine.errors import EmcfError, printable
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import (
    extend,
    give_up_extension,
    new_trainings,
    refuse_unless_extendable,
    refuse_without_checkpoint,
    runs_at,
)
from emcfsys_engine.run.progress import Kind

if TYPE_CHECKING:  # a training reads its images in the worker: its command starts without them
    from emcfsys_engine.learn.evaluate import Evaluation
    from emcfsys_engine.tools.check_data import Finding
    from emcfsys_engine.tools.forecast import Planned


@click.command()
@click.argument("project", required=False, type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with a run's folder, or with the unfinished folds of runs/GROUP.",
)
@click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Go on from a model file, or a run's best: its whole network, classes by name.",
)
@click.option(
    "--follow",
    is_flag=True,
    help="Let labels that are drawn meanwhile join: training.follow=true.",
)
def train(
    project: Path | None,
    overrides: tuple[str, ...],
    resume: Path | None,
    start: Path | None,
    follow: bool,
) -> None:
    """Train as PROJECT (a project.toml or its folder) says; print the run's folder.

    With training.kfold the folds train one after the other, each in a run of its own.

    Example: emcfsys-engine train projects/demo/project.toml --set training.minutes=5
    """
    if (project is None) == (resume is None):
        raise click.UsageError("Name a project, or a run with --resume RUN")
    if resume is not None and (follow or start is not None):
        raise click.UsageError(
            "A run that is resumed goes on as it began: without --from, --follow"
        )
    if resume is not None:
        _resume(resume, overrides)
        return
    assert project is not None
    follows = ("training.follow=true",) if follow else ()
    loaded = load_project(project, (*_start_of(start), *overrides, *follows))
    refuse_cluster(loaded, "train")
    runs = new_trainings(loaded)
    code = _train_all(runs)
    if code == 0 and loaded.model.start and len(runs) == 1:
        _say_old_score(loaded.folder / Path(loaded.model.start).expanduser(), runs[0].best_model)
    raise SystemExit(code)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option("--labels", help="Folder or file of their masks or annotations; beside them if not.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="New folder for the project of the adaptation; beside MODEL if not.",
)
@click.option(
    "--minutes", type=click.FloatRange(min=0.05), default=0.5, show_default=True, help="To train."
)
def adapt(
    model: Path, images: tuple[str, ...], labels: str | None, out: Path | None, minutes: float
) -> None:
    """Adapt MODEL, a model file or a run's folder, to IMAGES that a person labelled or corrected.

    One to four images of the changed microscope or specimen are enough. Of each a quarter is kept
    aside: on it the old and the new model are compared.

    Example: emcfsys-engine adapt best.safetensors new/a.tif new/b.tif
    """
    from emcfsys_engine.tools.adapt import make_adaptation

    file = _model_file(model)
    place = out or file.with_name(f"{file.stem}-adapted")
    project = make_adaptation(file, images, place, labels=labels, minutes=minutes)
    runs = new_trainings(project)
    if code := run_in_foreground(runs[0]):
        raise SystemExit(code)
    new = runs[0].best_model
    before, after = (_score_of(one, project) for one in (file, new))
    say(f"mean IoU on the quarters kept aside, before -> now: {before} -> {after}", err=True)
    _say_old_score(file, new)
    say(new)


def _start_of(place: Path | None) -> tuple[str, ...]:
    """Return the settings of a training that begins with a model file, or with a run's best."""
    if place is None:
        return ()
    file = _model_file(place)
    network = read_card(file).network
    return (
        f"model.start={file.absolute()}",
        f"model.head={network.head}",
        f"model.backbone={network.backbone}",
    )


def _model_file(place: Path) -> Path:
    """Return a model file, or the best one of a run's folder."""
    return Run(place).best_model if place.is_dir() else place


def _say_old_score(start: Path, new: Path) -> None:
    """Say what was forgotten: both models' scores on the validation images of the start's own run.

    Both are of the labels as they are now: the score that the start was saved with may be of
    others.
    """
    from emcfsys_engine.dataset.deals import renumbered
    from emcfsys_engine.learn.evaluate import evaluate_images
    from emcfsys_engine.learn.evaluate_deal import images_of_project

    old = Run(start.parent)
    if not new.is_file() or not old.record_file.is_file():
        return
    try:
        project, cards = old.record().project, [read_card(start), read_card(new)]
        if project is None or len({(one.classes, one.class_values) for one in cards}) > 1:
            return
        if told := renumbered(project):
            say(f"no score on the validation images of {old.id}: {told}", err=True)
            return
        images = images_of_project([start], project, "val")
        found = [evaluate_images((one,), images, tta=False, overlap=0.25) for one in (start, new)]
    except (EmcfError, OSError):  # its images are gone, or its classes are others
        return
    before, after = map(_three, found)
    words = f"{before} -> {after}"
    if known := found[1].trained_on:
        words += f" (the new one was trained on {len(known)} of the {found[1].images})"
    say(f"mean IoU on the validation images of {old.id}, before -> now: {words}", err=True)


def _score_of(model: Path, project: Project) -> str:
    from emcfsys_engine.learn.evaluate import evaluate_project

    return _three(
        evaluate_project(model, project, "val", tta=False, overlap=0.25, as_dealt_now=True)
    )


def _three(found: "Evaluation") -> str:
    return "none" if found.scores.mean_iou is None else f"{found.scores.mean_iou:.3f}"


@click.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(project: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say what training PROJECT would do here: each value with its reason, the time, the faults.

    The time is that of finished runs of the same network, patches and device, where there are some.

    Example: emcfsys-engine plan projects/demo --set training.preset=best
    """
    from emcfsys_engine.tools.check import check_project
    from emcfsys_engine.tools.forecast import forecast_of

    loaded = load_project(project, overrides)
    found = forecast_of(loaded, check_project(loaded, dry_run=_network_faults), planned=_planned)
    say_json(found) if as_json else say_lines(found.text)
    raise SystemExit(2 if found.errors else 0)


def _network_faults(project: Project) -> "list[Finding]":
    from emcfsys_engine.learn.training.run import network_faults
    from emcfsys_engine.tools.check_data import Finding

    return [Finding.of(fault) for fault in network_faults(project)]


def _planned(project: Project) -> "Planned":
    from emcfsys_engine.learn.training.plan import rows_of
    from emcfsys_engine.learn.training.run import planned_here

    made = planned_here(project)
    kind = msgspec.convert(msgspec.to_builtins(made), Kind)
    return rows_of(made), kind, made.total_steps, made.minutes


def _train_all(runs: Sequence[Run], group: Sequence[Run] = ()) -> int:
    """Train one run after the other, of a group or all; the first that fails ends it all."""
    code = 0
    for run in runs:
        record = run.record()
        if record.fold and record.project is not None:
            folds = record.project.training.kfold
            say(f"{run.id}: fold {record.fold} of {folds} of {record.group}", err=True)
        code = run_in_foreground(run)
        say(run.folder)
        if code:
            break
    if len(group or runs) > 1 and code == 0:
        say_lines(_folds_summary(group or runs), err=True)
    return code


def _folds_summary(runs: Sequence[Run]) -> str:
    """Return the mean of the folds' best scores, how far they spread, and which folds are gone."""
    endings = [run.finished() for run in runs]
    scores = [ending.score for ending in endings if ending and ending.score is not None]
    record = runs[0].record()
    number = record.project.training.kfold if record.project is not None else len(runs)
    place = printable(str(runs[0].folder.parent / record.group))
    text = f"{len(runs)} folds"
    if len(scores) > 1:
        mean, spread = statistics.mean(scores), statistics.stdev(scores)
        how = f"best score {mean:.3f} ± {spread:.3f} (mean ± standard deviation)"
        text = f"{len(scores)} folds: {how}"
    if len(runs) < number:
        return f"{text}\n{place} has {len(runs)} of its {number} folds: the others are gone"
    return f"{text}\ntogether they are one model: {place}"


def _resume(place: Path, overrides: tuple[str, ...]) -> None:
    from emcfsys_engine.dataset.samples import refuse_unresumable

    runs = runs_at(place)
    waiting = [run for run in runs if overrides or run.state() != "done"]
    for run in runs:
        refuse_unless_extendable(run)
    for run in waiting:
        refuse_without_checkpoint(run)
        refuse_unresumable(run)
    extended: list[Run] = []
    try:
        for run in runs if overrides else ():
            if why := run.distrusted():  # what we write of it below is our own
                words = "it runs with this interpreter and your own variables"
                say(f"{run.id}: {why}: {words}", err=True)
            if extend(run, overrides).budget_before is None:  # else somebody asked for it before
                extended.append(run)
        if waiting:
            raise SystemExit(_train_all(waiting, runs))
    finally:  # none is left of what was not begun: refused, cancelled, or without a free GPU
        for run in extended:
            give_up_extension(run)
    say(runs[-1].folder)
    if len(runs) > 1:
        say_lines(_folds_summary(runs), err=True)
