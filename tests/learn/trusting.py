"""A model that learned when it fails, without a training."""

from pathlib import Path

import msgspec

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.images.normalise import GREY
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.training.start import datasets_of
from emcfsys_engine.learn.training.trust import learn_trust
from emcfsys_engine.model_card import Trust
from emcfsys_engine.project import load_project
from tests.learn.conftest import add_image


def learned(model: Path, folder: Path, seconds: float = 60.0) -> Trust:
    """Return what a model learns from a project's images."""
    project = load_project(folder)
    train, val = datasets_of(project, list_samples(project), GREY)
    return learn_trust(Predictor(model, gpus=0, tile_px=64), train, val, seed=0, seconds=seconds)


def with_trust(model: Path, trust: Trust, file: Path) -> Path:
    """Write a model file that can tell how good its masks are."""
    network, card = load_model(model)
    save_model(file, network, msgspec.structs.replace(card, trust=trust))
    return file


def add_validation_image(folder: Path) -> None:
    """Add a second one, the least from which anything is learned, and training images."""
    for kind in ("images", "masks"):
        (folder / kind / "val").mkdir(parents=True, exist_ok=True)
    add_image(folder, "val/val1", 11)
    for number in range(8):
        add_image(folder, f"train/more{number}", 20 + number)
