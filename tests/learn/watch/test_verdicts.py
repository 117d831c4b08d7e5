"""A watch with limits: every image is judged, everybody is told, and nothing is predicted twice."""

import csv
import json
from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.commands.hotfolder import watch
from emcfsys_engine.hotfolder.review import read_verdicts, verify_journal
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.run.events import ImageDone
from emcfsys_engine.run.folder import Run
from tests.commands.made import say
from tests.hotfolder.test_journal import acts_in
from tests.learn.conftest import run_here
from tests.learn.hot import Hot, warnings_of


def once(hot: Hot) -> Run:
    run = hot.new_run(once=True)
    assert run_here(run) == 0, run.events()[-1]
    return run


def limit(hot: Hot, more: str) -> None:
    """Write other limits into project.toml."""
    file = hot.folder / "project.toml"
    file.write_text(file.read_text().partition("[limits")[0] + more)


def written_by_hook(folder: Path, monkeypatch: pytest.MonkeyPatch, hook: str, words: str) -> Path:
    """Have a hook of the person write words into a file, a line each time; return that."""
    told, script = folder / "hook.log", folder / "hook.sh"
    script.write_text(f'#!/bin/sh\necho "{words}" >> "{told}"\n')
    script.chmod(0o755)
    (folder / "config" / "emcfsys").mkdir(parents=True)
    config = folder / "config" / "emcfsys" / "config.toml"
    config.write_text(f'[hooks]\n{hook} = ["{script}"]\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    return told


def done_of(run: Run) -> list[ImageDone]:
    return [event for event in run.events() if isinstance(event, ImageDone)]


def test_a_verdict_reaches_ledger_event_table_hook_and_status_and_new_limits_predict_nothing(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "$EMCFSYS_VERDICT|$EMCFSYS_VERDICT_REASONS"
    told = written_by_hook(tmp_path, monkeypatch, "image_done", words)
    hot = Hot(tmp_path, model_file, "measure = true")
    limit(hot, "[limits.sharpness]\nfail_above = 0.5\n[limits.pixel_nm]\nreview_above = 9\n")
    hot.image("a.png")

    (event,) = done_of(once(hot))

    assert event.verdict == "fail"  # noise is as sharp as can be
    assert "is above 0.5 (fail)" in event.verdict_reasons[0]
    assert "pixel_nm is not known: the image has no pixel size" in event.verdict_reasons[1]
    assert told.read_text() == "fail|" + "; ".join(event.verdict_reasons) + "\n"
    counts, (one,) = read_verdicts(hot.output)
    assert counts == {"pass": 0, "review": 0, "fail": 1}
    assert (one.path, one.reasons) == ("a.png", event.verdict_reasons)
    assert hot.masks() == ["a.png"]  # it is kept
    with (hot.output / ".emcfsys" / "measurements.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["verdict"] == "fail"
    for name in ("confidence", "grain_fraction", "grain_objects", "sharpness", "saturation"):
        assert one.numbers[""][name] == pytest.approx(float(row[name]), rel=1e-3, abs=1e-4), name

    limit(hot, "[limits.sharpness]\nreview_above = 0.5\n")
    again = once(hot)
    assert done_of(again) == []
    assert "1 of 1 image judged otherwise" in warnings_of(again)
    status = json.loads(say(watch, str(hot.folder), "--status", "--json"))
    assert (status["verdict_review"], status["verdict_fail"]) == (1, 0)
    assert "PASS 0  REVIEW 1  FAIL 0" in say(watch, str(hot.folder), "--status")

    hot.image("a.png", 1)
    once(hot)
    begun, first, changed, second = acts_in(hot.output)
    assert (begun.act, set(begun.limits)) == ("limits_changed", {"sharpness", "pixel_nm"})
    assert (first.act, first.image, first.verdict) == ("predicted", "a.png", "fail")
    assert changed.limits["sharpness"]["review_above"] == 0.5
    assert (second.act, second.verdict) == ("redone", "review")
    assert set(second.masks) == {"a.png"}
    assert second.content != first.content
    assert verify_journal(hot.output).fault == ""


def test_limits_on_objects_are_judged_without_the_table_of_measurements(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file)
    limit(hot, "[limits.grain_objects]\nfail_above = 1e6\n")
    hot.image("a.png")
    (event,) = done_of(once(hot))
    assert event.verdict == "pass"
    _, (one,) = read_verdicts(hot.output, ("pass",))
    assert one.numbers[""]["grain_objects"] >= 0
    assert not (hot.output / ".emcfsys" / "measurements.csv").exists()


def test_a_model_that_cannot_tell_is_told_with_its_reason_where_a_limit_asks_it(
    tmp_path: Path, model_file: Path
) -> None:
    network, card = load_model(model_file)
    why = "1 labelled validation images, it takes 2"
    own = tmp_path / "own.safetensors"
    save_model(own, network, msgspec.structs.replace(card, no_trust=why))
    hot = Hot(tmp_path, own)
    limit(hot, "[limits.expected_iou]\nreview_below = 0.5\n")
    hot.image("a.png")
    run = once(hot)
    assert f"limits on expected_iou mean REVIEW: {why}" in warnings_of(run)
    assert done_of(run)[0].verdict == "review"


def test_without_limits_no_image_is_judged_and_its_numbers_wait_for_some(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file)
    hot.image("a.png")
    (event,) = done_of(once(hot))
    assert (event.verdict, event.verdict_reasons) == ("", ())
    limit(hot, "[limits.confidence]\nreview_below = 1.0\n")
    assert done_of(once(hot)) == []
    counts, (one,) = read_verdicts(hot.output)
    assert counts["review"] == 1
    assert one.reasons[0].startswith("confidence 0.")
