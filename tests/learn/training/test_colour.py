"""A network of three channels: one image's colours along the whole road, and greys beside them."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from tifffile import imwrite

from emcfsys_engine.errors import ModelFileError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.images.rows import rows_of, survey
from emcfsys_engine.learn.inference import bands as bands_module
from emcfsys_engine.learn.inference.predictor import GREY_TOLD, Picture, Predictor
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.networks.weights import load_weights
from emcfsys_engine.learn.training.plan import read_plan
from emcfsys_engine.model_card import NetworkSpec, read_card
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageDone, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import new_trainings
from emcfsys_engine.tools.check import check_project
from tests.learn.conftest import PROJECT, run_here
from tests.learn.hot import Hot

RESIN, GRAIN = (190, 60, 60), (60, 126, 60)  # as bright as each other


def _write(folder: Path, name: str, seed: int, size: int = 64) -> None:
    """Discs that only their colour tells from what is around them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((size, size))
    truth = np.zeros((size, size), np.uint8)
    for _ in range(5):
        y, x, radius = rng.uniform(5, size - 5), rng.uniform(5, size - 5), rng.uniform(6, 12)
        truth[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
    pixels = np.where(truth[..., None] > 0, GRAIN, RESIN) + rng.normal(0, 6, (size, size, 3))
    for place, array in (("images", np.clip(pixels, 0, 255)), ("masks", truth)):
        (folder / place).mkdir(exist_ok=True)
        Image.fromarray(array.astype(np.uint8)).save(folder / place / f"{name}.png")


def _project(folder: Path, channels: str, steps: int = 2) -> Path:
    for number in range(4):
        _write(folder, f"stained{number}", number)
    sources = PROJECT[PROJECT.index("[[data]]") : PROJECT.index("[model]")]
    text = PROJECT.replace(sources, '[[data]]\nimages = "images"\nmasks = "masks"\n')
    text = text.replace("[model]", f'[model]\nchannels = "{channels}"')
    text = text.replace("validate_every = 4", f"validate_every = {steps}")
    (folder / "project.toml").write_text(text.replace("steps = 8", f"steps = {steps}"))
    return folder


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose classes differ in nothing but colour, trained on its colours."""
    folder = _project(tmp_path_factory.mktemp("stained"), "auto", steps=40)
    assert run_here(_begin(folder)) == 0
    return folder


def _begin(folder: Path) -> Run:
    return new_trainings(load_project(folder))[0]


def _run_of(folder: Path) -> Run:
    return Run(next((folder / "runs").iterdir()))


def _warnings(run: Run) -> list[str]:
    return [event.message for event in run.events() if isinstance(event, WarningGiven)]


@pytest.mark.long
def test_auto_takes_colours_that_tell_classes_apart_and_says_why(coloured: Path) -> None:
    plan = read_plan(_run_of(coloured))
    assert plan.network.in_channels == 3
    assert "4 of 4 images" in plan.reasons["network.in_channels"]
    scores = read_card(_run_of(coloured).folder / "best.safetensors").scores
    assert (scores["mean_iou"] or 0) > 0.8
    preview = np.asarray(Image.open(next(_run_of(coloured).previews_folder.glob("*.png"))))
    assert (preview[:, :64].std(axis=-1) > 20).any(), "a preview shows colours"


def test_auto_stays_grey_where_colour_says_nothing(tmp_path: Path) -> None:
    folder = _project(tmp_path, "auto")
    for file in (folder / "images").glob("*.png"):
        grey = np.asarray(Image.open(file))[..., 0]
        Image.fromarray(np.dstack([grey, (grey * 0.8).astype(np.uint8), grey // 2])).save(file)
    run = _begin(folder)
    assert run_here(run) == 0
    plan = read_plan(run)
    assert plan.network.in_channels == 1
    assert plan.reasons["network.in_channels"].startswith("auto: grey")


def test_check_says_that_colour_is_dropped_by_a_network_of_greys(tmp_path: Path) -> None:
    folder = _project(tmp_path, "grey")
    told = [one for one in check_project(load_project(folder)).findings if "colour" in one.what]
    assert len(told) == 4
    assert "3 channels of equal luminance differ" in told[0].what
    assert 'channels = "rgb"' in told[0].remedy
    rgb = check_project(load_project(folder, ('model.channels="rgb"',)))
    assert not [one for one in rgb.findings if "colour is dropped" in one.what]


@pytest.mark.long
def test_files_arrays_and_scores_agree_in_colour(
    coloured: Path, tmp_path: Path, engine_here: Callable[..., str]
) -> None:
    model = _run_of(coloured).folder / "best.safetensors"
    _write(tmp_path, "new", 99)
    out = tmp_path / "out"
    engine_here("predict", model, tmp_path / "images", "--out", out, "--overlay")
    mask = np.asarray(Image.open(next(out.glob("new*.png"))))
    pixels = read_micrograph(tmp_path / "images" / "new.png").pixels
    assert np.array_equal(mask, Predictor(model, gpus=0)(pixels))
    truth = np.asarray(Image.open(tmp_path / "masks" / "new.png"))
    assert (mask == truth).mean() > 0.9
    found = json.loads(
        engine_here(
            "evaluate",
            model,
            "--images",
            tmp_path / "images",
            "--masks",
            tmp_path / "masks",
            "--json",
        )
    )
    assert found["scores"]["accuracy"] == pytest.approx((mask == truth).mean(), abs=0.02)
    assert "colours" in engine_here("inspect", model)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_bands_of_a_large_image_are_those_of_the_whole_in_colour(
    coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    model = Predictor(_run_of(coloured).folder / "best.safetensors", gpus=0)
    _write(tmp_path, "large", 5, size=96)
    pixels = read_micrograph(tmp_path / "images" / "large.png").pixels.astype(dtype)
    alpha = np.full((*pixels.shape[:2], 1), 200, dtype)
    file = tmp_path / "large.tif"
    imwrite(file, np.concatenate([pixels, alpha], axis=2), photometric="rgb", rowsperstrip=8)
    monkeypatch.setattr(bands_module, "LARGE_PX", 100)
    image = bands_module.open_image(ImageRef(path=file), model.normaliser, model.channels)
    assert image.is_large
    bands = model.bands(Picture(read=image.read, size_HW=image.size, ahead=True))
    mask = bands_module.whole(bands, model.card, image.size).mask
    assert np.array_equal(mask, model(pixels))
    image.close()


def test_statistics_of_channels_are_the_same_read_in_rows_and_at_once(coloured: Path) -> None:
    micrograph = read_micrograph(next((coloured / "images").iterdir()))
    found = survey(rows_of(micrograph), Normaliser(), channels=3)
    assert found.per_channel == Normaliser().per_channel(micrograph.pixels)
    assert survey(rows_of(micrograph), Normaliser()).per_channel == (found.statistics,)


def test_a_grey_image_is_used_three_times_and_that_is_said_once(
    coloured: Path, tmp_path: Path, engine_here: Callable[..., str]
) -> None:
    model = _run_of(coloured).folder / "best.safetensors"
    grey = tmp_path / "grey"
    grey.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 48), np.uint8)
        Image.fromarray(pixels).save(grey / f"{number}.png")
    engine_here("predict", model, grey, "--out", tmp_path / "out")
    run = Run(next((tmp_path / "out" / ".emcfsys").glob("run-*")))
    assert sum(GREY_TOLD in message for message in _warnings(run)) == 1
    predictor = Predictor(model, gpus=0)
    with pytest.warns(UserWarning, match="three times"):
        mask = predictor(pixels)
    assert np.array_equal(mask, predictor(np.dstack([pixels] * 3)))  # and no second warning


def test_a_grey_model_reads_a_coloured_image_as_it_always_did(
    model_file: Path, coloured: Path
) -> None:
    pixels = read_micrograph(next((coloured / "images").iterdir())).pixels
    weights = np.array((0.299, 0.587, 0.114), np.float32)
    predictor = Predictor(model_file, gpus=0)
    assert np.array_equal(predictor(pixels), predictor(pixels.astype(np.float32) @ weights))


def test_models_of_greys_and_of_colours_are_no_ensemble(
    model_file: Path, coloured: Path, tmp_path: Path
) -> None:
    grey, card = load_model(model_file)
    classes = read_card(_run_of(coloured).folder / "best.safetensors")
    same = {"classes": classes.classes, "class_values": classes.class_values}
    save_model(tmp_path / "grey.safetensors", grey, msgspec.structs.replace(card, **same))
    with pytest.raises(ModelFileError, match="one reads colours and the other greys"):
        Predictor.of([_run_of(coloured).folder / "best.safetensors", tmp_path / "grey.safetensors"])


def test_imagenets_weights_are_used_whole_by_a_network_of_colours() -> None:
    spec = NetworkSpec(head="unet", backbone="tf_efficientnet_lite0", in_channels=3, num_classes=2)
    network = build_network(spec)
    assert load_weights(network, "imagenet").share == 1
    first = network.encoder.body.get_parameter("conv_stem.weight")
    assert first.shape[1] == 3
    assert not torch.equal(first[:, 0], first[:, 1]), "the three are not one"


def test_a_hot_folder_serves_a_network_of_colours(coloured: Path, tmp_path: Path) -> None:
    hot = Hot(tmp_path, _run_of(coloured).folder / "best.safetensors")
    _write(hot.folder, "x", 3)
    (hot.folder / "images" / "x.png").rename(hot.incoming / "x.png")
    text = (hot.folder / "project.toml").read_text().replace("grain = 7", "grain = 1")
    (hot.folder / "project.toml").write_text(text)
    run = hot.new_run(once=True)
    assert run_here(run) == 0
    done = [event for event in run.events() if isinstance(event, ImageDone)]
    mask = np.asarray(Image.open(done[0].mask))
    truth = np.asarray(Image.open(hot.folder / "masks" / "x.png"))
    assert (mask == truth).mean() > 0.9
