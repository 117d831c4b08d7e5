"""runs: what a project has trained so far; compare two of them; clean up."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from emcfsys_engine.commands.saying import say, say_json, say_lines
from emcfsys_engine.errors import InputError
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import RunStarted, ValidationDone
from emcfsys_engine.run.folder import Run, list_runs, open_run
from emcfsys_engine.run.outcome import best_of
from emcfsys_engine.run.progress import words_of_progress
from emcfsys_engine.run.records import validated_on
from emcfsys_engine.text import flattened


@click.command()
@click.argument("place", type=click.Path(path_type=Path), default=".")
@click.option(
    "--what",
    default="checkpoints,previews,temporary",
    show_default=True,
    help="Of checkpoints, previews, temporary, companions (overlays, probabilities).",
)
@click.option("--older-than", type=click.FloatRange(min=0), help="Only runs ended DAYS ago.")
@click.option("--keep", type=click.IntRange(min=0), default=0, help="Leave the newest N runs.")
@click.option("--yes", is_flag=True, help="Remove it; without, only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def clean(
    place: Path, what: str, older_than: float | None, keep: int, yes: bool, as_json: bool
) -> None:
    """Say what the runs of PLACE (a project or predictions) could give back; --yes removes it.

    Models, masks, settings and events stay, and so does every run that lives, waits or can be
    resumed. A run without its checkpoint can no longer be extended.

    Example: emcfsys-engine runs clean projects/demo --older-than 30 --yes
    """
    from emcfsys_engine.jobs.run_users import RunUsers
    from emcfsys_engine.tools.clean_runs import clean_runs, parse_what

    users = RunUsers([place.parent if place.is_file() else place])

    def why_needed(run: Run, files: Sequence[Path]) -> str:
        use = users.of(run, files)
        return f"it {use.why}" if use else ""

    found = clean_runs(
        place,
        what=parse_what(what),
        older_than_days=older_than,
        keep=keep,
        remove=yes,
        why_needed=why_needed,
    )
    if as_json:
        document = msgspec.to_builtins(found)
        say_json({**document, "num_bytes": found.num_bytes})
    else:
        say_lines(found.text)
    raise SystemExit(1 if found.failed else 0)


@click.command()
@click.argument("run", metavar="RUN|PROJECT", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page; else RUN/report.html.")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"]),
    help="With PROJECT: leave out images whose files are older.",
)
@click.option(
    "--numbers",
    type=click.Path(path_type=Path),
    help="A folder that measure wrote: its size distributions and grain maps join the page.",
)
@click.option(
    "--pdf",
    type=click.Path(path_type=Path),
    help="The page as PDF, too; needs Chromium, Chrome, Edge or Brave on this machine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(
    run: Path,
    out: Path | None,
    since: datetime | None,
    numbers: Path | None,
    pdf: Path | None,
    as_json: bool,
) -> None:
    """Write RUN (a run's folder) as one HTML page that needs no network: curves, classes, settings.

    Of a PROJECT it is the session of its hot folder: verdicts, trends, recipe, journal.

    Example: emcfsys-engine report projects/demo/runs/run-0001 --out demo.html
    """
    from emcfsys_engine.tools.report.page import write_report
    from emcfsys_engine.tools.report.pdf import find_browser, save_pdf

    if pdf is not None:
        find_browser()  # or nothing is written
    told: dict[str, str] = {}
    if run.name == "project.toml" or (run / "project.toml").is_file():
        from emcfsys_engine.tools.report.session import write_session

        if numbers is not None:
            raise click.UsageError("--numbers goes with a run")
        project = load_project(run)
        folder = project.folder / project.hotfolder.output
        file = write_session(project, out, since.timestamp() if since else 0.0)
    else:
        if since is not None:
            raise click.UsageError("--since goes with a project")
        opened = open_run(run)
        folder, told["run"] = opened.folder, opened.id
        file = write_report(opened, out, numbers)
    files = {"page": file}
    if pdf is not None:
        save_pdf(file, pdf, folder)
        files["pdf"] = pdf
    if as_json:
        say_json(told | {name: str(one.absolute()) for name, one in files.items()})
        return
    for one in files.values():
        say(one)


class _ListsByDefault(click.Group):
    """`runs PROJECT` is `runs list PROJECT`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put "list" in front where no sub-command is named."""
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListsByDefault)
def runs() -> None:
    """List a project's runs, compare some, or clean up behind them.

    Example: emcfsys-engine runs projects/demo
    """


@runs.command("list")
@click.argument("project", type=click.Path(path_type=Path), default=".")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(project: Path, as_json: bool) -> None:
    """List PROJECT's runs with their state and best score.

    Example: emcfsys-engine runs list projects/demo
    """
    found = [_row_or_fault(run) for run in list_runs(load_project(project).folder)]
    if as_json:
        say_json({"runs": found})
        return
    if not found:
        say("no runs yet", err=True)
    for row in found:
        score = "–" if row["score"] is None else f"{row['score']:.3f}"
        fold = f" {row['group']} fold {row['fold']}" if row["fold"] else ""
        text = f"{row['run']:<10} {row['does']:<8} {row['state']:<12} {score:>6}{fold}"
        text += f" {row['reason']}"
        say(text.rstrip())


@runs.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(folders: tuple[Path, ...], as_json: bool) -> None:
    """Show the scores of runs and the settings in which they differ.

    Example: emcfsys-engine runs compare projects/demo/runs/run-0001 projects/demo/runs/run-0002
    """
    found = [open_run(folder) for folder in folders]
    settings = [flattened(msgspec.to_builtins(run.record().project)) for run in found]
    keys = [
        key
        for key in dict.fromkeys(name for one in settings for name in one)
        if len({repr(one.get(key)) for one in settings}) > 1
    ]
    rows = [_row(run) for run in found]
    if as_json:
        differing = {key: [one.get(key) for one in settings] for key in keys}
        say_json({"runs": rows, "settings": differing})
        return
    table = [["", *(run.id for run in found)]]
    table += [[name, *(_text(row[name]) for row in rows)] for name in ("state", "score", "step")]
    table += [[key, *(_text(one.get(key)) for one in settings)] for key in keys]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())
    scored = [validated_on(run.plan_file) for run in found]
    if any(one != other for one in scored for other in scored if one and other):
        say("note: they validated on different images: no score beats another", err=True)


runs.add_command(clean)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _row_or_fault(run: Run) -> dict[str, Any]:
    """Return a run's row; one that cannot be read is a row, too, and hides no other."""
    try:
        return _row(run)
    except (InputError, OSError) as error:
        row: dict[str, Any] = {"run": run.id, "group": "", "fold": 0, "folder": str(run.folder)}
        told = {"does": "", "state": "unreadable", "reason": str(error)}
        return {**row, **told, "score": None, "step": None}


def _row(run: Run) -> dict[str, Any]:
    events = run.events()
    validations = [event for event in events if isinstance(event, ValidationDone)]
    best = best_of(events)
    started = next((event for event in events if isinstance(event, RunStarted)), None)
    state, reason = ("running", words_of_progress(run)) if run.is_alive() else run.outcome()
    record = run.record_if_open()
    return {
        "run": run.id,
        "group": record.group if record is not None else "",
        "fold": record.fold if record is not None else 0,
        "folder": str(run.folder),
        "does": started.does if started else "",
        "state": state,
        "reason": reason,
        "score": best.score if best is not None else None,
        "step": validations[-1].step if validations else None,
    }
