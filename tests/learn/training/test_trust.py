"""A model learns when it fails: from its own validation images, or it says why not."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from emcfsys_engine.learn.inference.bands import Prediction
from emcfsys_engine.learn.training.trust import CannotTell, Row, fitted, true_ious
from emcfsys_engine.model_card import Trust, read_card
from emcfsys_engine.run.events import TrustLearned
from emcfsys_engine.run.lines import line_of
from tests.learn.conftest import run_here
from tests.learn.training.made import new_training
from tests.learn.trusting import add_validation_image, learned

AXES = 16


def told(run_folder: Path, steps: int = 4) -> tuple[TrustLearned, Trust | None]:
    run = new_training(run_folder, steps)
    assert run_here(run) == 0
    (event,) = [event for event in run.events() if isinstance(event, TrustLearned)]
    return event, read_card(run.best_model).trust


def test_a_training_leaves_a_model_that_knows_when_it_fails(project_folder: Path) -> None:
    add_validation_image(project_folder)
    event, trust = told(project_folder)
    assert trust is not None
    assert (event.why_not, event.images, event.trials) == ("", 2, len(trust.trials))
    assert {"", "defocus", "noise", "empty"} <= {*trust.kinds}
    assert len(msgspec.json.encode(trust)) < 1_000_000
    assert "learned from" in line_of(event)


def test_one_validation_image_is_too_few_and_it_is_said(project_folder: Path) -> None:
    event, trust = told(project_folder)
    assert trust is None
    assert event.why_not == "1 labelled validation images, it takes 2"
    assert "cannot tell how good its masks are" in line_of(event)


def test_without_time_nothing_is_learned(model_file: Path, project_folder: Path) -> None:
    add_validation_image(project_folder)
    with pytest.raises(
        CannotTell, match="1 places of the training images to compare with, it takes 8"
    ):
        learned(model_file, project_folder, seconds=0.0)


def rows(num_images: int = 4) -> list[Row]:
    """Return trials whose first signal tells their IoU."""
    rng = np.random.default_rng(0)
    made = []
    for image in range(num_images):
        for kind, iou in (("", 0.9), ("noise", 0.7), ("defocus", 0.5), ("empty", 0.2)) * 3:
            place = np.log(iou / (1 - iou))
            signals = np.array([place, *rng.normal(0, 0.1, 7), *rng.normal(0, 0.01, AXES)])
            made.append(
                Row(image=image, kind=kind, signals=signals, ious=np.array([iou, iou, np.nan]))
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
