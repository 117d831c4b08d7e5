"""A hot folder goes on with better models, and not with broken ones."""

import os
from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import EventWriter, ImageDone, RunFinished, RunStarted
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from tests.learn.hot import Hot, details_of, images_and_masks_agree, two_processes, warnings_of
from tests.learn.watch.test_survival import forked, wait_for


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
