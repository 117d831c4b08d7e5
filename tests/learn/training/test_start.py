"""Trainings that begin with a model file."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from tifffile import imwrite

from emcfsys_engine.errors import ModelFileError, ProjectError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.images.rows import rows_of, survey
from emcfsys_engine.learn.inference import bands as bands_module
from emcfsys_engine.learn.inference.predictor import GREY_TOLD, Picture, Predictor
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.networks import models_list
from emcfsys_engine.learn.networks.backbones import DEFAULT_BACKBONE
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.networks.weights import load_weights
from emcfsys_engine.learn.training.plan import read_plan
from emcfsys_engine.learn.training.start import backbone_of, gentleness, load_start, started_network
from emcfsys_engine.model_card import NetworkSpec, read_card
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageDone, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import new_trainings
from emcfsys_engine.tools.check import check_project
from tests.learn.conftest import PROJECT, run_here
from tests.learn.hot import Hot


def test_classes_are_taken_over_by_their_names_in_whatever_order(
    project_folder: Path, model_file: Path
) -> None:
    text = (project_folder / "project.toml").read_text()
    changed = text.replace("resin = 0\ngrain = 1", "grain = 0\nvoid = 1")
    (project_folder / "project.toml").write_text(changed)
    project = load_project(project_folder)
    torch.manual_seed(1)
    network = build_network(started_network(project, model_file, auxiliary=False))
    before = network.state_dict()["head.weight"][1].clone()
    said = load_start(project, model_file, network)
    known, own = load_model(model_file)[0].state_dict(), network.state_dict()
    assert torch.equal(own["head.weight"][0], known["head.weight"][1])
    assert torch.equal(own["head.bias"][0], known["head.bias"][1])
    assert torch.equal(own["head.weight"][1], before)
    others = [name for name in known if not name.startswith("head.")]
    assert all(torch.equal(own[name], known[name]) for name in others)
    assert "new: void" in said
    assert "no longer: resin" in said


@pytest.mark.parametrize(
    ("length", "rate", "head_first"),
    [("minutes=0.5", 1.0, 0.0), ("minutes=10", 0.3, 0.2), ("steps=30", 0.3, 0.2)],
)
def test_a_training_that_goes_on_is_gentle_unless_it_is_too_short_for_that(
    project_folder: Path, model_file: Path, length: str, rate: float, head_first: float
) -> None:
    settings = [f"model.start={model_file}", f"training.{length}"]
    found = gentleness(load_project(project_folder, settings))
    assert found[:2] == (rate, head_first)
    assert ("minutes are too short" in found[2]) == (length == "minutes=0.5")
    assert gentleness(load_project(project_folder, settings[1:])) == (1.0, 0.0, "")


def test_another_network_than_the_models_is_refused_with_what_to_write(
    project_folder: Path, model_file: Path
) -> None:
    project = load_project(project_folder, ["model.head=pspnet"])
    with pytest.raises(ProjectError, match='head = "unet"'):
        started_network(project, model_file, auxiliary=False)


def test_a_training_goes_on_from_a_model_and_the_plan_says_so(
    project_folder: Path, model_file: Path, engine_here: Callable[..., str]
) -> None:
    words = ("--set", "training.steps=2", "--set", "training.validate_every=1")
    place = engine_here("train", project_folder, "--from", model_file, *words).splitlines()[-1]
    run = Run(Path(place))
    plan = json.loads(run.plan_file.read_text())
    assert "the whole network of tiny.safetensors" in plan["weights"]
    assert plan["head_first"] > 0
    began = load_model(model_file)[0].state_dict()
    moved = load_model(run.final_model)[0].state_dict()
    assert not torch.equal(moved["head.weight"], began["head.weight"])


@pytest.mark.parametrize(
    ("here", "preset", "device", "expected"),
    [
        ({"resnet50", "convnext_tiny"}, "best", "cuda", "convnext_tiny"),
        (set(), "best", "cuda", DEFAULT_BACKBONE),
        ({"resnet50"}, "best", "cpu", DEFAULT_BACKBONE),
        ({"resnet50"}, "standard", "cuda", DEFAULT_BACKBONE),
    ],
)
def test_best_takes_the_strongest_backbone_that_is_here_on_a_gpu(
    project_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: set[str],
    preset: str,
    device: str,
    expected: str,
) -> None:
    monkeypatch.setattr(models_list, "weights_here", lambda name: "copied" * (name in here))
    file = project_folder / "project.toml"
    text = file.read_text().replace('weights = "none"', 'weights = "imagenet"')
    file.write_text(text.replace('backbone = "mobilenetv3_small_050"\n', ""))
    project = load_project(project_folder, (f"training.preset={preset}",))
    found, why = backbone_of(project, torch.device(device))
    assert found == expected
    assert bool(why) == (preset == "best" and device == "cuda")
    named = load_project(project_folder, ("model.backbone=resnet18", "training.preset=best"))
    assert backbone_of(named, torch.device("cuda")) == ("resnet18", "")


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
