"""Files of earlier versions load for ever; none of these samples is ever changed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from emcfsys_engine import any_names
from emcfsys_engine.annotations.formats.labelme import read_suggestion
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.recipe import read_recipe
from emcfsys_engine.hotfolder.review import (
    groups_of,
    overview,
    read_verdicts,
    verify_journal,
)
from emcfsys_engine.hotfolder.series import read_series
from emcfsys_engine.learn.evaluate_images import ImageCompared
from emcfsys_engine.learn.evaluate_shards import sample_of
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import load_model, verify_model
from emcfsys_engine.learn.training.run import read_plan
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import (
    EventReader,
    GroupJudged,
    ImageDone,
    ImageFailed,
    LabelsJoined,
    MachineUsed,
    PhaseBegan,
    RunFinished,
    RunRefused,
    RunStarted,
    StepDone,
    TrustLearned,
    ValidationDone,
)
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import EvaluateRequest, TrainRequest, WatchRequest
from emcfsys_engine.run.shard_lines import ShardProgress, TaskTold
from emcfsys_engine.run.shards import Shards, digest_of
from emcfsys_engine.shards.work import Ended, work_of
from emcfsys_engine.tools.convert.in_shards import result_of as converted
from emcfsys_engine.tools.measure.in_shards import result_of
from emcfsys_engine.tools.measure.summary import summarise

DATA = Path(__file__).parent / "data"


def test_events_of_format_1() -> None:
    reader = EventReader(DATA / "run-format-1" / "events.jsonl")
    events = reader.read_new()
    assert reader.skipped == 0
    kinds = {type(event) for event in events}
    assert {RunStarted, StepDone, ValidationDone, RunFinished} <= kinds


def test_events_of_a_training_that_follows_the_labels() -> None:
    reader = EventReader(DATA / "follow-format-1" / "events.jsonl")
    _, _, phase, joined, refused = reader.read_new()
    assert reader.skipped == 0
    assert isinstance(phase, PhaseBegan)
    assert isinstance(joined, LabelsJoined)
    assert (joined.train, joined.val, joined.gone) == (("x",), ("y",), ("w",))
    assert isinstance(refused, RunRefused)


def test_events_of_a_training_that_tells_what_it_took_of_the_machine() -> None:
    reader = EventReader(DATA / "usage-format-1" / "events.jsonl")
    _, taken = reader.read_new()
    assert reader.skipped == 0
    assert isinstance(taken, MachineUsed)
    assert (taken.step, taken.cpu, taken.memory_gb) == (120, 3.5, 2.25)
    assert (taken.gpu, taken.gpu_memory_gb) == (0.93, 11.5)


def test_events_of_a_training_that_learned_to_tell_how_good_masks_are() -> None:
    reader = EventReader(DATA / "trust-format-1" / "events.jsonl")
    _, can, cannot = reader.read_new()
    assert reader.skipped == 0
    assert isinstance(can, TrustLearned)
    assert isinstance(cannot, TrustLearned)
    assert (can.images, can.trials, can.seconds, can.why_not) == (3, 48, 4.25, "")
    assert cannot.why_not.startswith("1 labelled")


def test_a_watch_by_a_recipe_with_verdicts_of_images_and_groups() -> None:
    run = Run(DATA / "watch-format-1")
    request = run.record().request
    assert isinstance(request, WatchRequest)
    assert Path(request.recipe).name == "one.json"
    assert run.outcome()[0] == "done"
    reader = EventReader(run.events_file)
    events = reader.read_new()
    assert reader.skipped == 0
    images = [event for event in events if isinstance(event, ImageDone)]
    assert [event.verdict for event in images] == ["review"] * 3
    assert images[0].verdict_reasons == ("expected_iou 0.3024 is below 0.9 (review)",)
    iou, low, high = images[0].expected_iou, images[0].expected_low, images[0].expected_high
    assert iou is not None and low is not None and high is not None
    assert low < iou < high
    assert images[0].expected_reason == "blurred"
    first, _ = (event for event in events if isinstance(event, GroupJudged))
    assert (first.group, first.verdict, first.before, first.images) == ("g0", "review", "", 2)
    assert first.reasons == ("images 2 is below 3 (review)",)
    failed = [event for event in events if isinstance(event, ImageFailed)]
    assert [(event.attempt, event.final) for event in failed] == [(1, False), (2, False), (3, True)]


def test_a_suggestion_is_known_for_one_until_a_byte_of_it_is_another() -> None:
    content = (DATA / "suggestion-v1.json").read_bytes()
    assert read_suggestion(content) is not None
    assert read_suggestion(content.replace(b"7.25", b"7.5")) is None
    assert read_suggestion(content + b"\n") is None


def test_run_and_plan_of_format_1() -> None:
    run = Run(DATA / "run-format-1")
    assert isinstance(run.record().request, TrainRequest)
    assert run.outcome() == ("done", "steps")
    assert read_plan(run).total_steps == 8


def test_a_fold_of_a_cross_validation_of_format_1() -> None:
    run = Run(DATA / "fold-format-1")
    record = run.record()
    assert (record.group, record.fold) == ("kfold-0001", 2)
    assert record.project is not None
    assert record.project.training.kfold == 2
    plan = read_plan(run)
    assert (plan.fold, plan.folds, plan.schedule) == (2, 2, "trapezoid")
    assert (plan.network.auxiliary, plan.processes) == (True, 1)
    assert run.outcome() == ("done", "steps")
    validations = [event for event in run.events() if isinstance(event, ValidationDone)]
    assert validations[-1].boundary_f1.keys() == {"resin", "grain"}


def test_a_training_that_tells_objects_apart() -> None:
    run = Run(DATA / "objects-format-1")
    project = run.record().project
    assert project is not None
    assert project.instances == {"grain": "joined"}
    plan = read_plan(run)
    assert plan.network.num_planes == 2
    assert plan.reasons["network.num_planes"].startswith("objects of grain: ")
    validations = [event for event in run.events() if isinstance(event, ValidationDone)]
    found = validations[-1].objects["grain"]
    assert (found.num_true, found.pq, found.size_unit) == (3, 0.0, "px")


def test_a_model_file_of_format_1() -> None:
    network, card = load_model(DATA / "model-format-1.safetensors")
    assert card.classes == ("resin", "grain")
    assert sum(p.numel() for p in network.parameters()) > 0
    assert card.network.in_channels == 1
    verdict = verify_model(DATA / "model-format-1.safetensors")
    assert verdict.startswith(("identical", "equal"))
    assert "no digest" in verdict


def test_a_model_of_format_1_says_that_it_cannot_tell_how_good_its_masks_are() -> None:
    predictor = Predictor(DATA / "model-format-1.safetensors", gpus=0, tile_px=64)
    assert predictor.card.trust is None
    assert predictor.predict(np.zeros((64, 64), np.uint8)).expected is None


def test_a_model_of_format_2_tells_how_good_its_masks_are() -> None:
    file = DATA / "model-format-2.safetensors"
    assert "header unchanged" in verify_model(file)
    made = Predictor(file, gpus=0, tile_px=64).predict(np.zeros((64, 64), np.uint8))
    assert made.expected is not None
    assert 0 < made.expected.low <= made.expected.iou <= made.expected.high < 1


@pytest.mark.parametrize("name", ["project-format-1.toml"])
def test_a_project_of_format_1(name: str, tmp_path: Path) -> None:
    for place in ("images", "masks", "labels"):
        (tmp_path / place).mkdir()
    (tmp_path / "project.toml").write_text((DATA / name).read_text())
    project = load_project(tmp_path)
    assert project.training.loss == "ce+0.5*dice"
    assert project.hotfolder.rewritten == "version"


def test_a_ledger_of_version_1(tmp_path: Path) -> None:
    (tmp_path / ".emcfsys").mkdir()
    shutil.copy(DATA / "ledger-v1.sqlite", tmp_path / ".emcfsys" / "ledger.sqlite")
    ledger = Ledger(tmp_path, owner="test")
    entries = ledger.entries()
    ledger.close()
    assert entries["grid 1/a.tif"].mask == "grid 1/a.png"
    assert (entries["b.dm4"].state, entries["b.dm4"].attempts) == ("failed", 3)


def test_verdicts_and_a_journal_of_version_1(tmp_path: Path) -> None:
    (tmp_path / ".emcfsys").mkdir()
    shutil.copy(DATA / "ledger-judged-v1.sqlite", tmp_path / ".emcfsys" / "ledger.sqlite")
    shutil.copy(DATA / "journal-v1.jsonl", tmp_path / ".emcfsys" / "journal.jsonl")
    counts, (one,) = read_verdicts(tmp_path)
    assert counts == {"pass": 0, "review": 0, "fail": 1}
    assert (one.path, one.word, one.word_reason) == ("grid 1/a.tif", "rejected", "drifted")
    assert one.numbers == {"": {"confidence": 0.5}}
    found = verify_journal(tmp_path)
    assert (found.lines, found.fault) == (2, "")
    assert found.head.startswith("2e03eedf")


def test_a_measurement_in_parts() -> None:
    found = summarise(DATA / "measurement-parts-v1")
    assert (found.unit, found.num_masks, found.num_objects) == ("nm", 1, 1)
    (large,) = (one for one in found.classes if one.num_objects)
    assert large.name == "large"
    assert large.mean_diameter == pytest.approx(35.90, abs=0.01)


def test_a_recipe_of_version_1() -> None:
    recipe = read_recipe(DATA / "recipe-v1.json")
    assert recipe.classes == {"resin": 0, "grain": 7}
    assert recipe.inference.overlap == 0.25
    assert recipe.settings()["inference.overlap"] == 0.25


def test_a_ledger_of_version_1_with_groups_and_a_recipe(tmp_path: Path) -> None:
    (tmp_path / ".emcfsys").mkdir()
    shutil.copy(DATA / "ledger-groups-v1.sqlite", tmp_path / ".emcfsys" / "ledger.sqlite")
    (group,) = groups_of(tmp_path)
    assert (group.name, group.state, group.verdicts) == ("grid 1", "fail", {"fail": 1})
    recipe = read_recipe(DATA / "recipe-v1.json").id
    assert overview(tmp_path).recipe == recipe
    (image,) = read_series(tmp_path)
    assert (image.group, image.verdict, image.recipe) == ("grid 1", "fail", recipe)
    ledger = Ledger(tmp_path, owner="test")
    ledger.close()
    assert overview(tmp_path).states == {"done": 1}


def test_a_ledger_of_version_1_that_counts_with_people_s_words_and_two_recipes(
    tmp_path: Path,
) -> None:
    (tmp_path / ".emcfsys").mkdir()
    shutil.copy(DATA / "ledger-counted-v1.sqlite", tmp_path / ".emcfsys" / "ledger.sqlite")
    shutil.copy(DATA / "journal-counted-v1.jsonl", tmp_path / ".emcfsys" / "journal.jsonl")
    journal = verify_journal(tmp_path)
    assert (journal.lines, journal.fault, journal.head[:8]) == (10, "", "8fab3f2c")
    ledger = Ledger(tmp_path, owner="test")  # a newer program goes on with it
    assert ledger.told == ""
    ledger.close()
    found = overview(tmp_path, ["g0/a0.png", "g0/a2.png", "g1/a1.png"])
    assert found.states == {"done": 3, "trying": 0, "failed": 1}
    assert found.verdicts == {"pass": 2, "review": 0, "fail": 1}
    assert [(one.name, one.state) for one in found.groups] == [("g0", "review"), ("g1", "fail")]
    assert found.recipe == "810195136bb0ac1e"
    assert [(one.state, one.word) for one in found.judged] == [
        ("review", "accepted"), ("review", "corrected"), ("review", "rejected"),
    ]  # fmt: skip
    assert {one.recipe for one in read_series(tmp_path)} == {found.recipe}


def test_a_list_of_shards_and_the_results_of_an_evaluation_in_format_1() -> None:
    run = Run(DATA / "evaluate-format-1")
    request = run.record().request
    assert isinstance(request, EvaluateRequest)
    assert request.project is not None
    shards = Shards(run)
    header = shards.header()  # of the same request: its digest holds
    assert header is not None
    told = [TaskTold(shards.lines_file(shard)) for shard in range(len(header.shards))]
    assert all(one.is_finished for one in told)
    end = Ended(shards, header, told, lambda _: None, lambda _: None, lambda: None)
    found = [
        (sample_of(one.item), any_names.decode(one.result, ImageCompared)) for one in end.in_order()
    ]
    assert [sample.name for sample, _ in found] == ["a", "b", "c"]
    assert all(sample.name == one.score.image for sample, one in found)
    assert all(sum(map(sum, one.pixels)) == 64 * 64 for _, one in found)


def test_a_list_of_shards_of_format_1_and_what_its_tasks_told() -> None:
    run = Run(DATA / "shards-predict-1")
    shards = Shards(run)
    header = shards.header()
    assert header is not None
    assert (header.num_images, header.left_out, header.models) == (4, "left out", ("0a1b",))
    assert (header.is_fresh, header.called) == (True, "images")
    items = [item for share in (*header.shards, header.there) for item in shards.items(share)]
    assert {item.number: (item.image, item.plane, item.mask) for item in items}[1] == (
        "/archive/1.tif",
        3,
        "/masks/1.png",
    )
    told = [TaskTold(shards.lines_file(shard)) for shard in range(2)]
    became = {n: event for one in told for n, event in one.became.items()}
    assert {n: type(event) for n, event in became.items()} == {
        0: ImageDone,
        1: ImageDone,
        3: ImageFailed,
    }
    assert all(one.is_finished and not any(one.tries.values()) for one in told)
    assert ShardProgress(run).text() == "2 of 2 tasks done, 4 of 4 images, 1 failed"


def test_a_measurement_in_shards_of_format_1(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(DATA / "shards-measure-1", run.folder)
    found = result_of(run)
    assert found is not None and (found.num_masks, len(found.failed)) == (2, 1)
    record = run.record()
    request = replace(record.request, out=str(tmp_path / "out"))
    header, *lines = Shards(run).file.read_bytes().splitlines(keepends=True)
    digest = digest_of(record.request), digest_of(request)
    Shards(run).file.write_bytes(b"".join((header.replace(*map(str.encode, digest)), *lines)))
    run.write_record(replace(record, request=request))
    work, shards = work_of(run), Shards(run)
    known = shards.header()
    assert known is not None
    told = [TaskTold(shards.lines_file(shard)) for shard in range(len(known.shards))]
    tally = work.put_together(Ended(shards, known, told, print, print, lambda: None))
    assert tally == (2, 1)
    now = result_of(run)
    assert str(now).replace(str(tmp_path), "/tmp/frozen") == str(found)


def test_a_conversion_in_shards_of_format_1(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(DATA / "shards-convert-1", run.folder)
    found = converted(run)
    assert found is not None and (len(found.written), len(found.skipped)) == (2, 1)
    record = run.record()
    request = replace(record.request, out=str(tmp_path / "out"))
    content = Shards(run).file.read_bytes().replace(b"/tmp/frozen/out", os.fsencode(request.out))
    digest = digest_of(record.request), digest_of(request)
    Shards(run).file.write_bytes(content.replace(*map(str.encode, digest)))
    run.write_record(replace(record, request=request))
    work, shards = work_of(run), Shards(run)
    known = shards.header()
    assert known is not None
    told = [TaskTold(shards.lines_file(shard)) for shard in range(len(known.shards))]
    assert all(one.is_finished for one in told)
    (tmp_path / "out").mkdir()
    tally = work.put_together(Ended(shards, known, told, print, print, lambda: None))
    assert tally == (2, 1)
    drawn = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [one["file_name"] for one in drawn["images"]] == ["0.png", "1.png"]
    assert len(drawn["annotations"]) > 2
