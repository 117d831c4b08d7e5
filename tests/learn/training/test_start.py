"""Trainings that begin with a model file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from emcfsys_engine.errors import ProjectError
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.networks import models_list
from emcfsys_engine.learn.networks.backbones import DEFAULT_BACKBONE
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.training.start import (
    backbone_of,
    gentleness,
    load_start,
    started_network,
)
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import Run


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
