"""models and export: what there is, and refusals before any work."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.models import export, models
from emcfsys_engine.errors import InputError
from tests.commands.made import say


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


@pytest.mark.parametrize("pattern", ["no-such-net", "["])
def test_a_pattern_that_nothing_matches_lists_nothing_and_ends_well(pattern: str) -> None:
    assert json.loads(say(models, pattern, "--json")) == {"models": []}
