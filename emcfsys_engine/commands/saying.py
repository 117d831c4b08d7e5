"""The one way in which a command speaks: no file's text reaches a terminal raw."""

import contextlib
import json
from typing import Any

import click

from emcfsys_engine import any_names
from emcfsys_engine.errors import printable


def say(text: object, *, err: bool = False, nl: bool = True, lead: str = "") -> None:
    """Print one line of answer on stdout or, with `err`, of the story on stderr.

    `lead`: our own control sequence before it.
    The story is told if it can be: a full disk or a closed pipe behind stderr ends no work.
    """
    with contextlib.suppress(OSError) if err else contextlib.nullcontext():
        click.echo(lead + printable(str(text)), nl=nl, err=err)


def say_lines(text: str, *, err: bool = False, lead: str = "") -> None:
    """Print a text of several lines: a table, a summary."""
    for number, line in enumerate(text.split("\n")):
        say(line, err=err, lead="" if number else lead)


def say_json(document: Any) -> None:
    """Print a document as JSON on stdout, in letters that no terminal takes for a command."""
    content = any_names.encode(document).decode()
    if printable(content) != content:
        content = json.dumps(json.loads(content))
    click.echo(content)
