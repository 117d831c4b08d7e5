"""Files of earlier versions load for ever; none of these samples is ever changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

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
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import load_model, verify_model
from emcfsys_engine.learn.training.run import read_plan
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import (
    EventReader,
    LabelsJoined,
    MachineUsed,
    PhaseBegan,
    RunFinished,
    RunRefused,
    RunStarted,
    StepDone,
    ValidationDone,
)
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import TrainRequest
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
