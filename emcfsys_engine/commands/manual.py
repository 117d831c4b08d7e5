"""manual, schema: the pages that travel with the program, and project.toml for editors."""

import json
import sys

import click

from emcfsys_engine import manual as pages
from emcfsys_engine.commands.saying import say_lines
from emcfsys_engine.project_tables import json_schema


@click.command()
@click.argument("topic", default="overview")
def manual(topic: str) -> None:
    """Show a page of the manual; without TOPIC the overview, which names the pages.

    Example: emcfsys-engine manual project
    """
    text = pages.page(topic)
    if sys.stdout.isatty():
        click.echo_via_pager(text)
    else:
        say_lines(text)


@click.command()
def schema() -> None:
    """Print the JSON Schema of project.toml: editors complete and check its keys with it.

    Example: emcfsys-engine schema > project.schema.json
    """
    say_lines(json.dumps(json_schema(), indent=2, ensure_ascii=False))
