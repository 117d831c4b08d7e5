"""Corrected images wait for their numbers, over kills, until those of the last word stand."""

from pathlib import Path

from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.review import number_unmeasured, say_word
from tests.hotfolder.test_review import ledger as ledger
from tests.hotfolder.test_review import predicted, record


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
