"""A person's word: it counts more than the limits, outlives restarts, and is of one prediction."""

import os
import tempfile
from pathlib import Path

import pytest

from emcfsys_engine.annotations.layouts import masks_by_class
from emcfsys_engine.errors import InputError
from emcfsys_engine.hotfolder import review
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Entry, Ledger, read_ledger
from emcfsys_engine.hotfolder.review import read_verdicts, say_word
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.project_tables import Limit
from tests.hotfolder.test_journal import acts_in

LIMITS = {"confidence": Limit(review_below=0.8, fail_below=0.6)}


def predicted(name: str, confidence: float, digest: str = "d") -> tuple[Entry, Judged]:
    entry = Entry(path=name, size=1, mtime_ns=1, digest=digest, mask=f"{Path(name).stem}.png")
    numbers = {"": {"confidence": confidence}}
    return entry, Judged(path=name, digest=digest, numbers=numbers)


def record(ledger: Ledger, *made: tuple[Entry, Judged]) -> None:
    ledger.record([entry for entry, _ in made], (), [one for _, one in made])


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A folder that is watched: one image for review, and one that failed, by the limits."""
    ledger = Ledger(tmp_path, owner="x")
    record(ledger, predicted("r.tif", 0.7), predicted("f.tif", 0.1))
    ledger.judge_by(LIMITS)
    for name in "rf":
        file = tmp_path / f"{name}.png"
        file.write_bytes(b"a mask")
        OutputBook(tmp_path).note({file: digest_of_output(file)})
    return ledger


def verdicts(output: Path) -> dict[str, str]:
    _, found = read_verdicts(output, ("", "pass", "review", "fail"))
    return {one.path: one.verdict for one in found}


def test_a_word_counts_while_the_folder_is_watched_and_after(ledger: Ledger) -> None:
    say_word(ledger.output, ["f.tif"], "accepted", "looked at it")
    say_word(ledger.output, ["r.tif"], "rejected", "drifted")
    assert verdicts(ledger.output) == {"f.tif": "pass", "r.tif": "fail"}
    assert read_verdicts(ledger.output)[0] == {"pass": 1, "review": 0, "fail": 1}
    ledger.close()
    assert verdicts(ledger.output) == {"f.tif": "pass", "r.tif": "fail"}
    told = [(act.act, act.image, act.reason) for act in acts_in(ledger.output)]
    assert told[1:] == [
        ("accepted", "f.tif", "looked at it"),
        ("rejected", "r.tif", "drifted"),
    ]
    assert told[0][0] == "limits_changed"
    assert acts_in(ledger.output)[1].masks["f.png"]


def test_other_limits_leave_a_persons_word_and_a_new_prediction_ends_it(ledger: Ledger) -> None:
    say_word(ledger.output, ["f.tif"], "accepted")
    ledger.judge_by({"confidence": Limit(fail_below=0.9)})
    assert verdicts(ledger.output)["f.tif"] == "pass"
    ledger.record([predicted("f.tif", 0, "touched")[0]])  # the same mask
    assert verdicts(ledger.output)["f.tif"] == "pass"
    record(ledger, predicted("f.tif", 0.2, "another image"))
    assert verdicts(ledger.output)["f.tif"] != "pass"
    ledger.close()


def test_an_image_that_was_never_judged_is_refused_and_nothing_is_noted(ledger: Ledger) -> None:
    with pytest.raises(InputError, match=r"g\.tif: has no prediction .* Did you mean"):
        say_word(ledger.output, ["r.tif", "g.tif"], "accepted")
    assert verdicts(ledger.output)["r.tif"] == "review"
    ledger.close()


def test_corrected_is_believed_only_of_a_file_that_is_another(ledger: Ledger) -> None:
    with pytest.raises(InputError, match="is as this program wrote it"):
        say_word(ledger.output, ["r.tif"], "corrected")
    (ledger.output / "r.png").write_bytes(b"painted over")
    say_word(ledger.output, ["r.tif"], "corrected")
    with pytest.raises(InputError, match="is as this program wrote it"):
        say_word(ledger.output, ["f.tif"], "corrected")
    (ledger.output / "f.json").write_text("{}")  # a Labelme file of a person
    say_word(ledger.output, ["f.tif"], "corrected")
    assert verdicts(ledger.output) == {"r.tif": "pass", "f.tif": "pass"}
    assert set(acts_in(ledger.output)[-1].masks) == {"f.png", "f.json"}
    ledger.close()


def test_corrected_numbers_of_objects_are_believed_and_a_mask_that_is_gone_is_not(
    ledger: Ledger,
) -> None:
    numbers = ledger.output / "r.instances.tif"
    numbers.write_bytes(b"numbers")
    OutputBook(ledger.output).note({numbers: digest_of_output(numbers)})
    with pytest.raises(InputError, match="is as this program wrote it"):
        say_word(ledger.output, ["r.tif"], "corrected")
    numbers.write_bytes(b"two were one")
    say_word(ledger.output, ["r.tif"], "corrected")
    assert set(acts_in(ledger.output)[-1].masks) == {"r.png", "r.instances.tif"}
    (ledger.output / "f.png").unlink()
    with pytest.raises(InputError, match=r"f\.png: is gone"):
        say_word(ledger.output, ["f.tif"], "corrected")
    ledger.close()


def test_a_word_that_is_said_while_limits_change_leaves_their_verdict(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: object, **named: object) -> object:
        ledger.judge_by({"confidence": Limit(fail_below=0.05)})
        return original(*arguments, **named)

    original = review.act_of
    monkeypatch.setattr(review, "act_of", slow)
    say_word(ledger.output, ["f.tif"], "rejected", "drift")
    (one,) = read_verdicts(ledger.output, ["fail"])[1]
    assert (one.state, one.reasons, one.word) == ("pass", (), "rejected")
    ledger.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's rights")
def test_a_ledger_that_we_may_not_see_is_said_and_ends_no_measurement() -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        Ledger(output, owner="x").close()
        (output / "a.png").touch()
        output.chmod(0o755)
        (output / ".emcfsys").chmod(0o700)
        os.seteuid(65534)
        try:
            for look in (read_verdicts, read_ledger, review.verify_journal):
                with pytest.raises(InputError, match="cannot be read: Permission denied"):
                    look(output)
            assert "is not known" in review.note_of([output / "a.png"])
            assert masks_by_class(output) == {}  # measure looks here for folders of classes
        finally:
            os.seteuid(0)


def test_a_correction_of_any_plane_of_a_stack_counts(ledger: Ledger) -> None:
    entry, one = predicted("s.mrc", 0.5)
    numbers = {str(plane): {"confidence": 0.5} for plane in range(3)}
    made = Judged(path=one.path, digest=one.digest, numbers=numbers, state="fail")
    stacked = Entry(path=entry.path, size=1, mtime_ns=1, digest="d", mask="s.0002.png")
    ledger.record([stacked], (), [made])
    for plane in range(3):
        file = ledger.output / f"s.{plane:04d}.png"
        file.write_bytes(b"%d" % plane)
        OutputBook(ledger.output).note({file: digest_of_output(file)})
    (ledger.output / "s.0001.png").write_bytes(b"painted over")
    say_word(ledger.output, ["s.mrc"], "corrected")
    assert verdicts(ledger.output)["s.mrc"] == "pass"
    ledger.close()


def test_a_word_on_an_image_that_was_predicted_anew_meanwhile_is_refused(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: object, **named: object) -> object:
        record(ledger, predicted("f.tif", 0.3, "new"))
        return original(*arguments, **named)

    original = review.act_of
    monkeypatch.setattr(review, "act_of", slow)
    with pytest.raises(InputError, match="was predicted anew meanwhile"):
        say_word(ledger.output, ["f.tif"], "accepted")
    assert verdicts(ledger.output)["f.tif"] != "pass"
    ledger.close()


def test_a_reason_of_any_bytes_is_kept(ledger: Ledger) -> None:
    say_word(ledger.output, ["f.tif"], "rejected", "drift \udcff µ")
    ledger.close()
    _, (one,) = read_verdicts(ledger.output, (), ["f.tif"])
    assert one.word_reason == "drift \udcff µ"
    assert acts_in(ledger.output)[-1].reason == "drift \udcff µ"
