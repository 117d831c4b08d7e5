"""predict computes where [compute] of the project says, unless an option says where."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands import predict as commands
from emcfsys_engine.commands import submit as submit_commands
from emcfsys_engine.commands.predict import files_of, make_prediction, predict, suggest
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import new_trainings
from emcfsys_engine.run.records import PredictRequest
from tests.learn.conftest import model_file

__all__ = ["model_file"]

MODEL = Path(__file__).parents[1] / "contracts" / "data" / "model-format-1.safetensors"
PROJECT = """
[project]
name = "p"
[classes]
a = 0
b = 1
[[data]]
images = "images"
masks = "masks"
[compute]
{compute}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model in a run of a project."""
    file = tmp_path / "project" / "runs" / "run-0001" / "best.safetensors"
    for folder in (file.parent, *(tmp_path / "project" / name for name in ("images", "masks"))):
        folder.mkdir(parents=True)
    shutil.copy(MODEL, file)
    _say(file, "gpus = 2\nthreads = 3")
    return file


def _say(model: Path, compute: str) -> None:
    (model.parents[2] / "project.toml").write_text(PROJECT.format(compute=compute))


def _asked(run: Run) -> tuple[int | None, int, int | None]:
    request = run.record().request
    assert isinstance(request, PredictRequest)
    return request.gpus, request.processes, request.threads


@pytest.mark.parametrize(
    ("compute", "options", "expected"),
    [
        ("gpus = 2\nthreads = 3", {}, (2, 1, 3)),
        ("gpus = 2\nthreads = 3", {"gpus": 1}, (1, 1, 3)),
        ("gpus = 2", {"gpus": 0}, (0, 1, None)),
        ("gpus = 2", {"processes": 4}, (0, 4, None)),
        ("gpus = 0\nprocesses = 2", {}, (0, 2, None)),
        ("gpus = 0\nprocesses = 2", {"processes": 1}, (None, 1, None)),
        ("threads = 1", {}, (None, 1, 1)),
    ],
)
def test_a_prediction_computes_where_the_models_project_says_unless_asked(
    model: Path, tmp_path: Path, compute: str, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    _say(model, compute)
    run = commands.make_prediction(model, ["in"], tmp_path / "out", **options)
    assert _asked(run) == expected


def test_a_model_of_no_project_or_of_a_damaged_one_is_used_all_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = commands.make_prediction(MODEL, ["in"], tmp_path / "out")
    assert _asked(run) == (None, 1, None)
    (model.parents[2] / "project.toml").write_text("[project")
    run = commands.make_prediction(model, ["in"], tmp_path / "out")
    assert _asked(run) == (None, 1, None)
    assert "Its [compute] is not heeded" in capsys.readouterr().err
    with pytest.raises(InputError, match="is for the processor"):
        commands.make_prediction(model, ["in"], tmp_path / "out", gpus=2, processes=2)


def test_a_submitted_prediction_waits_for_the_gpus_of_the_project(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[tuple[tuple[Any, ...], float | None]] = []

    def add(run: Run, _name: str, _project: object, options: dict[str, Any]) -> None:
        added.append((_asked(run), options["gpus"]))

    monkeypatch.setattr(submit_commands, "_add", add)
    for words in ([], ["--gpus", "0.5"], ["--processes", "2"]):
        command = ["predict", str(model), "in", "--out", str(tmp_path / "out"), *words]
        result = CliRunner().invoke(submit_commands.submit, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert added == [((2, 1, 3), 2.0), ((1, 1, 3), 0.5), ((0, 2, 3), 0.0)]


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
    ("text", "expected"),
    [("64", (64, None)), ("64%8", (64, 8)), ("auto", (16, None))],
)
def test_shards_are_a_number_of_tasks_and_how_many_at_a_time(
    model_file: Path, tmp_path: Path, text: str, expected: tuple[int, int | None]
) -> None:
    run = make_prediction(model_file, ["in"], tmp_path / "out", shards=text, gpus=2)
    request = run.record().request
    assert isinstance(request, PredictRequest)
    assert (request.shards, request.shards_at_once) == expected


@pytest.mark.parametrize("text", ["0", "x", "-1", "64%", "64%0", "64%x", "%8", "99999", ""])
def test_what_is_no_number_of_tasks_is_refused_with_what_is(
    model_file: Path, tmp_path: Path, text: str
) -> None:
    with pytest.raises(InputError, match=r"--shards.*Use 64"):
        make_prediction(model_file, ["in"], tmp_path / "out", shards=text)
    with pytest.raises(InputError, match="exclude one another"):
        make_prediction(model_file, ["in"], tmp_path / "out", shards="4", processes=2)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (predict, ["none.safetensors", "in", "--out", "out"]),
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


def test_a_region_is_kept_as_rows_and_columns(model: Path, tmp_path: Path) -> None:
    run = make_prediction(model, ["in"], tmp_path / "out", region=" 0 : 9, : 5 ")
    request = run.record().request
    assert isinstance(request, PredictRequest)
    assert request.region == "0:9,:5"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"region": "5:2,0:9"}, "--region.*holds no pixel.*0:2048,1024:4096"),
        ({"region": "all"}, "--region.*is no region"),
        ({"region": "0:9,0:9", "vectors": "coco"}, "--vectors: outlines are of whole images"),
        ({"shards": "4", "region_px": 1000}, "--region-px: 1000 is no multiple of 256"),
    ],
)
def test_regions_that_cannot_be_are_refused_before_a_run_is_made(
    model: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        make_prediction(model, ["in"], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_fold_that_stands_for_all_of_its_group_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "im":
        (tmp_path / name).mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname="p"\n[classes]\na=0\nb=1\n[[data]]\nimages="i"\nmasks="m"\n'
    )
    runs = new_trainings(load_project(tmp_path, ["training.kfold=2"]))
    for run in runs:
        run.best_model.write_bytes(b"a model")
    assert files_of(runs[1].folder, ()) == [run.best_model for run in runs]
    own = runs[1].best_model
    assert f"one of 2 folds, and the mean of all is used: for its own model alone name {own}" in (
        capsys.readouterr().err
    )
    assert files_of(tmp_path / "runs" / "kfold-0001", ()) == [run.best_model for run in runs]
    assert capsys.readouterr().err == ""
