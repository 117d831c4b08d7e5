"""Strips of validation images show what was predicted and where it is wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.learn.training.previews import preview_name, write_preview
from emcfsys_engine.model_card import ModelCard, NetworkSpec

RED = (220, 50, 47)
CARD = ModelCard(
    network=NetworkSpec(head="unet", backbone="resnet10t", num_classes=2),
    classes=("resin", "grain"),
    class_values=(0, 1),
    colours=((10, 20, 30), (200, 210, 220)),
    patch_px=64,
)


def test_a_name_leads_nowhere_and_keeps_its_end() -> None:
    name = preview_name(20, "../a b/\x1b" + "c" * 200 + ".png")
    assert name.startswith("step-0000020-")
    assert "/" not in name
    assert "\x1b" not in name
    assert len(name) < 110


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
