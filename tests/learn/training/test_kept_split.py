"""A run that goes on is the run that was begun: its images, its folds, its best model."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.learn.evaluate import evaluate_project
from emcfsys_engine.learn.training import dataset as dataset_module
from emcfsys_engine.learn.training.plan import read_plan
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.events import (
    PreviewSaved,
    RunResumed,
    ValidationDone,
    WarningGiven,
    best_of,
)
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import extend, new_trainings
from tests.learn.conftest import PROJECT, run_here, write_picture

NAMES = tuple("abcdefg")


@pytest.fixture
def dealt(tmp_path: Path) -> Project:
    """A project whose images are dealt out by themselves."""
    for number, name in enumerate(NAMES):
        _add(tmp_path, name, number)
    sources = PROJECT[PROJECT.index("[[data]]") : PROJECT.index("[model]")]
    one = '[[data]]\nimages = "images"\nmasks = "masks"\nunlabelled = "skip"\n'
    text = PROJECT.replace(sources, one).replace("validate_every = 4", "validate_every = 2")
    (tmp_path / "project.toml").write_text(text.replace("steps = 8", "steps = 2"))
    return load_project(tmp_path)


def _add(folder: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    write_picture(rng, folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png")


def _warnings(run: Run) -> str:
    return "\n".join(event.message for event in run.events() if isinstance(event, WarningGiven))


def _redraw(project: Project, name: str) -> None:
    mask = project.folder / "masks" / f"{name}.png"
    Image.fromarray(1 - np.asarray(Image.open(mask))).save(mask)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every (name, part) that a training reads from now on."""
    seen: list[tuple[str, str]] = []
    own = dataset_module.load_item

    def noted(sample: object, *rest: object) -> object:
        seen.append((sample.name, sample.split))  # type: ignore[attr-defined]
        return own(sample, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset_module, "load_item", noted)
    return seen


def test_a_resume_trains_and_validates_on_what_its_plan_says(
    dealt: Project, read: list[tuple[str, str]]
) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    begun, deal = read_plan(run), read_plan(run).deal
    assert deal is not None
    gone, drawn = deal.train[0], deal.train[1]
    for number in range(3):
        _add(dealt.folder, f"later{number}", 50 + number)
    (dealt.folder / "images" / f"{gone}.png").unlink()
    _redraw(dealt, drawn)
    read.clear()
    extend(run, ("training.steps=4",))
    assert run_here(run) == 0
    parts = dict(read)
    assert {n for n, part in parts.items() if part == "val"} == set(deal.val)
    assert {n for n, part in parts.items() if part == "train"} == set(deal.train) - {gone}
    plan = read_plan(run)
    assert (plan.train_images, plan.val_images) == (begun.train_images, begun.val_images)
    previews = {event.image for event in run.events() if isinstance(event, PreviewSaved)}
    assert previews <= set(deal.val)
    told = _warnings(run)
    assert "left out: later0, later1, later2" in told
    assert f"{gone} is no longer there" in told
    assert f"Labels changed since the last start and are used as they are: {drawn}" in told
    assert plan.fingerprints[drawn] != begun.fingerprints[drawn]
    (resumed,) = (event for event in run.events() if isinstance(event, RunResumed))
    assert resumed.best_score is None  # what it validates on is what it was


def test_a_best_model_is_scored_anew_when_validation_labels_change(dealt: Project) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    before = best_of(run.events())
    _redraw(dealt, read_plan(run).val_images[0])
    extend(run, ("training.steps=4",))
    assert run_here(run) == 0
    (resumed,) = (event for event in run.events() if isinstance(event, RunResumed))
    assert before is not None
    assert resumed.best_score is not None
    assert resumed.best_score != before.score
    assert "The validation images or their labels changed" in _warnings(run)
    last = [event for event in run.events() if isinstance(event, ValidationDone)][-1]
    assert last.score is not None
    assert last.is_best == (last.score > resumed.best_score)
    best = best_of(run.events())
    assert best is not None
    assert best.score == max(last.score, resumed.best_score)
    assert read_card(run.best_model).scores["mean_iou"] == pytest.approx(best.score)


def test_a_start_after_a_reboot_before_the_first_checkpoint_deals_nothing_anew(
    dealt: Project,
) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    deal = read_plan(run).deal
    run.checkpoint_file.unlink()
    for number in range(4):
        _add(dealt.folder, f"later{number}", 50 + number)
    assert run_here(run) == 0
    assert read_plan(run).deal == deal


def test_folds_begun_at_different_times_agree(dealt: Project) -> None:
    runs = new_trainings(load_project(dealt.file, ["training.kfold=2", "training.steps=1"]))
    assert run_here(runs[0]) == 0
    for number in range(3):
        _add(dealt.folder, f"later{number}", 50 + number)
    assert run_here(runs[1]) == 0
    first, second = (read_plan(run) for run in runs)
    assert sorted(first.val_images + second.val_images) == list(NAMES)
    assert set(first.train_images) == set(second.val_images)
    assert set(second.train_images) == set(first.val_images)


def test_evaluate_takes_the_models_own_split(
    dealt: Project, engine_here: Callable[..., str]
) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    plan = read_plan(run)
    for number in range(9):
        _add(dealt.folder, f"{number}", 50 + number)
    found = json.loads(engine_here("evaluate", run.best_model, dealt.folder, "--json"))
    assert (found["split_of"], found["images"]) == ("model", len(plan.val_images))
    assert found["trained_on"] == []
    words = engine_here(
        "evaluate", run.best_model, dealt.folder, "--split", "all", "--as-dealt-now"
    )
    assert f"warning: the model was trained on {len(plan.train_images)} of these 16" in words
    folders = ("--images", dealt.folder / "images", "--masks", dealt.folder / "masks")
    assert "the model was trained on" in engine_here("evaluate", run.best_model, *folders)
    fresh = evaluate_project(run.best_model, dealt, "test", tta=False, overlap=0.25)
    assert (fresh.images, fresh.trained_on) == (9, ())
