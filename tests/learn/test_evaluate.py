"""Scores of a model over a project's labelled images."""

import json
import re
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.cli import cli
from emcfsys_engine.learn.evaluate import NUM_WORST, Evaluation, evaluate_project, table_of
from emcfsys_engine.learn.training.metrics import scores
from emcfsys_engine.learn.training.plan import read_plan
from emcfsys_engine.project import Project
from emcfsys_engine.run.groups import new_trainings
from tests.learn.conftest import add_image, run_here


def test_evaluate_takes_the_models_own_split(
    dealt: Project, engine_here: Callable[..., str]
) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    plan = read_plan(run)
    for number in range(9):
        add_image(dealt.folder, f"{number}", 50 + number)
    found = json.loads(engine_here("evaluate", run.best_model, dealt.folder, "--json"))
    assert (found["split_of"], found["images"]) == ("model", len(plan.val_images))
    assert found["trained_on"] == []
    page = dealt.folder.parent / "page.html"
    engine_here("evaluate", run.best_model, dealt.folder, "--report", page, "--gpus", 0)
    worst = sorted(found["per_image"], key=lambda one: one["iou"])[:NUM_WORST]
    drawn = re.findall(
        r'<img alt="([^:]*): IoU [^"]*" src="data:image/png;base64', page.read_text()
    )
    assert drawn == [one["image"] for one in worst]
    words = engine_here(
        "evaluate", run.best_model, dealt.folder, "--split", "all", "--as-dealt-now"
    )
    assert f"warning: the model was trained on {len(plan.train_images)} of 16" in words
    folders = ("--images", dealt.folder / "images", "--masks", dealt.folder / "masks")
    assert "the model was trained on" in engine_here("evaluate", run.best_model, *folders)
    also = (run.final_model,)
    fresh = evaluate_project(run.best_model, dealt, "test", also=also, tta=False, overlap=0.25)
    assert (fresh.images, fresh.trained_on) == (9, ())
    names = "run-0001/best.safetensors, run-0001/final.safetensors"
    assert fresh.notes == (f"these are scores of the mean of 2 models: {names}",)


def test_micrographs_that_were_saved_anew_are_told_as_perhaps_known_to_the_model(
    dealt: Project, engine_here: Callable[..., str]
) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    for file in (dealt.folder / "images").iterdir():
        pixels = np.asarray(Image.open(file)).astype(np.uint16) * 257
        Image.fromarray(pixels).save(file)
    number = len(read_plan(run).train_images)
    words = engine_here("evaluate", run.best_model, dealt.folder, "--split", "all")
    assert f"note: {number} images of other pixels called like one that the model was" in words
    folders = ("--images", dealt.folder / "images", "--masks", dealt.folder / "masks")
    found = json.loads(engine_here("evaluate", run.best_model, *folders, "--json"))
    assert any("if the same micrographs were saved anew" in note for note in found["notes"])


def test_what_a_training_forgot_is_told_by_the_labels_of_now(
    dealt: Project, engine_here: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (run,) = new_trainings(dealt)
    assert run_here(run) == 0
    new = tmp_path_factory.mktemp("new") / "p"
    shutil.copytree(dealt.folder, new, ignore=shutil.ignore_patterns("runs"))
    for file in (dealt.folder / "masks").iterdir():
        Image.fromarray(1 - np.asarray(Image.open(file))).save(file)
    words = ["train", str(new), "--from", str(run.folder), "--set", "training.steps=1"]
    told = CliRunner().invoke(cli, words, catch_exceptions=False).stderr
    now = [
        evaluate_project(model, dealt, "val", tta=False, overlap=0.25).scores.mean_iou
        for model in (run.best_model, new / "runs" / "run-0001" / "best.safetensors")
    ]
    assert f"run-0001, before -> now: {now[0]:.3f} -> {now[1]:.3f}\n" in told
    text = dealt.file.read_text().replace("resin = 0\ngrain = 1", "grain = 0\nresin = 1")
    dealt.file.write_text(text)
    told = CliRunner().invoke(cli, words, catch_exceptions=False).stderr
    assert "no score on the validation images of run-0001: resin = 0, now 1" in told


def test_where_nothing_is_labelled_no_score_is_a_number() -> None:
    nothing = scores(torch.zeros(2, 2, dtype=torch.int64), ("a", "b"))
    told = table_of(Evaluation(model="m", images=1, scores=nothing, per_source={}))
    assert "mean IoU –, foreground –, pixel accuracy –" in told
