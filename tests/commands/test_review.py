"""review and journal: the queue of what did not pass, a person's word, and the record."""

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.hotfolder import journal, review
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Entry, Ledger
from tests.commands.made import say


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project whose hot folder has an image with a number and no limits yet."""
    for name in ("images", "incoming"):
        (tmp_path / name).mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "images"\n'
        'masks = "images"\n[hotfolder]\nwatch = "incoming"\n[limits.confidence]\nfail_below = 0.6\n'
    )
    ledger = Ledger(tmp_path / "predictions", owner="x")
    entry = Entry(path="a.tif", size=1, mtime_ns=1, digest="d", mask="a.png")
    numbers = {"": {"confidence": 0.5}}
    ledger.record([entry], (), [Judged(path="a.tif", digest="d", numbers=numbers)])
    ledger.close()
    return tmp_path


def refused(command: object, *words: str) -> str:
    told = CliRunner().invoke(command, words)  # type: ignore[arg-type]
    assert told.exit_code != 0
    return told.output + str(told.exception)


def test_a_damaged_ledger_that_judge_puts_aside_is_told(folder: Path) -> None:
    (folder / "predictions" / ".emcfsys" / "ledger.sqlite").write_bytes(b"no database" * 500)
    told = CliRunner().invoke(review, [str(folder), "judge"])
    assert (told.exit_code, "kept as ledger.damaged-1.sqlite" in told.stderr) == (0, True)


def test_groups_are_judged_by_the_limits_that_their_files_tell(folder: Path) -> None:
    file, text = folder / "project.toml", (folder / "project.toml").read_text()
    groups = folder / "predictions" / ".emcfsys" / "groups"

    def judged(expression: str, fail_above: float) -> tuple[str, str]:
        limit = f"[limits.groups.fail_share]\nfail_above = {fail_above}\n"
        file.write_text(f'{text}[limits]\ngroup = "{expression}"\n{limit}')
        said = say(review, str(folder), "judge")
        (document,) = [json.loads(one.read_text()) for one in groups.glob("*.json")]
        assert document["limits"]["fail_share"]["fail_above"] == fail_above
        return document["group"], document["verdict"] + " " + said

    assert judged("folder", 0.5) == (
        ".",
        "fail 1 of 1 image judged otherwise now, by their numbers\n",
    )
    assert judged("folder", 1.0)[1].startswith("pass These groups")
    assert judged("^(a)", 0.9) == ("a", "fail These groups are judged by the limits of today\n")
    assert judged("^(a)", 0.9)[1].startswith("fail All is judged already")


def test_images_without_numbers_are_told_as_not_judged(folder: Path) -> None:
    say(review, str(folder), "judge")
    assert "not judged" not in say(review, str(folder))
    ledger = Ledger(folder / "predictions", owner="x")
    ledger.record([Entry(path="old.tif", size=1, mtime_ns=1, digest="d", mask="old.png")])
    ledger.close()
    assert "not judged: 1  (predicted before" in say(review, str(folder))
    assert json.loads(say(review, str(folder), "--json"))["not_judged"] == 1
    with contextlib.closing(sqlite3.connect(ledger.file)) as db, db:
        db.execute("DROP TABLE judged")  # as a version without limits left it
    assert "not judged: 2" in say(review, str(folder))
    ledger.file.write_bytes(b"")  # just being made
    assert say(review, str(folder)) == "PASS 0  REVIEW 0  FAIL 0\n"


def test_the_queue_is_judged_listed_and_worked_off(folder: Path) -> None:
    assert "1 of 1 image judged otherwise" in say(review, str(folder), "judge")
    assert "already" in say(review, str(folder), "judge")
    told = say(review, str(folder))
    assert told.splitlines()[0] == "PASS 0  REVIEW 0  FAIL 1"
    assert "FAIL    a.tif  (its original is gone)  confidence 0.5 is below 0.6 (fail)" in told
    place = str(folder / "incoming" / "a.tif")
    say(review, str(folder), "reject", place, "--reason", "drifted")
    found = json.loads(say(review, str(folder), "--json"))
    assert found["counts"] == {"pass": 0, "review": 0, "fail": 1}
    (image,) = found["images"]
    assert (image["image"], image["word"], image["word_reason"]) == (place, "rejected", "drifted")
    assert (image["by_limits"], image["original_is_there"]) == ("fail", False)
    assert image["numbers"] == {"": {"confidence": 0.5}}
    linked = folder / "link"
    linked.symlink_to(folder / "incoming")
    names = ["a.tif", "./a.tif", f"{folder}/images/../incoming/a.tif", f"{linked}/a.tif"]
    assert say(review, str(folder), "accept", *names) == "accepted: 1 image\n"
    assert say(review, str(folder)).splitlines() == ["PASS 1  REVIEW 0  FAIL 0"]
    assert say(journal, "verify", str(folder)).startswith("whole: 3 lines, head ")


def test_a_journal_that_was_changed_ends_with_1_and_names_the_line(folder: Path) -> None:
    say(review, str(folder), "judge")
    file = folder / "predictions" / ".emcfsys" / "journal.jsonl"
    file.write_bytes(file.read_bytes().replace(b"limits_changed", b"limits_Changed"))
    told = CliRunner().invoke(journal, ["verify", str(folder)])
    assert told.exit_code == 1
    assert "line 1 was changed" in told.output
    assert json.loads(CliRunner().invoke(journal, ["verify", str(folder), "--json"]).output) == {
        "lines": 0,
        "head": "",
        "fault": "line 1 was changed: its hash is another",
        "torn_bytes": 0,
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("accept",), "Name the images to accept"),
        (("reject", "a.tif"), "Say why"),
        (("judge", "a.tif"), "judge takes no images"),
        (("accept", "b.tif"), "Did you mean 'a.tif'"),
        (("praise", "a.tif"), "is not one of"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, words: tuple[str, ...], told: str) -> None:
    assert told in refused(review, str(folder), *words)


def test_while_it_is_watched_the_watch_judges(folder: Path) -> None:
    ledger = Ledger(folder / "predictions", owner="a watch")
    assert "is watched already" in refused(review, str(folder), "judge")
    say(review, str(folder), "accept", "a.tif")
    ledger.close()


def test_where_nothing_was_predicted_there_is_nothing_to_judge(folder: Path) -> None:
    (folder / "predictions" / ".emcfsys" / "ledger.sqlite").unlink()
    assert "nothing was predicted yet" in refused(review, str(folder), "judge")
    assert say(review, str(folder)) == "PASS 0  REVIEW 0  FAIL 0\n"
