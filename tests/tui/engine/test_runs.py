"""Budgets as a person writes them; a run is deleted that a person saw."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest, TrainRequest
from emcfsys_tui.engine.runs import budget_of, delete_run, give_way


def test_budgets_are_steps_or_minutes() -> None:
    assert budget_of("2,000") == "training.steps=2000"
    assert budget_of(" 30 min ") == "training.minutes=30"
    assert budget_of("0.5min") == "training.minutes=0.5"


def test_a_child_that_nobody_waits_for_comes_behind_the_keys_and_an_ended_one_harms_nothing() -> (
    None
):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        before = os.getpriority(os.PRIO_PROCESS, child.pid)
        give_way(child)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == min(before + 5, 19)
        child.communicate(b"\n")
    give_way(child)


def test_another_run_that_took_the_place_of_the_one_to_delete_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMCFSYS_HOME", str(tmp_path / "home"))
    seen = new_run(tmp_path / "runs", TrainRequest())
    created = seen.record().created
    shutil.rmtree(seen.folder)  # while the question is on the screen
    other = new_run(tmp_path / "runs", TrainRequest())
    assert other.folder == seen.folder
    with pytest.raises(RunFolderError, match="holds another run"):
        delete_run(seen.folder, created)
    assert other.folder.is_dir()
    assert delete_run(other.folder, other.record().created) == "run-0001 deleted"
    assert not other.folder.exists()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_run_whose_model_a_waiting_job_predicts_with_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    monkeypatch.setenv("EMCFSYS_HOME", str(tmp_path / "home"))
    trained = new_run(tmp_path / "runs", TrainRequest())
    trained.best_model.write_bytes(b"a model")
    models = [str(trained.best_model), str(tmp_path / "another.safetensors")]
    first, also = models if is_first else reversed(models)
    request = PredictRequest(model=first, also=(also,), inputs=("x",), out=str(tmp_path / "out"))
    waiting = new_run(tmp_path / "elsewhere", request)
    with Queue.open() as queue:
        number = queue.add(waiting.folder, project_name="p")
        with pytest.raises(RunFolderError, match=f"has the model that job {number} predicts with"):
            delete_run(trained.folder, trained.record().created)
        assert trained.best_model.exists()
        queue.cancel(number)
    delete_run(trained.folder, trained.record().created)
    assert not trained.folder.exists()


def test_a_run_with_another_project_or_outputs_in_its_folder_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`adapt` makes its project beside the model: with the run its trained models were lost."""
    monkeypatch.setenv("EMCFSYS_HOME", str(tmp_path / "home"))
    trained = new_run(tmp_path / "runs", TrainRequest())
    (trained.folder / "previews").mkdir()
    for name in ("best-adapted/project.toml", "test/masks/.emcfsys/outputs.jsonl"):
        file = trained.folder / name
        file.parent.mkdir(parents=True)
        file.write_text("")
        with pytest.raises(
            RunFolderError, match="holds what it did not make: .*(best-adapted|test)"
        ):
            delete_run(trained.folder, trained.record().created)
        assert file.exists()
        shutil.rmtree(trained.folder / file.relative_to(trained.folder).parts[0])
    delete_run(trained.folder, trained.record().created)
    assert not trained.folder.exists()
