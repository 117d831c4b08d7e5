"""A model learns when it fails: from its own validation images, or it says why not."""

import shutil
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import numpy as np
import pytest

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.images.normalise import GREY
from emcfsys_engine.learn.inference.bands import Prediction
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.training import trust as trust_room
from emcfsys_engine.learn.training.dataset import Dataset, TrainingItem
from emcfsys_engine.learn.training.degradations import DEGRADATIONS
from emcfsys_engine.learn.training.setup import TrainingSetup
from emcfsys_engine.learn.training.start import datasets_of
from emcfsys_engine.learn.training.trust import (
    CannotTell,
    TrustRow,
    _affordable,
    _order,
    _shown,
    fitted,
    keep_trust,
    learn_trust,
    true_ious,
)
from emcfsys_engine.model_card import ModelCard, Trust, read_card
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import Event, TrustLearned
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.lines import line_of
from tests.learn.conftest import run_here
from tests.learn.training.made import new_training
from tests.learn.trusting import add_validation_image

AXES = 16
_ENOUGH_S = 3600.0  # on a busy machine, too: all trials are made long before


def told(run_folder: Path, steps: int = 4) -> tuple[TrustLearned, Trust | None]:
    run = new_training(run_folder, steps)
    assert run_here(run) == 0
    (event,) = [event for event in run.events() if isinstance(event, TrustLearned)]
    return event, read_card(run.best_model).trust


def test_a_training_leaves_a_model_that_knows_when_it_fails(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_validation_image(project_folder)
    monkeypatch.setattr("emcfsys_engine.learn.training.setup.LEAST_TRUST_S", _ENOUGH_S)
    event, trust = told(project_folder)
    assert trust is not None
    assert (event.why_not, event.images, event.trials) == ("", 2, len(trust.trials))
    assert {"", "defocus", "noise", "empty"} <= {*trust.kinds}
    assert len(msgspec.json.encode(trust)) < 1_000_000
    assert "learned from" in line_of(event)


@pytest.mark.long
def test_the_final_model_knows_what_the_best_knows_learns_by_itself_or_says_why_not(
    model_file: Path, project_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_validation_image(project_folder)
    project = load_project(project_folder)
    train, val = datasets_of(project, list_samples(project), GREY)
    run, events = Run(tmp_path / "run-0001"), list[Event]()
    run.folder.mkdir()
    plan = SimpleNamespace(device="cpu", tile_px=64)
    setup = SimpleNamespace(
        run=run, plan=plan, project=project, train=train, val=val, emit=events.append
    )

    def knows(seconds: float) -> tuple[ModelCard, ModelCard]:
        keep_trust(cast(TrainingSetup, setup), seconds)
        return read_card(run.best_model), read_card(run.final_model)

    shutil.copy(model_file, run.best_model)
    shutil.copy(model_file, run.final_model)
    best, final = knows(_ENOUGH_S)
    assert best.trust is not None
    assert (best.cannot_tell, final.trust) == ("", best.trust)

    network, card = load_model(model_file)
    for weights in network.parameters():
        weights.data.mul_(1.01)
    save_model(run.final_model, network, card)
    with monkeypatch.context() as patched:  # so slow a machine that the best took nearly all
        patched.setattr(trust_room, "LEAST_TRUST_S", _ENOUGH_S)
        best, final = knows(_ENOUGH_S)
    assert best.trust is not None
    assert final.cannot_tell == "the time was enough for the best model of its training alone"
    best, final = knows(_ENOUGH_S)
    assert final.trust is not None
    assert final.trust != best.trust
    assert len(events) == 3


def test_time_for_too_few_trials_is_not_spent(
    model_file: Path, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_validation_image(project_folder)
    project = load_project(project_folder)
    train, val = datasets_of(project, list_samples(project), GREY)
    predictor = Predictor(model_file)
    predict, asked = predictor.predict, list[int]()

    def counted(image: np.ndarray) -> Prediction:
        asked.append(1)
        return predict(image)

    monkeypatch.setattr(predictor, "predict", counted)
    with pytest.raises(CannotTell, match="the time was not enough for 12 trials"):
        learn_trust(predictor, train, val, seed=0, seconds=1e-3)
    assert len(asked) == 1  # how long one takes


def test_where_time_is_short_fewer_and_smaller_images_are_shown_and_all_kinds_of_damage() -> None:
    assert _affordable(1e9) == (8, 768)
    assert _affordable(50) == (3, 768)
    assert _affordable(4) == (3, 256)
    assert _affordable(-1) == (3, 256)  # the time is over already
    beginning = list(islice(_order(3), len(DEGRADATIONS)))
    assert {one.kind for _, one, _, _ in beginning} == {one.kind for one in DEGRADATIONS}
    assert {image for *_, image in beginning} == {0, 1, 2}
    every = list(_order(3))
    assert len({(turn, image) for turn, _, _, image in every}) == len(every)
    assert len(every) == 3 * sum(len(one.strengths) for one in DEGRADATIONS)


def test_of_few_large_images_corners_are_shown_beside_the_middle() -> None:
    def item(side: int) -> TrainingItem:
        labels = np.arange(side * side).reshape(side, side)
        return cast(
            TrainingItem,
            SimpleNamespace(pixels=np.zeros((side, side, 1), np.float32), labels=labels),
        )

    val = cast(Dataset, [item(44), item(64), item(24)])
    shown = _shown(val, [0, 1, 2], 6, 32)
    assert [one.image for one in shown] == [0, 1, 2, 0, 1, 0]
    firsts = [divmod(int(one.labels[0, 0]), (44, 64, 24)[one.image]) for one in shown]
    assert firsts == [(6, 6), (16, 16), (0, 0), (0, 0), (0, 0), (12, 12)]
    assert {one.pixels.shape for one in shown} == {(32, 32, 1), (24, 24, 1)}
    assert len(_shown(val, [0, 1, 2], 2, 32)) == 3  # as many images as there are


def test_one_validation_image_is_too_few_and_it_is_said(project_folder: Path) -> None:
    event, trust = told(project_folder)
    assert trust is None
    card = read_card(project_folder / "runs" / "run-0001" / "final.safetensors")
    assert card.cannot_tell == "1 labelled validation images, it takes 2"
    assert event.why_not == "1 labelled validation images, it takes 2"
    assert "cannot tell how good its masks are" in line_of(event)


def rows(num_images: int = 4) -> list[TrustRow]:
    """Return trials whose first signal tells their IoU."""
    rng = np.random.default_rng(0)
    made = []
    for image in range(num_images):
        for kind, iou in (("", 0.9), ("noise", 0.7), ("defocus", 0.5), ("empty", 0.2)) * 3:
            place = np.log(iou / (1 - iou))
            signals = np.array([place, *rng.normal(0, 0.1, 7), *rng.normal(0, 0.01, AXES)])
            made.append(
                TrustRow(image=image, kind=kind, signals=signals, ious=np.array([iou, iou, np.nan]))
            )
    return made


def empty_trust() -> Trust:
    return Trust(
        temperatures=(1.0, 1.0),
        centre=(0.0,),
        scale=(1.0,),
        basis=((1.0,),),
        spread=(1.0,),
        residual=1.0,
        sample=((0.0,),),
    )


def test_left_out_images_lie_in_the_interval_and_a_class_that_is_never_there_has_no_weights() -> (
    None
):
    trust = fitted(empty_trust(), rows())
    assert trust.weights[0]
    assert trust.weights[2] == ()
    low, high = trust.residuals
    assert low <= 0 <= high
    assert high - low < 2.0  # in odds: it is told well
    assert trust.usual_iou == pytest.approx(0.9)


def test_trials_of_one_image_teach_nothing() -> None:
    with pytest.raises(CannotTell):
        fitted(empty_trust(), rows(1))


def test_an_iou_leaves_out_what_has_no_label_and_classes_that_are_nowhere() -> None:
    mask = np.array([[0, 0, 7, 7]], np.uint8)
    labels = np.array([[0, 1, 1, 255]], np.uint8)
    made = Prediction(mask=mask, confidence=1.0, shares={})
    mean, ground, grain, other = true_ious(made, labels, (0, 7, 9))
    assert (ground, grain, mean) == (0.5, 0.5, 0.5)
    assert np.isnan(other)
