"""Between images: a better model is followed, groups are told of, late side-cars are heeded."""

import csv
import math
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile

from emcfsys_engine.commands.hotfolder import review
from emcfsys_engine.hotfolder.review import read_verdicts, say_word
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import EventWriter, GroupJudged, ImageDone, RunFinished, RunStarted
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.lines import line_of
from emcfsys_engine.run.records import TrainRequest
from tests.commands.made import say
from tests.learn.conftest import run_here
from tests.learn.hot import Hot, details_of, images_and_masks_agree, two_processes, warnings_of
from tests.learn.watch.test_survival import forked, wait_for
from tests.learn.watch.test_verdicts import done_of, limit, once, written_by_hook


@pytest.fixture
def hot(tmp_path: Path, model_file: Path) -> Hot:
    return Hot(tmp_path, model_file)


def trained(hot: Hot, model_file: Path, iou: float, *, is_broken: bool = False) -> Run:
    """Write a finished training and its model."""
    project = load_project(hot.folder)
    run = new_run(project.runs_folder, TrainRequest(), project=project)
    with EventWriter(run.events_file) as events:
        events.write(RunStarted(run=run.id, does="train"))
        events.write(RunFinished(reason="steps", step=1))
    network, card = load_model(model_file)
    card = msgspec.structs.replace(
        card, scores={"mean_iou": iou}, validated_on={"a": "1"}, run=run.id
    )
    file = hot.folder / "made.safetensors"
    save_model(file, network, card)
    if is_broken:
        os.truncate(file, file.stat().st_size - 100)
    file.replace(run.best_model)
    return run


def models_of(run: Run) -> list[str]:
    return [event.model for event in run.events() if isinstance(event, ImageDone)]


def named(run: Run) -> str:
    return f"{run.id} step 0"


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_a_better_model_is_taken_while_it_watches_and_a_broken_one_is_said_once(
    hot: Hot, model_file: Path, processes: int
) -> None:
    file = hot.folder / "project.toml"
    file.write_text(file.read_text() + "follow = true\n")
    two_processes(hot, processes)
    first = trained(hot, model_file, 0.5)
    hot.model = first.best_model
    run = hot.new_run()
    with forked(run, looks_for_models_s=0.2) as child:
        hot.image("0.png")
        wait_for(lambda: len(models_of(run)) == 1, child, run)
        better = trained(hot, model_file, 0.6)
        wait_for(lambda: f"now with {better.best_model}" in details_of(run), child, run)
        hot.image("1.png", 1)
        wait_for(lambda: len(models_of(run)) == 2, child, run)
        broken = trained(hot, model_file, 0.7, is_broken=True)
        wait_for(lambda: str(broken.best_model) in warnings_of(run), child, run)
        hot.image("2.png", 2)
        wait_for(lambda: len(models_of(run)) == 3, child, run)
        best = trained(hot, model_file, 0.8)
        wait_for(lambda: f"now with {best.best_model}" in details_of(run), child, run)
    assert models_of(run) == [named(first), named(better), named(better)]
    assert warnings_of(run).count(str(broken.best_model)) == 1
    images_and_masks_agree(hot, 3)


def test_a_groups_first_verdict_and_each_other_one_are_told_once_by_event_and_hook(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "$EMCFSYS_GROUP|$EMCFSYS_VERDICT_BEFORE|$EMCFSYS_VERDICT|$EMCFSYS_VERDICT_REASONS"
    told = written_by_hook(tmp_path, monkeypatch, "group_judged", words)
    hot = Hot(tmp_path, model_file)
    groups = '[limits]\ngroup = "^(.)"\n[limits.groups.images]\n'
    limit(hot, groups + "fail_above = 1.5\n")
    hot.image("a1.png")

    def judged(run: Run) -> list[tuple[str, str, str, int]]:
        found = [event for event in run.events() if isinstance(event, GroupJudged)]
        return [(one.group, one.before, one.verdict, one.images) for one in found]

    assert judged(once(hot)) == [("a", "", "pass", 1)]
    assert judged(once(hot)) == []  # nothing new
    hot.image("a2.png")
    hot.image("b1.png")
    run = once(hot)
    assert judged(run) == [("a", "pass", "fail", 2), ("b", "", "pass", 1)]
    assert "group a FAIL (was PASS): images 2 is above" in "\n".join(map(line_of, run.events()))
    lines = told.read_text().splitlines()
    assert [line.split("|")[:3] for line in lines] == [
        ["a", "", "pass"],
        ["a", "pass", "fail"],
        ["b", "", "pass"],
    ]
    assert "is above 1.5 (fail)" in lines[1]

    limit(hot, groups + "review_above = 1.5\n")
    say(review, str(hot.folder), "judge")  # while nobody watches
    assert judged(once(hot)) == [("a", "fail", "review", 2)]


_STATES = ("", "pass", "review", "fail")


@pytest.fixture
def hitachi(tmp_path: Path, model_file: Path) -> Hot:
    """A hot folder whose model brings images to its own scale, 4 nm."""
    network, card = load_model(model_file)
    file = tmp_path / "rescales.safetensors"
    save_model(file, network, msgspec.structs.replace(card, rescales=True))
    return Hot(tmp_path, file, "measure = true")


def picture(hitachi: Hot, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 56), np.uint8)
    tifffile.imwrite(hitachi.incoming / name, pixels)


def scale(hitachi: Hot, name: str, side_nm: float = 8.0) -> None:
    text = f"[SemImageFile]\nDataSize=56x48\nPixelSize={side_nm}\n"
    (hitachi.incoming / name).write_text(text)


def watched(hitachi: Hot) -> Run:
    run = hitachi.new_run(once=True)
    assert run_here(run) == 0
    return run


def rows(hitachi: Hot) -> dict[str, dict[str, str]]:
    with (hitachi.output / ".emcfsys" / "measurements.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert len({row["image"] for row in found}) == len(found)
    return {row["image"]: row for row in found}


def test_mask_and_numbers_are_those_of_an_image_whose_scale_was_there(hitachi: Hot) -> None:
    """They were not: without nm for ever, and by a model that rescales, of another scale."""
    picture(hitachi, "late.tif")
    watched(hitachi)
    before = (hitachi.output / "late.png").read_bytes()
    assert rows(hitachi)["late.tif"]["pixel_nm"] == ""
    scale(hitachi, "late.txt")
    scale(hitachi, "early.txt")
    picture(hitachi, "early.tif")
    run = watched(hitachi)
    assert "1 image got another pixel size since, made anew: late.tif" in warnings_of(run)
    assert (hitachi.output / "late.png").read_bytes() == (hitachi.output / "early.png").read_bytes()
    assert (hitachi.output / "late.png").read_bytes() != before
    late, early = rows(hitachi)["late.tif"], rows(hitachi)["early.tif"]
    assert {**late, "image": ""} == {**early, "image": ""}
    assert late["pixel_nm"] == "8"
    assert done_of(watched(hitachi)) == []  # once

    scale(hitachi, "late.txt", 16.0)
    assert len(done_of(watched(hitachi))) == 1
    assert rows(hitachi)["late.tif"]["pixel_nm"] == "16"


def test_any_text_beside_an_image_changes_nothing(hitachi: Hot) -> None:
    picture(hitachi, "a.tif")
    watched(hitachi)
    (hitachi.incoming / "a.txt").write_text("my notes")
    (hitachi.incoming / "b.txt").write_text("of no image")
    assert done_of(watched(hitachi)) == []


def test_an_image_that_a_person_spoke_of_is_kept_and_told(hitachi: Hot) -> None:
    picture(hitachi, "a.tif")
    watched(hitachi)
    say_word(hitachi.output, ["a.tif"], "accepted")
    scale(hitachi, "a.txt")
    run = watched(hitachi)
    assert done_of(run) == []
    assert "a.tif: its pixel size is 8 nm by now" in warnings_of(run)
    (found,) = read_verdicts(hitachi.output, _STATES)[1]
    assert found.word == "accepted"
    assert math.isnan(found.numbers[""].get("pixel_nm", math.nan))
