"""What is kept of a validation."""

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.files import write_whole
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.training import checkpoint, validation
from emcfsys_engine.learn.training.metrics import Scores
from emcfsys_engine.learn.training.trainer import Trainer
from emcfsys_engine.learn.training.validation import preview_name, write_preview
from emcfsys_engine.model_card import ModelCard, NetworkSpec
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


RED = (220, 50, 47)
CARD = ModelCard(
    network=NetworkSpec(head="unet", backbone="resnet10t", num_classes=2),
    classes=("resin", "grain"),
    class_values=(0, 1),
    colours=((10, 20, 30), (200, 210, 220)),
    patch_px=64,
)


def test_a_name_leads_nowhere_and_keeps_its_end() -> None:
    name = preview_name(20, 1, "../a b/\x1b" + "c" * 200 + ".png")
    assert name.startswith("step-0000020-1-")
    assert "/" not in name
    assert "\x1b" not in name
    assert len(preview_name(20, 1, "\N{CJK UNIFIED IDEOGRAPH-20000}" * 200).encode()) < 255


def test_two_images_never_share_a_preview() -> None:
    assert preview_name(20, 1, "a b.png") != preview_name(20, 2, "a_b.png")


def test_wrong_pixels_are_red_and_unlabelled_ones_are_not(tmp_path: Path) -> None:
    truth = np.zeros((6, 8), np.uint8)
    truth[:, 4:] = 1
    truth[0] = 255
    predicted = np.zeros((6, 8), np.uint8)
    write_preview(tmp_path / "p" / "a.png", np.zeros((6, 8, 1), np.float32), truth, predicted, CARD)
    strip = np.asarray(Image.open(tmp_path / "p" / "a.png"))
    assert strip.shape == (6, 4 * 8 + 3 * 2, 3)
    error = strip[:, -8:]
    is_red = (error == RED).all(axis=2)
    assert is_red[1:, 4:].all()
    assert not is_red[:, :4].any()
    assert not is_red[0].any()
    assert tuple(strip[1, 10]) == CARD.colours[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_image_is_made_smaller(channels: int, tmp_path: Path) -> None:
    ids = np.zeros((600, 900), np.uint8)
    write_preview(tmp_path / "a.png", np.zeros((600, 900, channels), np.float32), ids, ids, CARD)
    height, width = np.asarray(Image.open(tmp_path / "a.png")).shape[:2]
    assert height <= 256
    assert width <= 4 * 256 + 6
