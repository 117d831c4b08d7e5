"""models and export: what there is, and refusals before any work."""

import json
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner

from emcfsys_engine.commands.models import export, models
from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.model_file import save_model
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.model_card import NormaliserSettings
from tests.commands.made import say
from tests.learn.conftest import TINY_CARD


def test_backbones_are_listed_by_pattern_with_where_their_weights_are() -> None:
    names = json.loads(say(models, "resnet3*", "--names", "--json"))["names"]
    assert "resnet34" in names
    assert all("resnet3" in name for name in names)
    shown = say(models, "resnet34")
    assert shown.startswith("backbone")
    assert "\nresnet34 " in shown


def test_an_export_over_a_file_that_is_there_is_refused_before_the_model_is_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.onnx").write_bytes(b"a person's")
    told = CliRunner().invoke(export, [str(tmp_path / "a.safetensors"), "--format", "onnx"])
    assert isinstance(told.exception, InputError)
    assert "is there already" in str(told.exception)
    assert (tmp_path / "a.onnx").read_bytes() == b"a person's"


def test_a_model_that_is_none_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no model")
    command = [str(tmp_path / "a.safetensors"), "--format", "torchscript"]
    told = CliRunner().invoke(export, command)
    assert isinstance(told.exception, InputError)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_an_export_tells_what_its_channels_are_in_masks(tmp_path: Path) -> None:
    network = build_network(TINY_CARD.network).eval()
    save_model(tmp_path / "a.safetensors", network, TINY_CARD)
    say(export, str(tmp_path / "a.safetensors"), "--format", "torchscript")
    extra = {"metadata.json": ""}
    torch.jit.load(tmp_path / "a.pt", _extra_files=extra)
    told = json.loads(extra["metadata.json"])
    assert told["class_names"] == [*TINY_CARD.classes]
    assert told["class_values"] == [*TINY_CARD.class_values]


def test_a_model_that_normalises_otherwise_than_exports_say_is_not_exported(
    tmp_path: Path,
) -> None:
    other = NormaliserSettings(low_percentile=2.0)
    card = msgspec.structs.replace(TINY_CARD, normaliser=other)
    save_model(tmp_path / "a.safetensors", build_network(card.network).eval(), card)
    command = [str(tmp_path / "a.safetensors"), "--format", "torchscript"]
    told = CliRunner().invoke(export, command)
    assert "normalises otherwise" in str(told.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("pattern", ["no-such-net", "["])
def test_a_pattern_that_nothing_matches_lists_nothing_and_ends_well(pattern: str) -> None:
    assert json.loads(say(models, pattern, "--json")) == {"models": []}
