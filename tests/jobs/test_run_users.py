"""Whoever needs something in a run's folder is found, before any of it is removed."""

import fcntl
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.runs import clean
from emcfsys_engine.jobs import run_users
from emcfsys_engine.jobs.queue import Queue, submit_extension
from emcfsys_engine.jobs.run_users import RunUsers
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.events import CheckpointSaved, EventWriter, RunFinished, RunStarted
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.models_used import InUse
from emcfsys_engine.run.records import (
    ConvertRequest,
    EvaluateRequest,
    MeasureRequest,
    PredictRequest,
    TrainRequest,
    WatchRequest,
)

_TOML = """[project]
name = "p"
[classes]
a = 0
b = 1
[[data]]
images = "i"
masks = "m"
"""


def project_in(folder: Path, more: str = "") -> Project:
    for name in ("i", "m"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "project.toml").write_text(_TOML + more)
    return load_project(folder)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMCFSYS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def trained(tmp_path: Path) -> Run:
    """A training that ended well."""
    run = new_run(tmp_path / "p" / "runs", TrainRequest(), project=project_in(tmp_path / "p"))
    for name in ("best.safetensors", "final.safetensors", "checkpoint-last.safetensors"):
        (run.folder / name).write_bytes(b"weights")
    with EventWriter(run.events_file) as events:
        events.write(RunStarted(run=run.id, does="train"))
        events.write(CheckpointSaved(step=4, file="checkpoint-last.safetensors", role="last"))
        events.write(RunFinished(reason="steps"))
    return run


def why(run: Run, *files: Path, places: tuple[Path, ...] = ()) -> str:
    use = RunUsers((run.folder.parent.parent, *places)).of(run, files or [run.folder])
    return use.why if use else ""


def _training(run: Run, other: Path, key: str) -> Run:
    project = project_in(other, f'[model]\n{key} = "{run.best_model}"\n')
    return new_run(project.runs_folder, TrainRequest(), project=project)


def _on_data_of_it(run: Run, other: Path) -> Run:
    (run.folder / "previews").mkdir()
    text = _TOML.replace('"i"', f'"{run.folder}/previews/*.png"')
    project_in(other)
    (other / "project.toml").write_text(text)
    return new_run(other / "runs", TrainRequest(), project=load_project(other))


def _watch(run: Run, other: Path, model: str, recipe: str = "") -> Run:
    request = WatchRequest(model=model, watch="/w", output="/o", recipe=recipe)
    return new_run(other / "runs", request, project=project_in(other))


def _prediction(other: Path, **said: str) -> Run:
    words = {"model": "/m", "inputs": ("/x",), "out": str(other / "out"), **said}
    return new_run(other, PredictRequest(**words))  # type: ignore[arg-type]


def _evaluation(other: Path, project: Project | None = None, **said: str) -> Run:
    words = {"model": "/m", "out": str(other / "out"), **said}
    return new_run(other, EvaluateRequest(shards=2, project=project, **words))  # type: ignore[arg-type]


def _evaluation_of_it(run: Run, other: Path) -> Run:
    return _evaluation(other, load_project(_on_data_of_it(run, other).folder.parent.parent))


_USERS: dict[str, Callable[[Run, Path], Run]] = {
    "the model that {} begins with": lambda run, other: _training(run, other, "start"),
    "the model that {} begins with ": lambda run, other: _training(run, other, "weights"),
    "data that {} trains on": _on_data_of_it,
    "the model that {} predicts with": lambda run, other: _watch(run, other, str(run.best_model)),
    "the recipe that {} follows": lambda run, other: _watch(
        run, other, "/m", recipe=str(run.folder / "a.recipe.json")
    ),
    "the folder that {} writes into": lambda run, other: _prediction(
        other, out=str(run.folder / "masks")
    ),
    "images that {} predicts": lambda run, other: _prediction(
        other,
        inputs=(str(run.folder / "*.png"),),  # type: ignore[arg-type]
    ),
    "the model that {} predicts with ": lambda run, other: _evaluation(
        other,
        also=(str(run.best_model),),  # type: ignore[arg-type]
    ),
    "the folder that {} writes into ": lambda run, other: _evaluation(other, out=str(run.folder)),
    "labelled images that {} compares with": lambda run, other: _evaluation(
        other, images="/i", masks=str(run.folder / "masks")
    ),
    "labelled images that {} compares with ": _evaluation_of_it,
    "masks or images that {} measures": lambda run, other: new_run(
        other, MeasureRequest(masks=f"{run.folder}/*.png", out=str(other / "out"))
    ),
    "files that {} converts": lambda run, other: new_run(
        other, ConvertRequest(source=f"{run.folder}/*.png", out=str(other / "out"), to="png")
    ),
}


@pytest.mark.parametrize("words", _USERS)
def test_a_waiting_job_of_any_project_is_found_by_whatever_it_reads_or_writes(
    trained: Run, tmp_path: Path, words: str
) -> None:
    assert why(trained) == ""
    waiting = _USERS[words](trained, tmp_path / "other")
    with Queue.open() as queue:
        number = queue.add(waiting.folder, project_name="other")
        assert why(trained) == "has " + words.strip().format(f"job {number}")
        queue.cancel(number)
    # Of what the cancelled job read only its project's own word is left.
    named = "what " if words.startswith(("the model that {} begins", "data")) else ""
    assert why(trained).startswith(f"has {named}" if named else "")


def test_a_training_that_runs_without_a_queue_is_found(trained: Run) -> None:
    other = _training(trained, trained.folder.parent.parent, "start")
    project_in(trained.folder.parent.parent)  # the project says something else by now
    assert why(trained) == ""
    with other.lock_file.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert why(trained) == f"has the model that {other.id} begins with"


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("hotfolder", "model", "run-0001"),
        ("hotfolder", "model", "runs/run-0001/final.safetensors"),
        ("hotfolder", "output", "runs/run-0001/masks"),
        ("suggest", "model", "run-0001"),
        ("model", "start", "runs/run-0001/best.safetensors"),
        ("model", "weights", "link.safetensors"),
    ],
)
def test_what_a_project_names_is_needed_even_where_its_toml_has_other_faults(
    trained: Run, table: str, key: str, value: str
) -> None:
    folder = trained.folder.parent.parent
    (folder / "link.safetensors").symlink_to(trained.best_model)
    faulty = _TOML.replace('"i"', '"gone"')
    named = f'[{table}]\n{key} = "{value}"\nno_key = 1\n'
    (folder / "project.toml").write_text(faulty + named)
    assert why(trained) == f"has what {folder / 'project.toml'} names: {table}.{key}"
    assert why(trained, trained.checkpoint_file) == ""


def test_a_run_stays_while_what_a_project_names_cannot_be_read(
    trained: Run, tmp_path: Path
) -> None:
    """While an editor saved project.toml, the model that its hot folder predicts by could go."""
    file = trained.folder.parent.parent / "project.toml"
    whole = _TOML + '[hotfolder]\nmodel = "run-0001"\n'
    for half in ("", whole[:9], whole[: whole.index("[classes]") + 4], whole[:-3]):
        file.write_text(half)
        assert why(trained).startswith(f"may be what {file} names, which ")
        assert why(trained, trained.checkpoint_file)
    file.write_text(whole)
    assert why(trained, trained.checkpoint_file) == ""
    waiting = _watch(trained, tmp_path / "other", str(trained.best_model))
    file.write_text(_TOML)
    with Queue.open() as queue:
        queue.add(waiting.folder, project_name="other")
    waiting.record_file.write_bytes(b"{")
    assert why(trained).startswith(f"may be what {waiting.record_file} names, which ")


def test_projects_are_known_by_their_jobs_and_by_those_who_ask(
    trained: Run, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    project_in(other, f'[hotfolder]\nmodel = "{trained.best_model}"\n')
    assert why(trained) == ""
    assert "hotfolder.model" in why(trained, places=(other,))
    with Queue.open() as queue:
        run = new_run(other / "runs", TrainRequest(), project=project_in(tmp_path / "third"))
        queue.cancel(queue.add(run.folder, project_name="other"))
    assert "hotfolder.model" in why(trained)


def test_a_process_that_has_the_model_in_use_is_found_whoever_began_it(trained: Run) -> None:
    held = InUse([trained.best_model])
    assert why(trained) == "has a model that a process predicts with now"
    assert why(trained, trained.checkpoint_file) == ""
    held.end()
    assert why(trained) == ""


def test_the_checkpoint_of_a_run_that_waits_for_its_extension_is_not_cleaned(trained: Run) -> None:
    """It was: the extension then was refused, and the run could never be trained on."""
    folder = str(trained.folder.parent.parent)
    with Queue.open() as queue:
        number = submit_extension(queue, trained, ("training.steps=9",))
        told = CliRunner().invoke(clean, [folder, "--yes"], catch_exceptions=False)
        assert f"run-0001     left alone: it has an open job {number}" in told.output
        assert trained.checkpoint_file.exists()
        queue.cancel(number)
    CliRunner().invoke(clean, [folder, "--yes"], catch_exceptions=False)
    assert not trained.checkpoint_file.exists()


def test_a_checkpoint_that_another_training_begins_with_is_not_cleaned(
    trained: Run, tmp_path: Path
) -> None:
    more = f'[model]\nweights = "{trained.checkpoint_file}"\n'
    project = project_in(tmp_path / "other", more)
    run = new_run(project.runs_folder, TrainRequest(), project=project)
    with Queue.open() as queue:
        queue.add(run.folder, project_name="other")
    told = CliRunner().invoke(clean, [str(trained.folder), "--yes"], catch_exceptions=False)
    assert "left alone: it has the model that job 1 begins with" in told.output
    assert trained.checkpoint_file.exists()


def _linked(tmp_path: Path) -> tuple[Project, Project]:
    """Two projects whose folders of runs are links to one."""
    for name in "ab":
        project_in(tmp_path / name)
        (tmp_path / name / "runs").symlink_to(tmp_path / "all")
    (tmp_path / "all").mkdir()
    a, b = (load_project(tmp_path / name) for name in "ab")
    return a, b


def test_of_projects_that_share_their_runs_by_links_each_needs_its_own(tmp_path: Path) -> None:
    """Delete in one took the run whose job, of the same folder by another name, the other had."""
    a, b = _linked(tmp_path)
    with Queue.open() as queue:
        number = queue.add(
            new_run(a.runs_folder, TrainRequest(), project=a).folder, project_name="a"
        )
        assert why(Run(b.runs_folder / "run-0001")) == f"has an open job {number}"
        queue.cancel(number)
    assert why(Run(b.runs_folder / "run-0001")) == ""
    (a.folder / "project.toml").write_text(_TOML + '[suggest]\nmodel = "run-0001"\n')
    needed = f"has what {a.folder / 'project.toml'} names: suggest.model"
    assert why(Run(b.runs_folder / "run-0001")) == needed


def test_clean_leaves_the_runs_of_a_project_that_shares_the_folder(tmp_path: Path) -> None:
    a, b = _linked(tmp_path)
    run = new_run(a.runs_folder, TrainRequest(), project=a)
    (run.folder / "checkpoint-last.safetensors").write_bytes(b"weights")
    with EventWriter(run.events_file) as events:
        events.write(RunFinished(reason="steps"))
    told = CliRunner().invoke(clean, [str(b.folder), "--yes"], catch_exceptions=False)
    assert f"left alone: it is of the project {a.folder}" in told.output
    assert run.checkpoint_file.exists()
    CliRunner().invoke(clean, [str(a.folder), "--yes"], catch_exceptions=False)
    assert not run.checkpoint_file.exists()


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that two hosts share; this one is called so."""
    monkeypatch.delenv("EMCFSYS_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "emcfsys"


def test_a_job_in_the_queue_of_another_host_of_the_same_home_is_found(
    trained: Run, hosts: Path
) -> None:
    """Delete asked this host's queue alone, and took a run that waited on the other."""
    with Queue.open(hosts / "other") as queue:
        number = queue.add(trained.folder, project_name="p")
        assert why(trained).startswith(f"has an open job {number} on other (its queue is")
        queue.cancel(number)
    assert why(trained) == ""
    (hosts / "third").mkdir()
    (hosts / "third" / "queue.sqlite").write_bytes(b"rubbish" * 100)
    assert why(trained) == f"may have a job in {hosts / 'third' / 'queue.sqlite'}"


def test_what_is_said_of_the_queue_of_a_host_that_has_another_name_now_frees_its_runs(
    trained: Run, hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can cancel a job on a host that is no more: Delete was refused for ever."""
    with Queue.open(hosts / "former name") as queue:
        queue.add(trained.folder, project_name="p")
    told = RunUsers().of(trained, [trained.folder])
    assert told is not None
    (command,) = re.findall(r"here: (.+)$", told.remedy)
    (home, program, *words) = shlex.split(command)
    assert program == "emcfsys-engine"
    environment = os.environ | dict([home.split("=", 1)])
    subprocess.run([sys.executable, "-m", "emcfsys_engine", *words], check=True, env=environment)
    assert why(trained) == ""
    broken = hosts / "third" / "queue.sqlite"
    broken.parent.mkdir()
    broken.write_bytes(b"rubbish" * 100)
    told = RunUsers().of(trained, [trained.folder])
    assert told is not None
    (command,) = re.findall(r"mv .+$", told.remedy)
    subprocess.run(shlex.split(command), check=True)
    assert why(trained) == ""


def test_a_run_that_another_host_began_and_nobody_ended_is_left_to_it(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every network tells a lock from host to host: it may run."""
    project = load_project(trained.folder.parent.parent)
    run = new_run(project.runs_folder, TrainRequest(), project=project)
    assert why(run) == ""
    monkeypatch.setattr(run_users, "file_system_of", lambda place: "nfs4")
    assert why(run) == ""
    run.write_record(msgspec.structs.replace(run.record(), host="other"))
    assert why(run) == "was begun on other, and may wait or run there"
    with EventWriter(run.events_file) as events:
        events.write(RunFinished(reason="steps"))
    assert why(run) == ""
    assert why(trained) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files another user's")
def test_a_run_of_another_user_is_not_taken_while_it_may_wait_in_their_queue(trained: Run) -> None:
    os.chown(trained.record_file, 12345, -1)
    assert why(trained) == ""
    trained.events_file.unlink()
    assert why(trained) == "is user 12345's, and may wait in their queue"


def test_a_job_that_names_what_no_file_is_called_needs_nothing(
    trained: Run, tmp_path: Path
) -> None:
    with Queue.open() as queue:
        queue.add(_prediction(tmp_path / "other", model="/a\0b").folder, project_name="other")
    assert why(trained) == ""
