"""watch, review, journal, recipe: a hot folder, what people say of its masks, and by what rules."""

from pathlib import Path
from typing import Any

import click
import msgspec

from emcfsys_engine.commands.foreground import refuse_cluster, run_in_foreground
from emcfsys_engine.commands.saying import say, say_json, say_lines
from emcfsys_engine.errors import InputError, printable
from emcfsys_engine.hotfolder.judged import Judged, Word
from emcfsys_engine.hotfolder.ledger import Ledger, ledger_in
from emcfsys_engine.hotfolder.places import name_below, watched_places, watching_run
from emcfsys_engine.hotfolder.review import (
    ask_retry,
    groups_of,
    number_unjudged,
    number_unmeasured,
    read_verdicts,
    say_word,
    verify_journal,
)
from emcfsys_engine.hotfolder.status import status_of, text_of, watch_request, what_it_would_do
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.text import how_many
from emcfsys_engine.verdicts import STATES


@click.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option("--once", is_flag=True, help="Do what is there and still settling, then end.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and do nothing.")
@click.option("--status", is_flag=True, help="Say how the watch is doing.")
@click.option("--retry", is_flag=True, help="Let failed images be tried again.")
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    help="Do exactly what this locked recipe says, or refuse.",
)
@click.option("--json", "as_json", is_flag=True, help="With --status or --dry-run: as JSON.")
def watch(
    project: Path,
    overrides: tuple[str, ...],
    once: bool,
    dry_run: bool,
    status: bool,
    retry: bool,
    recipe: Path | None,
    as_json: bool,
) -> None:
    """Segment every image that arrives in PROJECT's hot folder, until Ctrl+C.

    Example: emcfsys-engine watch projects/demo --set hotfolder.watch=/mnt/microscope
    """
    if once + dry_run + status + retry > 1:
        raise click.UsageError("Name one of --once, --dry-run, --status and --retry")
    if recipe is not None and (status or retry or dry_run):
        raise click.UsageError("--recipe goes with a watch")
    if as_json and not (dry_run or status):
        raise click.UsageError("--json goes with --status or --dry-run")
    loaded = load_project(project, overrides)
    if status:
        found = status_of(loaded)
        say_json(found) if as_json else say_lines(text_of(found))
        return
    if retry:
        number = ask_retry(loaded.folder / loaded.hotfolder.output)
        say(f"{how_many(number, 'image')} will be tried again")
        return
    if dry_run:
        planned = what_it_would_do(loaded)
        say_json(planned) if as_json else say_lines("\n".join(map(printable, planned["lines"])))
        return
    refuse_cluster(loaded, "watch")
    run = make_watch(loaded, once=once, recipe=recipe)
    code = run_in_foreground(run)
    say(run.folder)
    raise SystemExit(code)


def make_watch(project: Project, *, once: bool = False, recipe: Path | None = None) -> Run:
    """Make the run of a watch.

    Raises: InputError for what `watch_request` refuses.
    """
    request = watch_request(project, once=once, recipe=recipe)
    return new_run(project.runs_folder, request, project=project, resume="auto")


_WORDS: dict[str, Word] = {"accept": "accepted", "reject": "rejected", "corrected": "corrected"}


@click.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.argument("act", type=click.Choice([*_WORDS, "judge"]), required=False)
@click.argument("images", nargs=-1, type=click.Path())
@click.option("--reason", default="", help="Why: kept in the journal; reject needs one.")
@click.option("--json", "as_json", is_flag=True, help="The list as JSON.")
def review(
    project: Path, act: str | None, images: tuple[str, ...], reason: str, as_json: bool
) -> None:
    """List the images of PROJECT's hot folder that did not pass, or say a word of IMAGES.

    accept, reject and corrected (after you changed a mask or its Labelme file) count more than the
    limits, until an image is predicted anew. judge: judge all by the limits of today.

    Example: emcfsys-engine review projects/demo reject grid1/a.tif --reason "drifted"
    """
    loaded = load_project(project)
    if act in _WORDS:
        if not images:
            raise click.UsageError(f"Name the images to {act}")
        if act == "reject" and not reason.strip():
            raise click.UsageError('Say why, as in --reason "drifted"')
        root, output = watched_places(loaded)
        names = [*dict.fromkeys(name_below(root, image) for image in images)]
        if act == "corrected":  # what reads masks is not needed before
            from emcfsys_engine.tools.corrections import refuse_what_is_no_mask

            refuse_what_is_no_mask(loaded, root, output, names)
        say_word(output, names, _WORDS[act], reason.strip())
        say(f"{_WORDS[act]}: {how_many(len(names), 'image')}")
        _say_of_numbers(output)
        return
    if images:
        raise click.UsageError("judge takes no images: it judges all of them")
    if act == "judge":
        say(_judge(loaded))
        return
    _list(loaded, as_json=as_json)


def _say_of_numbers(output: Path) -> None:
    """Say when the numbers of corrected masks follow, if they do not stand yet."""
    if waiting := number_unmeasured(output):
        when = "with its next turn" if watching_run(output) else "at its next start (--once, too)"
        images = how_many(waiting, "corrected image")
        say(f"numbers to follow: {images}; the watch measures them {when}")


def _judge(project: Project) -> str:
    output = project.folder / project.hotfolder.output
    if ledger_in(output) is None:
        raise InputError(output, "has no ledger: nothing was predicted yet", "Start the watch")
    ledger = Ledger(output, owner="review judge")
    if ledger.told:
        say(ledger.told, err=True)
    try:
        found = ledger.judge_by(project.limits)
        # Their files tell the limits of today: so must their verdicts.
        is_regrouped = ledger.regroup(project)
        ledger.write_journal()
        ledger.tell_groups(project, OutputBook(output))
    finally:
        ledger.close()
    if found is None:
        by = "These groups are judged" if is_regrouped else "All is judged already"
        return f"{by} by the limits of today"
    return f"{found.words}, by their numbers"


def _list(project: Project, *, as_json: bool) -> None:
    root, output = watched_places(project)
    counts, found = read_verdicts(output)
    unjudged = number_unjudged(output) if project.limits else 0
    if as_json:
        images = [_as_json(one, root, output) for one in found]
        told = {state: counts.get(state, 0) for state in STATES}
        groups = [msgspec.to_builtins(group) for group in groups_of(output)]
        say_json(
            {
                "counts": told,
                "not_judged": unjudged,
                "numbers_to_follow": number_unmeasured(output),
                "images": images,
                "groups": groups,
            }
        )
        return
    say("  ".join(f"{state.upper()} {counts.get(state, 0)}" for state in STATES))
    if unjudged:
        why = "predicted before numbers were kept, or their masks were there before the watch"
        say(f"not judged: {unjudged}  ({why})")
    _say_of_numbers(output)
    for group in groups_of(output):
        if group.state in ("review", "fail"):
            say(f"{group.state.upper():<6}  group {group.name}  {'; '.join(group.reasons)}")
    for one in found:
        why = f"{one.word}: {one.word_reason}" if one.word else "; ".join(one.reasons)
        gone = "" if (root / one.path).exists() else "  (its original is gone)"
        say(f"{one.verdict.upper():<6}  {one.path}{gone}  {why}")


def _as_json(one: Judged, root: Path, output: Path) -> dict[str, Any]:
    return {
        "image": str(root / one.path),
        "mask": str(output / one.mask),
        "verdict": one.verdict,
        "by_limits": one.state,
        "reasons": one.reasons,
        "word": one.word,
        "word_reason": one.word_reason,
        "numbers": one.numbers,
        "original_is_there": (root / one.path).exists(),
    }


@click.command()
@click.argument("act", type=click.Choice(["verify"]))
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="What was found, as JSON.")
def journal(act: str, project: Path, as_json: bool) -> None:
    """Check PROJECT's journal: the whole chain, or the first line that was changed (exit code 1).

    Example: emcfsys-engine journal verify projects/demo
    """
    loaded = load_project(project)
    output = loaded.folder / loaded.hotfolder.output
    found = verify_journal(output)
    if as_json:
        say_json(found)
    elif found.fault:
        sound = how_many(found.lines, "line is sound", "lines are sound")
        say(f"{found.fault}. {sound}, head {found.head or 'none'}")
    else:
        torn = f"; a torn last line of {found.torn_bytes} bytes" if found.torn_bytes else ""
        say(f"whole: {how_many(found.lines, 'line')}{torn}, head {found.head or 'none'}")
    if found.fault:
        raise SystemExit(1)


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
