"""measure: the same answer in this process and in shards; refusals with their codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from emcfsys_engine.commands.measure import measure
from emcfsys_engine.commands.submit import submit
from emcfsys_engine.errors import InputError
from emcfsys_engine.run.events import WarningGiven
from emcfsys_engine.run.folder import Run
from tests.tools.drawn_masks import blobs, save_mask


@pytest.fixture
def masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four masks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(4):
        save_mask(tmp_path / f"masks/{number}.png", blobs(number), (5.0, 5.0))
    return tmp_path / "masks"


def _say(masks: Path, out: str, *words: str) -> Result:
    return CliRunner().invoke(measure, [str(masks), "--out", str(masks.parent / out), *words])


def _run(masks: Path, out: str, *words: str) -> "subprocess.CompletedProcess[str]":
    place = ["measure", str(masks), "--out", str(masks.parent / out)]
    command = [sys.executable, "-m", "emcfsys_engine", *place, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_shards_answer_as_one_process_does_and_given_again_say_that_all_is_done(
    masks: Path,
) -> None:
    alone, shared = _run(masks, "one"), _run(masks, "out", "--shards", "2%1")
    assert (alone.returncode, shared.returncode) == (0, 0), shared.stderr
    assert shared.stdout.replace("/out", "/one") == alone.stdout
    assert "4 masks done" in shared.stderr
    assert shared.stderr.count("no classes were given") == 1
    told = Run(masks.parent / "out/.emcfsys/run-0001").events()  # all that a queue's log has
    notes = {one.message for one in told if isinstance(one, WarningGiven)}
    assert notes and notes == {line for line in alone.stderr.splitlines() if line}
    again = _run(masks, "out", "--shards", "2%1")
    assert (again.returncode, again.stdout) == (0, shared.stdout)
    assert "run-0001 measured all of it" in again.stderr
    save_mask(masks / "5.png", blobs(5), (5.0, 5.0))
    anew = json.loads(_run(masks, "out", "--shards", "2%1", "--json").stdout)
    assert anew["num_masks"] == 5
    assert (masks.parent / "out/.emcfsys/run-0002").is_dir()


def test_a_dry_run_tells_and_begins_nothing(masks: Path) -> None:
    told = _say(masks, "out", "--shards", "64%2", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "4 masks" in told.stdout and "4 tasks, 2 at a time" in told.stdout
    found = json.loads(_say(masks, "out", "--dry-run", "--json").stdout)
    assert (found["images"], found["tasks"]) == (4, 1)
    assert not (masks.parent / "out").exists()


def test_no_folder_for_tables_or_no_tasks_are_refused(masks: Path) -> None:
    assert CliRunner().invoke(measure, [str(masks)]).exit_code == 2
    told = _say(masks, "out", "--shards", "none")
    assert isinstance(told.exception, InputError)
    assert not (masks.parent / "out").exists()
    words = ["measure", str(masks), "--out", str(masks.parent / "out"), "--gpus", "1"]
    asked = CliRunner().invoke(submit, words)
    assert isinstance(asked.exception, InputError)
    assert "computes on processors" in str(asked.exception)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--summary", "--exclude-border"), "--exclude-border says how to measure"),
        (("--summary", "--min-px", "50"), "--min-px says how to measure"),
        (("--out", "x", "--standard", "e562", "--lines", "500"), "--lines is of e112, not of e562"),
        (
            ("--out", "x", "--standard", "e112", "--points", "500"),
            "--points is of e562, not of e112",
        ),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    masks: Path, words: tuple[str, ...], told: str
) -> None:
    said = CliRunner().invoke(measure, [str(masks), *words])
    assert said.exit_code == 2 and told in said.output


def test_what_is_not_split_or_drawn_as_asked_for_is_said(masks: Path) -> None:
    asked = ("--numbered", "--split", "watershed", "--format", "parts", "--histogram", "area")
    said = _say(masks, "out", *asked)
    assert "--split watershed: where masks number their objects each number is one" in said.output
    assert "--histogram area: tables in parts have that of the diameter" in said.output
