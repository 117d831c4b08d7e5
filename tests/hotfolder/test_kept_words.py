"""A ledger that is damaged or removed loses no word of a person: the journal has them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.review import read_verdicts, say_word
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import digest_of_output
from tests.hotfolder.test_review import LIMITS, predicted, record


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


def test_without_a_journal_a_damaged_ledger_has_no_words_and_begins_anew(tmp_path: Path) -> None:
    ledger = damage(watched(tmp_path))
    assert "words of people" not in ledger.told
    ledger.close()
