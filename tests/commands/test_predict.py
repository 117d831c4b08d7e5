"""predict, evaluate, suggest: what is refused before a run is made, and what a run is asked."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.predict import evaluate, make_prediction, predict, suggest
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.run.records import PredictRequest
from tests.learn.conftest import model_file

__all__ = ["model_file"]


def test_a_run_has_whole_paths_whatever_folder_one_stands_in(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = shutil.copy(model_file, tmp_path / "other.safetensors")
    run = make_prediction(
        model_file, ["in", "*.tif"], Path("out"), [other], vectors="coco, labelme"
    )
    request = run.record().request
    assert isinstance(request, PredictRequest)
    assert request.inputs == (str(tmp_path / "in"), str(tmp_path / "*.tif"))
    assert request.out == str(tmp_path / "out")
    assert request.vectors == ("coco", "labelme")
    assert request.also == (str(other),)


def test_a_format_that_is_none_is_refused_and_no_folder_is_made(
    model_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"'svg' is no format.*Use labelme"):
        make_prediction(model_file, ["in"], tmp_path / "out", vectors="svg")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (predict, ["none.safetensors", "in", "--out", "out"]),
        (evaluate, ["none.safetensors", "."]),
        (suggest, ["."]),
    ],
)
def test_what_is_not_there_is_named(
    command: object, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(command, words)  # type: ignore[arg-type]
    assert isinstance(told.exception, EmcfError)
    assert list(tmp_path.iterdir()) == []
