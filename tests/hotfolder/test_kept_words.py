"""A ledger that is damaged or removed loses no word of a person: the journal has them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from emcfsys_engine.errors import OutputError
from emcfsys_engine.hotfolder import journal
from emcfsys_engine.hotfolder.journal import act_of
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.review import (
    number_unmeasured,
    read_verdicts,
    say_word,
    verify_journal,
)
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import digest_of_output
from tests.hotfolder.test_recipe import project_in
from tests.hotfolder.test_review import LIMITS, predicted, record
from tests.hotfolder.test_review import ledger as ledger


def watched(output: Path) -> Ledger:
    ledger = Ledger(output, owner="x")
    record(ledger, predicted("r.tif", 0.7), predicted("f.tif", 0.1), predicted("g.tif", 0.1))
    ledger.judge_by(LIMITS)
    for name in "rfg":
        file = output / f"{name}.png"
        file.write_bytes(b"a mask")
        OutputBook(output).note({file: digest_of_output(file)})
    return ledger


def damage(ledger: Ledger) -> Ledger:
    ledger.close()
    for file in ledger.folder.glob("ledger.sqlite-*"):
        file.unlink()
    ledger.file.write_bytes(os.urandom(9000))
    return Ledger(ledger.output, owner="y")


def remove(ledger: Ledger) -> Ledger:
    """As the watch advises where a folder was copied."""
    ledger.close()
    for file in ledger.folder.glob("ledger.sqlite*"):
        file.unlink()
    return Ledger(ledger.output, owner="y")


@pytest.mark.parametrize("lose", [damage, remove])
def test_words_come_back_with_images_and_masks_that_are_the_same_and_with_no_others(
    tmp_path: Path, lose: Callable[[Ledger], Ledger]
) -> None:
    ledger = watched(tmp_path)
    say_word(tmp_path, ["f.tif", "g.tif"], "accepted", "looked at it")
    say_word(tmp_path, ["r.tif"], "rejected", "drifted")
    ledger = lose(ledger)
    assert "3 words of people are taken from the journal" in ledger.told
    (tmp_path / "g.png").write_bytes(b"another mask")
    ledger.record([predicted("r.tif", 0.7)[0]])  # adopted: without numbers
    record(ledger, predicted("f.tif", 0.1), predicted("g.tif", 0.1))
    ledger.judge_by(LIMITS)
    _, found = read_verdicts(tmp_path, ("pass", "review", "fail"))
    assert {one.path: (one.verdict, one.word_reason) for one in found} == {
        "f.tif": ("pass", "looked at it"),
        "g.tif": ("fail", ""),
        "r.tif": ("fail", "drifted"),
    }
    record(ledger, predicted("f.tif", 0.1))  # predicted anew: a word comes back once
    _, (one,) = read_verdicts(tmp_path, (), ["f.tif"])
    assert one.word == ""
    ledger.close()


@pytest.mark.parametrize("is_killed", [False, True])
def test_words_come_back_also_where_the_journal_could_not_be_read_or_a_kill_came_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    ledger = watched(tmp_path)
    say_word(tmp_path, ["r.tif"], "rejected", "drifted")

    def failing(output: Path) -> NoReturn:
        if is_killed:
            raise KeyboardInterrupt
        raise OutputError(output, "cannot be read: Input/output error", errno=errno.EIO)

    with monkeypatch.context() as patched:
        patched.setattr(journal, "lines_of", failing)
        with pytest.raises((OutputError, KeyboardInterrupt)):
            remove(ledger)
    ledger = Ledger(tmp_path, owner="z")
    assert "1 words of people are taken from the journal" in ledger.told
    ledger.close()


@pytest.mark.parametrize("act", ["predicted", "adopted"])
@pytest.mark.parametrize("content", ["digest", "another"])
def test_words_come_back_from_every_lost_ledger_while_image_and_mask_are_the_same(
    tmp_path: Path, act: str, content: str
) -> None:
    ledger = watched(tmp_path)
    say_word(tmp_path, ["r.tif"], "rejected", "drifted")
    for _ in range(3):
        ledger = remove(ledger)
        made = predicted("r.tif", 0.7)
        masks = {"r.png": digest_of_output(tmp_path / "r.png")}
        of = made[0].digest if content == "digest" else content
        again = act_of(act, image="r.tif", content=of, masks=masks)
        ledger.record([made[0]], verdicts=[made[1]], acts=[again])
        ledger.write_journal()
    _, (one,) = read_verdicts(tmp_path, (), ["r.tif"])
    assert (one.word == "rejected") == (content == "digest")
    ledger.close()


def test_a_word_of_one_mask_is_none_of_a_newer_version_that_lies_beside_it(tmp_path: Path) -> None:
    ledger = watched(tmp_path)
    say_word(tmp_path, ["r.tif"], "accepted")
    ledger = remove(ledger)
    entry, one = predicted("r.tif", 0.7)
    record(ledger, (msgspec.structs.replace(entry, mask="r.v2.png", version=2), one))
    _, (one,) = read_verdicts(tmp_path, (), ["r.tif"])
    assert one.word == ""
    ledger.close()


def test_without_a_journal_a_damaged_ledger_has_no_words_and_begins_anew(tmp_path: Path) -> None:
    ledger = damage(watched(tmp_path))
    assert "words of people" not in ledger.told
    ledger.close()


def correct(ledger: Ledger, name: str, content: bytes = b"painted over") -> str:
    (ledger.output / f"{name}.png").write_bytes(content)
    say_word(ledger.output, [f"{name}.tif"], "corrected")
    return ledger.corrected()[f"{name}.tif"]


def test_images_wait_from_the_word_on_until_they_are_measured_by_the_last_one(
    ledger: Ledger,
) -> None:
    say_word(ledger.output, ["f.tif"], "accepted")
    assert ledger.corrected() == {}
    first = correct(ledger, "r")
    second = correct(ledger, "r", b"again")
    ledger.follow_corrections([], [], {"r.tif": first})  # another word was said meanwhile
    assert ledger.corrected() == {"r.tif": second}
    ledger.close()
    assert number_unmeasured(ledger.output) == 1
    again = Ledger(ledger.output, owner="y")
    again.follow_corrections([], [], {"r.tif": second})
    assert again.corrected() == {}
    say_word(ledger.output, ["r.tif"], "accepted")  # it was taken back: measured once more
    assert [*again.corrected()] == ["r.tif"]
    record(again, predicted("r.tif", 0.5, "anew"))  # its numbers are those of another mask
    assert again.corrected() == {}
    again.close()


def test_a_ledger_of_an_older_version_has_its_corrected_images_measured_once(
    ledger: Ledger, tmp_path: Path
) -> None:
    correct(ledger, "r")
    ledger._connection.execute("DROP TABLE to_measure")
    assert number_unmeasured(tmp_path) == 0  # a look changes nothing
    ledger.close()
    again = Ledger(tmp_path, owner="y")
    assert again.corrected() == {"r.tif": ""}
    again.follow_corrections([], [], {"r.tif": ""})
    again.close()
    assert number_unmeasured(tmp_path) == 0
    Ledger(tmp_path, owner="z").close()
    assert number_unmeasured(tmp_path) == 0


@pytest.mark.parametrize("is_quick", [False, True])  # a person speaks before a watch begins
def test_words_said_since_a_ledger_was_copied_come_back_where_the_copy_is_put_back(
    tmp_path: Path, is_quick: bool
) -> None:
    ledger = watched(tmp_path)
    say_word(tmp_path, ["f.tif"], "accepted", "before")
    ledger.close()
    copy = ledger.file.read_bytes()
    say_word(tmp_path, ["r.tif", "g.tif"], "accepted", "since")
    (tmp_path / "g.png").write_bytes(b"painted over")
    say_word(tmp_path, ["f.tif"], "rejected", "since")
    say_word(tmp_path, ["g.tif"], "corrected")
    ledger.file.write_bytes(copy)
    if is_quick:
        say_word(tmp_path, ["r.tif"], "rejected", "now")
    again = Ledger(tmp_path, owner="y")
    again.follow(project_in(tmp_path), None)
    _, found = read_verdicts(tmp_path, ("pass", "review", "fail"))
    assert {one.path: (one.word, one.word_reason) for one in found} == {
        "f.tif": ("rejected", "since"),
        "g.tif": ("corrected", ""),
        "r.tif": ("rejected", "now") if is_quick else ("accepted", "since"),
    }
    assert [*again.corrected()] == ["g.tif"]  # its numbers are those of the mask before
    again.write_journal()
    again.close()
    assert not verify_journal(tmp_path).fault
    assert Ledger(tmp_path, owner="z").told == ""  # once
