"""The manual travels with the program, and editors get its keys."""

import json
import re
from pathlib import Path

from click.testing import CliRunner

from emcfsys_engine import manual as manual_pages
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


def test_a_page_is_read_in_a_terminal_without_its_pictures_which_are_there_and_small() -> None:
    folder = Path(manual_pages.__file__).parent
    found: list[Path] = []
    for page in folder.glob("*.md"):
        found += [
            folder / one for one in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text("utf-8"))
        ]
        assert "![" not in say(manual, page.stem)
    assert found
    sizes = [one.stat().st_size for one in found]
    assert max(sizes) <= 60_000
    assert sum(sizes) <= 400_000
    assert "\n\n\n" not in say(manual, "walkthrough")


def test_the_schema_is_json_alone() -> None:
    assert json.loads(say(schema))["title"] == "project.toml"
