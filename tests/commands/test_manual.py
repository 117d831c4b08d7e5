"""The manual travels with the program, and editors get its keys."""

import json

from click.testing import CliRunner

from emcfsys_engine.commands.manual import manual, schema
from tests.commands.made import say


def test_the_overview_names_pages_that_open() -> None:
    overview = say(manual)
    assert "project" in overview
    assert say(manual, "project").startswith("#")


def test_an_unknown_page_is_answered_with_the_nearest() -> None:
    told = CliRunner().invoke(manual, ["projekt"])
    assert told.exit_code != 0
    assert "project" in str(told.exception)


def test_the_schema_is_json_alone() -> None:
    assert json.loads(say(schema))["title"] == "project.toml"
