"""A changed recipe redoes what its change touches, and nothing else."""

import csv
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile

from emcfsys_engine.hotfolder.recipe import lock_recipe
from emcfsys_engine.hotfolder.review import overview, read_verdicts, say_word, verify_journal
from emcfsys_engine.hotfolder.scan import Scanner
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import RunFailed
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import WatchRequest
from tests.hotfolder.test_journal import acts_in
from tests.learn.conftest import run_here
from tests.learn.hot import Hot, warnings_of
from tests.learn.watch.test_verdicts import done_of


def by_recipe(hot: Hot, number: int) -> Run:
    """Lock what the project says now, and watch once by it."""
    project = load_project(hot.folder)
    file = hot.folder / f"{number}.json"
    if not file.exists():
        lock_recipe(project, hot.model, file)
    request = WatchRequest(
        model=str(hot.model),
        watch=str(hot.incoming),
        output=str(hot.output),
        once=True,
        recipe=str(file),
    )
    run = new_run(project.runs_folder, request, project=project)
    run_here(run)
    return run


def change(hot: Hot, old: str, new: str) -> None:
    file = hot.folder / "project.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_limits_judge_anew_measurement_keeps_masks_and_inference_predicts_anew(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, "measure = false\n[inference]\noverlap = 0.25")
    for name in ("a.png", "s/b.png"):
        hot.image(name)
    assert len(done_of(by_recipe(hot, 1))) == 2
    first = overview(hot.output).recipe
    say_word(hot.output, ["a.png"], "rejected", "drift")
    masks = {name: (hot.output / name).stat().st_mtime_ns for name in hot.masks()}

    change(hot, "overlap = 0.25", "overlap = 0.25\n[limits.confidence]\nfail_below = 1.0")
    assert done_of(by_recipe(hot, 2)) == []
    assert read_verdicts(hot.output)[0]["fail"] == 2

    change(hot, "measure = false", "measure = true")
    run = by_recipe(hot, 3)
    assert done_of(run) == []
    assert "0 images are predicted anew, 2 measured anew" in warnings_of(run)
    with (hot.output / ".emcfsys" / "measurements.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["image"] for row in rows} == {"a.png", "s/b.png"}
    _, found = read_verdicts(hot.output)
    assert float(rows[0]["grain_objects"]) == found[0].numbers[""]["grain_objects"]
    assert {name: (hot.output / name).stat().st_mtime_ns for name in hot.masks()} == masks
    assert found[0].word == "rejected"  # a word outlives all that predicts nothing

    change(hot, "overlap = 0.25", "overlap = 0.5")
    run = by_recipe(hot, 4)
    assert len(done_of(run)) == 2
    assert done_of(by_recipe(hot, 4)) == []
    acts = [act.act for act in acts_in(hot.output)]
    assert acts == [
        "recipe_changed", "predicted", "predicted", "rejected",
        "recipe_changed", "limits_changed",
        "recipe_changed", "measured", "measured",
        "recipe_changed", "redone", "redone",
    ]  # fmt: skip
    changed = [act for act in acts_in(hot.output) if act.act == "recipe_changed"]
    assert changed[0].recipe == first
    assert "hotfolder.measure False -> True" in changed[2].reason
    assert {act.recipe for act in acts_in(hot.output) if act.act == "redone"} == {
        overview(hot.output).recipe
    }
    with (hot.output / ".emcfsys" / "measurements.csv").open(newline="") as stream:
        assert sorted(row["image"] for row in csv.DictReader(stream)) == ["a.png", "s/b.png"]
    assert verify_journal(hot.output).fault == ""


def test_a_start_whose_project_is_another_than_its_recipe_fails_and_predicts_nothing(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, "[inference]\noverlap = 0.25")
    by_recipe(hot, 1)
    hot.image("a.png")
    change(hot, "overlap = 0.25", "overlap = 0.5")
    run = by_recipe(hot, 1)
    (failed,) = [event for event in run.events() if isinstance(event, RunFailed)]
    assert "inference.overlap: the recipe has 0.25, the project 0.5" in failed.reason
    assert hot.masks() == []


def test_each_plane_of_a_stack_is_measured_anew_and_nothing_where_measuring_ends(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, "measure = false")
    stack = np.random.default_rng(0).integers(0, 255, (3, 64, 64), np.uint8)
    tifffile.imwrite(hot.incoming / "s.tif", stack, photometric="minisblack")
    assert len(done_of(by_recipe(hot, 1))) >= 1
    change(hot, "measure = false", "measure = true")
    by_recipe(hot, 2)
    table = hot.output / ".emcfsys" / "measurements.csv"
    with table.open(newline="") as stream:
        names = sorted(row["image"] for row in csv.DictReader(stream))
    assert names == ["s.tif#0", "s.tif#1", "s.tif#2"]
    change(hot, "measure = true", "measure = false")
    by_recipe(hot, 3)
    acts = [act.act for act in acts_in(hot.output)]
    assert acts.count("measured") == 1, acts


def test_a_model_that_a_training_replaces_as_a_watch_by_recipe_begins_makes_no_mask(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe was compared with the file before the model was read from it."""
    model = Path(shutil.copy(model_file, tmp_path / "best.safetensors"))
    hot = Hot(tmp_path, model)
    hot.image("a.png")

    class Replacing(Scanner):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            network, card = load_model(model)
            save_model(model, network, msgspec.structs.replace(card, step=card.step + 1))

    monkeypatch.setattr("emcfsys_engine.learn.watch.run.Scanner", Replacing)
    run = by_recipe(hot, 1)
    (ended,) = [event for event in run.events() if isinstance(event, RunFailed)]
    assert "was changed: the recipe has SHA-256" in ended.reason
    assert hot.masks() == []
