"""Several models as one: the mean of what each alone would say."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from emcfsys_engine.errors import ModelFileError, RunFolderError
from emcfsys_engine.learn.inference import ensemble
from emcfsys_engine.learn.inference.ensemble import load_members, merged
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.model_card import ModelCard, read_card
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import new_trainings
from tests.learn.conftest import TINY, replace_model
from tests.learn.hot import warnings_of


@pytest.fixture(scope="module")
def folds(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three model files that differ in their weights only."""
    folder = tmp_path_factory.mktemp("folds")
    files = [model_file]
    for seed in (1, 2):
        torch.manual_seed(seed)
        files.append(folder / f"fold{seed}.safetensors")
        save_model(files[-1], build_network(TINY).eval(), load_model(model_file)[1])
    return files


@pytest.mark.parametrize("tta", [False, True])
def test_probabilities_are_the_mean_of_each_models_own(folds: list[Path], tta: bool) -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 150), np.uint8)
    options = {"gpus": 0, "tile_px": 64, "tta": tta}
    each = [Predictor(file, **options).predict(image, probabilities=True) for file in folds]  # type: ignore[arg-type]
    joined = Predictor.of(folds, **options).predict(image, probabilities=True)
    shares = [np.asarray(one.probabilities, np.float32) for one in each]
    assert joined.probabilities is not None
    assert np.abs(joined.probabilities - np.mean(shares, axis=0)).max() <= 1.001  # of 255: rounding
    assert any(not np.array_equal(joined.mask, one.mask) for one in each)


def test_the_same_model_twice_is_that_model(model_file: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (70, 80), np.uint8)
    alone = Predictor(model_file, gpus=0, tile_px=64)(image)
    twice = Predictor([model_file, model_file], gpus=0, tile_px=64)(image)
    assert (alone != twice).mean() <= 1e-3


def test_members_are_merged_by_their_probabilities() -> None:
    logits = torch.tensor([[2.0], [0.0], [-4.0], [0.0]])[..., None]  # two members, two classes
    shares = merged(logits, 2).softmax(dim=0)
    sure, unsure = torch.tensor([2.0, 0.0]).softmax(0), torch.tensor([-4.0, 0.0]).softmax(0)
    torch.testing.assert_close(shares[:, 0, 0], (sure + unsure) / 2)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"class_values": (0, 1)}, "grain = 1, those of tiny.safetensors resin = 0, grain = 7"),
        ({"classes": ("resin", "void")}, "void = 7"),
        ({"pixel_nm": 8.0}, "was trained at 8 nm"),
    ],
)
def test_models_that_do_not_fit_are_refused_in_one_line(
    model_file: Path, tmp_path: Path, change: dict[str, object], word: str
) -> None:
    network, card = load_model(model_file)
    other = tmp_path / "other.safetensors"
    save_model(other, network, msgspec.structs.replace(card, **change))
    with pytest.raises(ModelFileError, match=word) as caught:
        Predictor.of([model_file, other], gpus=0)
    assert "\n" not in str(caught.value)
    assert "other.safetensors" in str(caught.value)


def test_a_card_is_of_the_weights_that_were_loaded_whatever_is_put_there_meanwhile(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.safetensors"
    shutil.copy(model_file, file)
    old = read_card(file)

    def looked(models: Sequence[Path]) -> ModelCard:
        replace_model(file)  # between the look at the header and the weights
        return old

    monkeypatch.setattr(ensemble, "check_members", looked)
    (network,), (card,) = load_members([file])
    assert card == read_card(file) != old
    torch.testing.assert_close(network.state_dict(), load_model(file)[0].state_dict())


def test_a_model_that_was_replaced_is_not_taken_in_the_midst_of_its_use(
    model_file: Path, tmp_path: Path
) -> None:
    """Where fp16 overflows the weights are read again: they were another model's."""
    files = [tmp_path / "m.safetensors", tmp_path / "n.safetensors"]
    for file in files:
        shutil.copy(model_file, file)
    predictor = Predictor(files, gpus=0)
    band = SimpleNamespace(sure=math.nan)
    predictor.precision = torch.float16
    assert predictor._overflows(band)  # type: ignore[arg-type]
    predictor.precision = torch.float16
    replace_model(files[1])
    with pytest.raises(ModelFileError, match=r"n\.safetensors.*was replaced by another model"):
        predictor._overflows(band)  # type: ignore[arg-type]


def test_masks_of_an_ensemble_are_told_from_those_of_its_first_model(
    folds: list[Path], tmp_path: Path, engine_here: Callable[..., str]
) -> None:
    rng = np.random.default_rng(0)
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name, more in (("a", ("--with", folds[1])), ("b", ()), ("c", ("--with", folds[1]))):
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(images / f"{name}.png")
        engine_here("predict", folds[0], images, "--out", out, *more)
    runs = [Run(folder) for folder in sorted((out / ".emcfsys").glob("run-*"))]
    told = [warnings_of(run) for run in runs]
    assert "of other models or settings" not in told[0]
    assert "1 mask that was there is of other models or settings (a.png)" in told[1]
    assert "1 mask that was there is of other models or settings (b.png)" in told[2]


@pytest.mark.long
def test_predict_and_evaluate_take_more_models(
    folds: list[Path], tmp_path: Path, engine_here: Callable[..., str]
) -> None:
    rng = np.random.default_rng(0)
    for name in ("images/a.png", "truth/a.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(rng.integers(0, 2, (64, 64), np.uint8) * 7).save(tmp_path / name)
    more = [word for file in folds[1:] for word in ("--with", file)]
    images, truth, out = tmp_path / "images", tmp_path / "truth", tmp_path / "out"
    engine_here("predict", folds[0], images, "--out", out, *more)
    with Image.open(images / "a.png") as image, Image.open(out / "a.png") as mask:
        assert np.array_equal(np.asarray(mask), Predictor.of(folds)(np.asarray(image)))
    told = engine_here("evaluate", folds[0], "--images", images, "--masks", truth, *more)
    assert "mean IoU" in told


@pytest.mark.long
def test_the_folds_of_a_training_predict_as_one(
    folds: list[Path], project_folder: Path, tmp_path: Path, engine_here: Callable[..., str]
) -> None:
    runs = new_trainings(load_project(project_folder, ["training.kfold=3"]))
    for run, file in zip(runs, folds, strict=True):
        shutil.copy(file, run.best_model)
    group = runs[0].folder.parent / runs[0].record().group
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    out = tmp_path / "out"
    engine_here("predict", group, tmp_path / "a.png", "--out", out)
    with Image.open(out / "a.png") as mask:
        assert np.array_equal(np.asarray(mask), Predictor.of(folds)(pixels))
    with pytest.raises(RunFolderError, match="is no run and no group of runs"):
        engine_here("predict", f"{group}x", tmp_path / "a.png", "--out", out)


@pytest.mark.parametrize(
    "other", [("--tta",), ("--rescale",), ("--overlap", "0.5"), ("--tile-px", "64")]
)
def test_masks_that_were_there_are_told_where_other_settings_are_asked_for(
    folds: list[Path], tmp_path: Path, engine_here: Callable[..., str], other: tuple[str, ...]
) -> None:
    image, out = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(image)
    for more in ((), (), other, ("--force", *other), other):
        engine_here("predict", folds[0], image, "--out", out, *more)
    runs = [Run(folder) for folder in sorted((out / ".emcfsys").glob("run-*"))]
    told = ["of other models or settings (a.png)" in warnings_of(run) for run in runs]
    assert told == [False, False, True, False, False]
