"""A run that goes on is the run that was begun: its images, its folds, its best model."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.cli import cli
from emcfsys_engine.commands import train as train_commands
from emcfsys_engine.dataset.samples import refuse_unresumable
from emcfsys_engine.errors import DataFaults, InputError
from emcfsys_engine.hotfolder.status import best_model
from emcfsys_engine.learn.training import dataset as dataset_module
from emcfsys_engine.learn.training.plan import read_plan
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.events import (
    EventWriter,
    PreviewSaved,
    RunCancelled,
    RunRefused,
    RunResumed,
    RunStarted,
    ValidationDone,
    WarningGiven,
)
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.groups import extend, new_trainings
from emcfsys_engine.run.lines import line_of
from emcfsys_engine.run.outcome import best_of
from emcfsys_engine.run.records import WatchRequest
from tests.learn.conftest import NAMES, add_image, run_here
from tests.learn.training.made import back_before_checkpoints


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
        add_image(dealt.folder, f"later{number}", 50 + number)
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


@pytest.mark.long
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


def test_a_resume_in_masks_that_were_numbered_anew_is_refused_and_the_run_stays_what_it_was(
    dealt: Project,
) -> None:
    """It went on, and learned each class under the name of the other."""
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    model = run.best_model.read_bytes()
    for mask in (dealt.folder / "masks").iterdir():
        _redraw(dealt, mask.stem)
    text = dealt.file.read_text()
    dealt.file.write_text(text.replace("resin = 0\ngrain = 1", "resin = 1\ngrain = 0"))
    extend(run, ("training.steps=4",))
    assert run_here(run) == 2
    refused = run.ending()
    assert isinstance(refused, RunRefused)
    assert "resin = 0, now 1" in refused.reason
    assert "Train anew, or put both back" in refused.reason
    assert run.best_model.read_bytes() == model
    assert run.state() == "done"


@pytest.mark.long
def test_a_start_after_a_reboot_before_the_first_checkpoint_deals_nothing_anew(
    dealt: Project,
) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    deal = read_plan(run).deal
    back_before_checkpoints(run)
    for number in range(4):
        add_image(dealt.folder, f"later{number}", 50 + number)
    assert run_here(run) == 0
    assert read_plan(run).deal == deal


def test_folds_begun_at_different_times_agree(dealt: Project) -> None:
    runs = new_trainings(load_project(dealt.file, ["training.kfold=2", "training.steps=1"]))
    assert run_here(runs[0]) == 0
    for number in range(3):
        add_image(dealt.folder, f"later{number}", 50 + number)
    assert run_here(runs[1]) == 0
    first, second = (read_plan(run) for run in runs)
    assert sorted(first.val_images + second.val_images) == list(NAMES)
    assert set(first.train_images) == set(second.val_images)
    assert set(second.train_images) == set(first.val_images)


@pytest.mark.long
def test_a_moved_and_a_copied_project_go_on_and_serve_where_they_are(
    dealt: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    assert str(dealt.folder) not in json.dumps(json.loads(run.record_file.read_text())["project"])
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(dealt.folder, copy)
    shutil.rmtree(dealt.folder / "images")  # what the copy reads is its own
    there = Run(copy / "runs" / run.id)
    extend(there, ("training.steps=4",))
    refuse_unresumable(there)
    assert run_here(there) == 0
    assert read_plan(there).deal == read_plan(run).deal
    project = load_project(copy)
    assert best_model(project) == there.best_model
    watched = WatchRequest(
        model=str(there.best_model), watch=str(copy / "in"), output="/elsewhere/out"
    )
    watch = new_run(project.runs_folder, watched, project=project)
    moved = copy.rename(copy.with_name("moved"))
    found = Run(moved / "runs" / watch.id).record().request
    assert isinstance(found, WatchRequest)
    model = moved / "runs" / run.id / "best.safetensors"
    assert (found.model, found.watch) == (str(model), str(moved / "in"))
    assert found.output == "/elsewhere/out"


def test_a_run_of_an_older_version_is_found_where_it_is_now(dealt: Project) -> None:
    (run,) = new_trainings(dealt)
    document = json.loads(run.record_file.read_text())
    document["project"]["file_name"] = "/before/it/was/moved/project.toml"
    document["project"]["data"][0]["images"] = "/before/it/was/moved/images"
    run.record_file.write_text(json.dumps(document))
    record = run.record()
    assert record.project is not None
    assert record.project.file == dealt.file
    assert record.project.data[0].images == str(dealt.folder / "images")
    (dealt.file).unlink()
    assert run.record().project.file_name.startswith("/before")  # type: ignore[union-attr]


@pytest.mark.long
def test_a_finished_training_serves_while_it_is_extended_and_after_that_is_cancelled(
    dealt: Project,
) -> None:
    older, newer = (new_trainings(dealt)[0] for _ in range(2))
    assert run_here(older) == 0
    assert run_here(newer) == 0
    with EventWriter(newer.events_file) as events:
        events.write(RunStarted(run=newer.id, does="train", project="tiny", classes=()))
        assert best_model(dealt) == newer.best_model
        events.write(RunResumed(step=2))
        events.write(RunCancelled(step=2))
    assert newer.outcome()[0] == "cancelled"
    assert best_model(dealt) == newer.best_model


def _swap_sides(run: Run) -> None:
    """Give a training image the name of a validation image, and the other way round."""
    plan = read_plan(run)
    folder = run.folder.parent.parent
    for place in ("images", "masks"):
        one, other = (
            folder / place / f"{name}.png" for name in (plan.train_images[0], plan.val_images[0])
        )
        kept = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(kept)


@pytest.mark.long
def test_what_the_worker_refuses_on_a_resume_leaves_a_done_run_done_and_serving(
    dealt: Project,
) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    kept = ("run.json", "plan.json", "best.safetensors", "final.safetensors")
    before = {name: (run.folder / name).read_bytes() for name in kept}
    _swap_sides(run)
    for _ in range(2):  # a second refusal finds the same
        extend(run, ("training.steps=4",))
        assert run_here(run) == 2
        assert {name: (run.folder / name).read_bytes() for name in kept} == before
        assert run.outcome() == ("done", "steps")
        assert best_model(dealt) == run.best_model
    refused = run.events()[-1]
    assert isinstance(refused, RunRefused)
    assert line_of(refused).startswith("refused to go on")
    assert run.ended(since=0).state == "failed", "its job did not do what it was asked"
    _swap_sides(run)
    extend(run, ("training.steps=4",))
    assert run_here(run) == 0
    assert read_plan(run).total_steps == 4
    assert run.record().budget_before is None


def test_a_refused_resume_changes_nothing(dealt: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    before = {file: file.read_bytes() for file in run.folder.iterdir() if file.is_file()}
    words = ["train", "--resume", str(run.folder), "--set", "training.steps=4"]

    def no_gpu(run: Run) -> int:
        raise InputError("GPU", "all are in use", "Wait")

    monkeypatch.setattr(train_commands, "run_in_foreground", no_gpu)
    assert CliRunner().invoke(cli, words).exception is not None
    assert {file: file.read_bytes() for file in before} == before
    mask = dealt.folder / "masks" / f"{read_plan(run).val_images[0]}.png"
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(mask)
    refused = CliRunner().invoke(cli, words)
    assert isinstance(refused.exception, DataFaults)
    assert {file: file.read_bytes() for file in before} == before
    assert run.outcome()[0] == "done"
