"""What is kept of a validation."""

import errno
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.files import write_whole
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.training import checkpoint, validation
from emcfsys_engine.learn.training.metrics import Scores
from emcfsys_engine.learn.training.trainer import Trainer
from emcfsys_engine.run.events import (
    WarningGiven,
)
from tests.learn.conftest import run_here
from tests.learn.training.made import made_setup, new_training


def test_a_full_disk_keeps_the_previous_best_and_is_told(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_training(project_folder, 12)
    written: list[Path] = []

    def once_only(file: Path, content: bytes) -> None:
        if file.name == "best.safetensors" and file in written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(file)
        write_whole(file, content)

    monkeypatch.setattr(checkpoint, "write_whole", once_only)
    # Every validation beats the one before, so that each wants to save a best model.
    scores = iter(range(1, 100))
    monkeypatch.setattr(Scores, "score", lambda self, best_by: float(next(scores)))
    assert run_here(run) == 0
    assert load_model(run.best_model)[1].step == 3
    warnings = [event.message for event in run.events() if isinstance(event, WarningGiven)]
    assert any("No space left" in text and "whole" in text for text in warnings)
    assert run.final_model.exists()


def test_images_are_taken_only_for_classes_that_are_found_well(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, _ = made_setup(project_folder)
    validator = Trainer(setup).validator
    assert validator.guesses(setup.train) == {}  # nobody looked yet
    monkeypatch.setattr(validation, "_WELL_IOU", 0.0)
    validator.at(1)
    found = validator.guesses(setup.train)
    assert list(found) == ["train0", "train1", "train2"]
    assert all(set(np.unique(one)) <= {0, 1} and one.shape == (64, 64) for one in found.values())
    monkeypatch.setattr(validation, "_WELL_IOU", 1.1)
    validator.at(2)
    assert validator.guesses(setup.train) == {}
