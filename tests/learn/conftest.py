"""A tiny project that trains in seconds, and a model made without training."""

import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.cli import cli
from emcfsys_engine.colours import colours_for
from emcfsys_engine.commands import predict as predict_commands
from emcfsys_engine.commands import train as train_commands
from emcfsys_engine.learn import worker
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.model_card import ModelCard, NetworkSpec
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.folder import Run

TINY = NetworkSpec(head="unet", backbone="mobilenetv3_small_050", num_classes=2)

PROJECT = """
[project]
name = "tiny"
[classes]
resin = 0
grain = 1
[[data]]
images = "images/train"
masks = "masks/train"
split = "train"
[[data]]
images = "images/val"
masks = "masks/val"
split = "val"
[model]
backbone = "mobilenetv3_small_050"
weights = "none"
[training]
steps = 8
validate_every = 4
patch_px = 32
batch = 2
[compute]
gpus = 0
threads = 1
"""


def write_picture(rng: np.random.Generator, image: Path, mask: Path, size: int = 64) -> None:
    """Draw bright discs on a dark noisy ground, and their mask."""
    rows, columns = np.indices((size, size))
    truth = np.zeros((size, size), np.uint8)
    for _ in range(4):
        y, x, radius = rng.uniform(5, size - 5), rng.uniform(5, size - 5), rng.uniform(5, 10)
        truth[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
    picture = np.clip(60 + 120 * truth + rng.normal(0, 15, truth.shape), 0, 255).astype(np.uint8)
    for path, pixels in ((image, picture), (mask, truth)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    """A project of three training images and one for validation."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 3), ("val", 1)):
        for index in range(number):
            name = f"{split}{index}.png"
            write_picture(
                rng, tmp_path / "images" / split / name, tmp_path / "masks" / split / name
            )
    (tmp_path / "project.toml").write_text(PROJECT)
    return tmp_path


TINY_CARD = ModelCard(
    network=TINY,
    classes=("resin", "grain"),
    class_values=(0, 7),
    colours=colours_for(2),
    patch_px=64,
    pixel_nm=4.0,
    project="tiny",
)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with random but fixed weights."""
    torch.manual_seed(0)
    network = build_network(TINY).eval()
    file = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(file, network, TINY_CARD)
    return file


def replace_model(file: Path) -> None:
    """Put another model of the same classes under a model file's name, as a training does."""
    _, card = load_model(file)
    torch.manual_seed(1)
    network = build_network(TINY).eval()
    save_model(file, network, msgspec.structs.replace(card, digests={}))


@pytest.fixture
def engine_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The command line, and its workers, in this process; returns what stands on stdout."""
    for module in (predict_commands, train_commands):
        monkeypatch.setattr(module, "run_in_foreground", run_here)

    def said(*words: object) -> str:
        result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return said


def run_here(run: Run) -> int:
    """Execute a run's worker in this process: it saves the seconds that importing torch takes."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    threads = torch.get_num_threads()
    try:
        return worker.main([str(run.folder)])
    finally:
        torch.set_num_threads(threads)
        for number, handler in before.items():
            signal.signal(number, handler)


NAMES = tuple("abcdefg")


def add_image(folder: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    write_picture(rng, folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png")


@pytest.fixture
def dealt(tmp_path: Path) -> Project:
    """A project whose images are dealt out by themselves."""
    for number, name in enumerate(NAMES):
        add_image(tmp_path, name, number)
    sources = PROJECT[PROJECT.index("[[data]]") : PROJECT.index("[model]")]
    one = '[[data]]\nimages = "images"\nmasks = "masks"\nunlabelled = "skip"\n'
    text = PROJECT.replace(sources, one).replace("validate_every = 4", "validate_every = 2")
    (tmp_path / "project.toml").write_text(text.replace("steps = 8", "steps = 2"))
    return load_project(tmp_path)
