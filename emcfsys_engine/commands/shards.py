"""What commands that deal their work to tasks have in common: --shards, options, a forecast."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from emcfsys_engine.commands.saying import say_json, say_lines
from emcfsys_engine.errors import InputError
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import Request
from emcfsys_engine.run.shards import MOST, SHARDS_A_TASK, unfinished
from emcfsys_engine.shards.forecast import ShardForecast

Option = Callable[[Callable[..., None]], Callable[..., None]]

WITH_OPTION = click.option(
    "--with",
    "also",
    multiple=True,
    type=click.Path(path_type=Path),
    help="One more model file; the mean of all is used. Repeatable.",
)


def with_options(command: Callable[..., None], options: Sequence[Option]) -> Callable[..., None]:
    """Give a command options, in the order in which its help shows them."""
    for option in reversed(options):
        command = option(command)
    return command


def tell_forecast(found: ShardForecast, *, as_json: bool) -> None:
    """Say what a run in shards will take."""
    if as_json:
        say_json(msgspec.to_builtins(found))
    else:
        say_lines("\n".join(found.lines))


def shards_option(what: str) -> Option:
    """Give a command the option that deals so-called items to tasks."""
    return click.option(
        "--shards",
        metavar="N[%M]|auto",
        help=f"Deal the {what} to N tasks, M at a time, that go on by themselves after any end;"
        " `submit --slurm` makes them one array. See `manual cluster`.",
    )


def shards_of(text: str | None, tasks: int) -> dict[str, int | None]:
    """Return how many shards, and how many at a time; eight a task let a slow one be overtaken.

    `tasks`: that this machine would run at a time. Without a text there are none.
    Raises: InputError for another text.
    """
    if text is None:
        return {}
    if text == "auto":
        return {"shards": SHARDS_A_TASK * max(1, tasks)}
    number, _, limit = text.partition("%")
    if not number.isdecimal() or not 1 <= int(number) <= MOST or not (limit or "1").isdecimal():
        what = f"{text!r} is no number of tasks from 1 to {MOST:,}"
        raise InputError("--shards", what, "Use 64, 64%8 (eight at a time) or auto")
    if "%" in text and not int(limit or 0):
        raise InputError("--shards", f"{text!r} lets no task run", "Use 64%8: eight at a time")
    return {"shards": int(number), "shards_at_once": int(limit) if limit else None}


def run_in_shards(request: Request, out: Path) -> Run:
    """Return the run that was asked for the same and is not at its end, or make one.

    Raises: InputError while a run in shards is under way in that folder.
    """
    parent = out.absolute() / ".emcfsys"
    begun = unfinished(parent, request)
    if begun is not None and _is_outdated(begun):
        what = "was asked for the same, and has files that changed or lacks new ones: begun anew"
        say_lines(f"{begun.id} {what}", err=True)
    elif begun is not None:
        say_lines(f"{begun.id} was asked for the same, and is not at its end: it goes on", err=True)
        return begun
    return new_run(parent, request)


def _is_outdated(begun: Run) -> bool:
    from emcfsys_engine.shards.work import work_of

    work = work_of(begun)
    header = work.shards.header()
    return header is not None and work.is_outdated(header)


def absolute(place: str) -> str:
    """Return a file, folder or glob as a run has it, which stands elsewhere."""
    return str(Path(place).expanduser().absolute())


def refuse_gpus(options: dict[str, Any], command: str) -> None:
    """Raises: InputError where a GPU is asked for a command that has no use for it."""
    if options.get("gpus"):
        raise InputError("--gpus", f"{command} computes on processors", "Leave it out")
    options["gpus"] = 0.0
