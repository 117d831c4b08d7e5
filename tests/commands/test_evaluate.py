"""evaluate computes where [compute] of the project says, unless an option says where."""

from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands import submit as submit_commands
from emcfsys_engine.commands.evaluate import evaluate
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.jobs.job import Kind
from emcfsys_engine.learn import evaluate as evaluation
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import EvaluateRequest, Request
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


def test_scores_of_other_settings_than_the_hot_folders_are_told(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object, **__: object) -> object:
        raise InputError("here", "ends")

    monkeypatch.setattr(evaluation, "evaluate_project", ends)
    project = model.parents[2] / "project.toml"
    said = CliRunner().invoke(evaluate, [str(model), str(project)])
    assert "its hot folder" not in said.output
    project.write_text(project.read_text() + "\n[inference]\ntta = true\n")
    said = CliRunner().invoke(evaluate, [str(model), str(project)])
    assert "its hot folder predicts with tta = true, overlap = 0.25" in said.output
    said = CliRunner().invoke(evaluate, [str(model), str(project), "--tta"])
    assert "its hot folder" not in said.output


def test_a_model_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(evaluate, ["none.safetensors", "--images", "i", "--masks", "m"])
    assert isinstance(told.exception, EmcfError)
    assert "none.safetensors" in str(told.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_submitted_evaluation_holds_the_project_and_asks_for_its_gpus(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[tuple[EvaluateRequest, str, float | None]] = []

    def add(run: Run, name: str, _project: object, options: dict[str, Any]) -> None:
        request = run.record().request
        assert isinstance(request, EvaluateRequest)
        assert run.folder.parent == tmp_path / "out" / ".emcfsys"
        added.append((request, name, options["gpus"]))

    monkeypatch.setattr(submit_commands, "_add", add)
    project = model.parents[2]
    for words in ([], ["--gpus", "0.5", "--shards", "6%2", "--split", "test"]):
        command = ["evaluate", str(model), str(project), "--out", str(tmp_path / "out"), *words]
        result = CliRunner().invoke(submit_commands.submit, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    (plain, name, gpus), (asked, _, half) = added
    assert plain.project == load_project(project)
    assert (plain.shards, plain.gpus, plain.threads, name, gpus) == (1, 2, 3, "out", 2.0)
    assert (asked.shards, asked.shards_at_once, asked.gpus, half) == (6, 2, 1, 0.5)
    assert asked.split == "test"


def test_every_kind_of_request_is_a_kind_of_job() -> None:
    tags = {kind.__struct_config__.tag for kind in get_args(Request)}
    assert tags == set(get_args(Kind))
