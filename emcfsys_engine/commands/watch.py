"""watch: every image that arrives in a project's hot folder gets its mask."""

from pathlib import Path

import click

from emcfsys_engine.commands.foreground import refuse_cluster, run_in_foreground
from emcfsys_engine.commands.saying import say, say_json, say_lines
from emcfsys_engine.errors import printable
from emcfsys_engine.hotfolder.review import ask_retry
from emcfsys_engine.hotfolder.status import status_of, text_of, watch_request, what_it_would_do
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.text import how_many


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
