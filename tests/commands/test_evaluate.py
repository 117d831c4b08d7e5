"""evaluate computes where [compute] of the project says, unless an option says where."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.evaluate import evaluate
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.learn import evaluate as evaluation
from tests.commands.test_predict import model

__all__ = ["model"]


def test_an_evaluation_computes_where_the_project_says_unless_asked(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, Any]] = []

    def noted(*_: object, gpus: int | None, processes: int, **__: object) -> object:
        asked.append((gpus, processes))
        raise InputError("here", "ends")

    monkeypatch.setattr(evaluation, "evaluate_project", noted)
    monkeypatch.setattr(evaluation, "evaluate_folders", noted)
    project = str(model.parents[2])
    for words in (
        [project],
        [project, "--gpus", "1"],
        ["--images", "i", "--masks", "m"],
        [project, "--processes", "3"],
    ):
        CliRunner().invoke(evaluate, [str(model), *words])
    assert asked == [(2, 1), (1, 1), (2, 1), (0, 3)]


def test_a_model_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(evaluate, ["none.safetensors", "--images", "i", "--masks", "m"])
    assert isinstance(told.exception, EmcfError)
    assert "none.safetensors" in str(told.exception)
    assert list(tmp_path.iterdir()) == []
