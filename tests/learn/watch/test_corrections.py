"""What a person corrected is measured: table, groups and trends say what the mask says now."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.commands.hotfolder import review
from emcfsys_engine.hotfolder import scan
from emcfsys_engine.hotfolder.group_files import folder_of
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.review import (
    ask_retry,
    number_unmeasured,
    read_verdicts,
    say_word,
    verify_journal,
)
from emcfsys_engine.hotfolder.series import read_series
from tests.commands.made import say
from tests.hotfolder.test_journal import acts_in
from tests.learn.conftest import run_here
from tests.learn.hot import Hot, until, warnings_of, watching
from tests.learn.watch.test_verdicts import once

LIMITS = '[limits]\ngroup = "folder"\n[limits.grain_fraction]\nfail_above = 0.9\n'
MEASURED = f"measure = true\nlabelme = true\n{LIMITS}"


def rows_of(hot: Hot) -> dict[str, dict[str, str]]:
    with (hot.output / ".emcfsys" / "measurements.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["image"] for row in rows}) == len(rows)  # never two of one
    return {row["image"]: row for row in rows}


def paint(hot: Hot, name: str, grain_rows: int) -> None:
    """Paint a mask: its first rows are one grain, all else resin."""
    ids = np.zeros((48, 56), np.uint8)
    ids[:grain_rows] = 7
    Image.fromarray(ids).save(hot.output / name)


def numbers(hot: Hot, image: str = "a.png") -> dict[str, float]:
    _, (one,) = read_verdicts(hot.output, (), [image])
    return one.numbers[""]


def all_say(hot: Hot, share: float, objects: int) -> None:
    """Check ledger, table, the group's files and trends against one another."""
    found, row = numbers(hot), rows_of(hot)["a.png"]
    assert found["grain_fraction"] == pytest.approx(share)
    assert (found["grain_objects"], row["grain_objects"]) == (objects, str(objects))
    assert float(row["grain_fraction"]) == pytest.approx(share, abs=1e-6)
    told = json.loads((folder_of(hot.output) / "%2E.json").read_text())
    (image,) = [one for one in told["images"] if one["image"] == "a.png"]
    assert image["numbers"][""] == found
    with (folder_of(hot.output) / "%2E.csv").open(newline="") as stream:
        (line,) = [each for each in csv.DictReader(stream) if each["image"] == "a.png"]
    assert float(line["grain_fraction"]) == pytest.approx(share)
    (series,) = [one for one in read_series(hot.output) if one.path == "a.png"]
    assert series.numbers == found


def test_a_mask_that_was_painted_over_is_measured_and_everything_says_so(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, MEASURED)
    hot.image("a.png")
    hot.image("b.png", 1)
    once(hot)
    before, row = numbers(hot), rows_of(hot)["a.png"]
    paint(hot, "a.png", 12)

    told = say(review, str(hot.folder), "corrected", "a.png")

    assert "numbers to follow: 1 corrected image; the watch measures them at its next" in told
    assert json.loads(say(review, str(hot.folder), "--json"))["numbers_to_follow"] == 1
    assert numbers(hot) == before
    (hot.incoming / "a.png").unlink()  # originals go to the archive: nothing needs them again
    once(hot)

    all_say(hot, 0.25, 1)
    (one,) = read_verdicts(hot.output, (), ["a.png"])[1]
    assert (one.verdict, one.word) == ("pass", "corrected")
    now = rows_of(hot)["a.png"]
    same = ("height_px", "width_px", "confidence", "mean", "sharpness", "unlike_training_data")
    assert {name: now[name] for name in same} == {name: row[name] for name in same}
    assert now["verdict"] == "pass"
    assert {name: numbers(hot)[name] for name in ("mean", "confidence")} == {
        name: before[name] for name in ("mean", "confidence")
    }
    act = acts_in(hot.output)[-1]
    assert (act.act, act.image, act.reason) == ("measured", "a.png", "as a person left its mask")
    assert {"a.png", "a.json"} <= set(act.masks)
    assert verify_journal(hot.output).fault == ""
    assert "to follow" not in say(review, str(hot.folder))
    once(hot)
    assert [each.act for each in acts_in(hot.output)].count("measured") == 1


@pytest.mark.parametrize("has_column", [True, False])
def test_a_painted_info_bar_is_no_part_of_what_is_measured(
    tmp_path: Path, model_file: Path, has_column: bool
) -> None:
    hot = Hot(tmp_path, model_file, MEASURED)
    pixels = np.random.default_rng(0).integers(60, 200, (80, 72), dtype=np.uint8)
    pixels[64:] = 0
    pixels[68:74, 10:30:3] = 255
    Image.fromarray(pixels).save(hot.incoming / "a.png")
    once(hot)
    row = rows_of(hot)["a.png"]
    assert (row["height_px"], row["info_bar_rows"]) == ("80", "16")
    predicted = np.asarray(Image.open(hot.output / "a.png"))[:64]
    for share in (numbers(hot)["grain_fraction"], float(row["grain_fraction"])):
        assert share == pytest.approx((predicted == 7).mean(), abs=1e-6)

    ids = np.zeros((80, 72), np.uint8)
    ids[:16] = 7
    Image.fromarray(ids).save(hot.output / "a.png")
    say(review, str(hot.folder), "corrected", "a.png")
    if has_column:  # else it is of an older version, and the image itself is asked
        (hot.incoming / "a.png").unlink()
    else:
        table = hot.output / ".emcfsys" / "measurements.csv"
        table.write_text(table.read_text().replace("info_bar_rows", "x"))
    once(hot)
    all_say(hot, 0.25, 1)


def test_outlines_that_a_person_drew_count_instead_of_the_mask_that_nobody_changed(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, MEASURED)
    hot.image("a.png")
    once(hot)
    outlines = hot.output / "a.json"
    told = json.loads(outlines.read_text())
    shape = {"label": "grain", "shape_type": "rectangle", "points": [[0, 0], [27, 11]]}
    told["shapes"] = [shape | {"flags": {}, "group_id": None}]
    outlines.write_text(json.dumps(told))
    say(review, str(hot.folder), "corrected", "a.png")
    once(hot)
    all_say(hot, 28 * 12 / (48 * 56), 1)
    for _ in range(
        2
    ):  # ledgers are lost, and no mask is made beside those that the outlines are of
        for file in (hot.output / ".emcfsys").glob("ledger.sqlite*"):
            file.unlink()
        once(hot)
        all_say(hot, 28 * 12 / (48 * 56), 1)
        assert "a.v2.png" not in hot.masks()
    assert "PASS 1" in say(review, str(hot.folder))


def test_corrected_again_and_taken_back_numbers_are_those_of_the_mask_that_lies_there(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, MEASURED)
    hot.image("a.png")
    once(hot)
    before, row = numbers(hot), rows_of(hot)["a.png"]
    shutil.copy(hot.output / "a.png", tmp_path / "kept.png")
    for rows, share in ((12, 0.25), (24, 0.5)):
        paint(hot, "a.png", rows)
        say(review, str(hot.folder), "corrected", "a.png")
        once(hot)
        all_say(hot, share, 1)
    shutil.copy(tmp_path / "kept.png", hot.output / "a.png")
    say(review, str(hot.folder), "accept", "a.png")
    once(hot)
    assert numbers(hot) == pytest.approx(before)
    assert rows_of(hot)["a.png"] == row


@pytest.mark.long
def test_a_correction_is_measured_while_the_watch_runs(tmp_path: Path, model_file: Path) -> None:
    hot = Hot(tmp_path, model_file, MEASURED)
    hot.image("a.png")
    run = hot.new_run()
    with watching(run) as child:
        until(lambda: sum(read_verdicts(hot.output)[0].values()), child, run)
        paint(hot, "a.png", 12)
        told = say(review, str(hot.folder), "corrected", "a.png")
        assert "numbers to follow" not in told or "with its next turn" in told
        until(lambda: not number_unmeasured(hot.output), child, run)
        child.terminate()
        child.wait()
    all_say(hot, 0.25, 1)


@pytest.mark.parametrize("killed", ["replace_newest", "follow_corrections"])
def test_a_kill_between_the_word_and_its_numbers_is_made_up_for(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    hot = Hot(tmp_path, model_file, MEASURED)
    hot.image("a.png")
    once(hot)
    paint(hot, "a.png", 12)
    say_word(hot.output, ["a.png"], "corrected")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    whose = Ledger if killed == "follow_corrections" else "emcfsys_engine.learn.watch.measurements"
    target = whose if isinstance(whose, str) else f"{whose.__module__}.{whose.__name__}"
    name = "Measurements." if killed == "replace_newest" else ""
    with monkeypatch.context() as patched:
        patched.setattr(f"{target}.{name}{killed}", kill)
        with pytest.raises(KeyboardInterrupt):
            once(hot)
    assert number_unmeasured(hot.output) == 1
    once(hot)
    all_say(hot, 0.25, 1)
    assert [act.act for act in acts_in(hot.output)].count("measured") == 1


def other_class(hot: Hot) -> None:
    ids = np.zeros((48, 56), np.uint8)
    ids[:5] = 3
    Image.fromarray(ids).save(hot.output / "a.png")


def other_size(hot: Hot) -> None:
    Image.fromarray(np.zeros((40, 56), np.uint8)).save(hot.output / "a.png")


def other_label(hot: Hot) -> None:
    file = hot.output / "a.json"
    told = json.loads(file.read_text())
    shape = {"label": "crack", "shape_type": "rectangle", "points": [[0, 0], [9, 9]]}
    told["shapes"] = [shape]
    file.write_text(json.dumps(told))


def no_outlines(hot: Hot) -> None:
    (hot.output / "a.json").write_text("{}")


def both(hot: Hot) -> None:
    other_label(hot)
    file = hot.output / "a.json"
    file.write_text(file.read_text().replace("crack", "grain"))
    paint(hot, "a.png", 3)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (other_class, r"a\.png: .*3"),
        (other_size, r"a\.png: is 56 × 40 pixels, its image 56 × 48"),
        (other_label, r'a\.json: label "crack" is no class'),
        (no_outlines, r"a\.json: "),
        (both, r"a\.png: and its outlines a\.json were both changed"),
    ],
)
def test_what_is_no_mask_is_refused_in_a_line_and_told_by_the_watch_and_numbers_stay(
    tmp_path: Path, model_file: Path, spoil: Callable[[Hot], None], why: str
) -> None:
    hot = Hot(tmp_path, model_file, MEASURED)
    hot.image("a.png")
    once(hot)
    before, rows = numbers(hot), rows_of(hot)
    spoil(hot)
    result = CliRunner().invoke(review, [str(hot.folder), "corrected", "a.png"])
    assert result.exit_code != 0
    with pytest.raises(type(result.exception or ValueError()), match=why) as caught:
        raise result.exception or AssertionError(result.output)
    assert "\n" not in str(caught.value)
    assert read_verdicts(hot.output, (), ["a.png"])[1][0].word == ""

    say_word(hot.output, ["a.png"], "corrected")  # as a version before believed it
    run = once(hot)

    assert "a.png is not measured anew: " in warnings_of(run)
    assert (numbers(hot), rows_of(hot)) == (before, rows)
    (hot.output / "a.json").unlink()
    paint(hot, "a.png", 12)
    once(hot)
    all_say(hot, 0.25, 1)


def test_without_measurements_only_what_is_known_follows_and_no_table_is_begun(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file)
    hot.image("a.png")
    once(hot)
    before = numbers(hot)
    paint(hot, "a.png", 12)
    say(review, str(hot.folder), "corrected", "a.png")
    (hot.incoming / "a.png").unlink()
    once(hot)
    assert numbers(hot) == before | {"grain_fraction": 0.25, "resin_fraction": 0.75}
    assert not (hot.output / ".emcfsys" / "measurements.csv").exists()


def test_a_plane_that_was_corrected_is_measured_with_its_stack_and_words_of_before_once(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, MEASURED)
    stack = np.random.default_rng(0).integers(0, 255, (3, 48, 56), np.uint8)
    tifffile.imwrite(hot.incoming / "s.tif", stack, photometric="minisblack")
    once(hot)
    rows = rows_of(hot)
    paint(hot, "s.0001.png", 12)
    say_word(hot.output, ["s.tif"], "corrected")
    ledger = Ledger(hot.output, owner="an older version")
    ledger._connection.execute("DROP TABLE to_measure")
    ledger.close()
    once(hot)
    now = rows_of(hot)
    assert float(now["s.tif#1"]["grain_fraction"]) == 0.25
    assert (now["s.tif#0"], now["s.tif#2"]) == (rows["s.tif#0"], rows["s.tif#2"])
    _, (one,) = read_verdicts(hot.output, (), ["s.tif"])
    assert [one.numbers[n]["grain_fraction"] == 0.25 for n in "012"] == [False, True, False]


def test_a_correction_whose_ledger_was_removed_is_measured_with_its_word(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, MEASURED)
    hot.image("a.png")
    once(hot)
    paint(hot, "a.png", 12)
    say(review, str(hot.folder), "corrected", "a.png")
    once(hot)
    for file in (hot.output / ".emcfsys").glob("ledger.sqlite*"):
        file.unlink()
    once(hot)
    once(hot)
    all_say(hot, 0.25, 1)
    assert read_verdicts(hot.output, (), ["a.png"])[1][0].word == "corrected"


def test_pixels_that_a_person_left_out_count_nowhere(tmp_path: Path, model_file: Path) -> None:
    hot = Hot(tmp_path, model_file, MEASURED)
    hot.image("a.png")
    once(hot)
    ids = np.zeros((48, 56), np.uint8)
    ids[:12], ids[24:] = 7, 255
    Image.fromarray(ids).save(hot.output / "a.png")
    say(review, str(hot.folder), "corrected", "a.png")
    once(hot)
    all_say(hot, 0.5, 1)


@pytest.mark.long
@pytest.mark.parametrize("is_asked", [True, False])
def test_an_image_that_was_unreadable_for_a_while_keeps_its_correction_word_and_numbers(
    tmp_path: Path, model_file: Path, is_asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was cut off, and came again, put the machine's mask beside the correction."""
    monkeypatch.setattr(scan, "_BACK_OFF_S", (0.0,) * scan.MAX_ATTEMPTS)
    hot = Hot(tmp_path, model_file, MEASURED)
    image = hot.image("g/a.png")
    once(hot)
    paint(hot, "g/a.png", 12)
    say_word(hot.output, ["g/a.png"], "corrected")
    once(hot)
    before, row = numbers(hot, "g/a.png"), rows_of(hot)["g/a.png"]
    mask, good = (hot.output / "g/a.png").read_bytes(), image.read_bytes()
    image.write_bytes(good[:-150] + bytes(150))
    assert run_here(hot.new_run(once=True)) == 1
    image.write_bytes(good)
    if is_asked:
        ask_retry(hot.output)
    run = once(hot)
    assert "1 image had a mask already: it is kept" in warnings_of(run)
    assert hot.masks() == ["g/a.png"]
    assert (hot.output / "g/a.png").read_bytes() == mask
    _, (found,) = read_verdicts(hot.output, (), ["g/a.png"])
    assert (found.word, found.mask, found.numbers[""]) == ("corrected", "g/a.png", before)
    assert rows_of(hot)["g/a.png"] == row

    image.write_bytes(hot.image("other.png", seed=5).read_bytes())  # another image by now
    once(hot)
    assert (hot.output / "g/a.png").read_bytes() == mask
    assert hot.masks() == ["g/a.png", "g/a.v2.png", "other.png"]
