"""submit: folds, GPUs, extensions; what is refused leaves nothing behind."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands import submit as submit_commands
from emcfsys_engine.errors import InputError, QueueError
from emcfsys_engine.hotfolder.journal import NAME
from emcfsys_engine.hotfolder.places import FOLDER
from emcfsys_engine.hotfolder.recipe import lock_recipe
from emcfsys_engine.hotfolder.review import overview
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.launch.start import processes_of
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import Run
from tests.commands.made import say
from tests.jobs.conftest import Bench, wait_for
from tests.learn.conftest import model_file
from tests.learn.hot import Hot

__all__ = ["model_file"]


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n'
        '[[data]]\nimages = "images"\nmasks = "masks"\n[compute]\ngpus = 0\n'
    )
    return folder


def test_folds_are_jobs_of_one_group(
    home: Bench, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_commands, "ensure_daemon", lambda: None)
    words = ("train", str(project_folder), "--set", "training.kfold=3")
    assert say(submit_commands.submit, *words).split() == ["1", "2", "3"]
    jobs = home.queue.list()
    assert {job.group for job in jobs} == {"kfold-0001"}
    assert [Run(Path(job.run)).record().fold for job in jobs] == [1, 2, 3]
    assert say(submit_commands.submit, *words, "--group", "night").split() == ["4", "5", "6"]
    assert {job.group for job in home.queue.list()} == {"kfold-0001", "night"}


def test_a_refused_training_leaves_no_folds_behind(
    home: Bench, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_commands, "ensure_daemon", lambda: None)
    words = ("train", str(project_folder), "--set", "training.kfold=3", "--gpus", "64")
    result = CliRunner().invoke(submit_commands.submit, words)
    assert isinstance(result.exception, QueueError)
    assert not home.queue.list()
    assert not list((project_folder / "runs").iterdir())


def test_as_many_gpus_are_asked_for_as_there_are_processes(
    home: Bench, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(submit_commands, "ensure_daemon", lambda: None)

    def add(queue: Queue, folder: Path, **options: object) -> int:
        asked.append((Run(folder), options["gpus"]))
        return len(asked)

    monkeypatch.setattr(Queue, "add", add)
    for words in (("--set", "compute.gpus=4"), ("--gpus", "2"), ("--gpus", "0.5"), ("--gpus", "0")):
        say(submit_commands.submit, "train", str(project_folder), *words)
    records = [run.record() for run, _ in asked]  # type: ignore[attr-defined]
    assert [gpus for _, gpus in asked] == [4.0, 2.0, 0.5, 0.0]  # type: ignore[misc]
    assert [processes_of(record.project) for record in records] == [4, 2, 1, 1]


def test_an_ended_training_is_queued_with_more_steps_and_nothing_else(
    home: Bench, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_commands, "ensure_daemon", lambda: None)
    say(submit_commands.submit, "train", str(project_folder))
    home.queue.cancel(1)
    run = project_folder / "runs" / "run-0001"
    extend = ("extend", str(run), "--set")
    with pytest.raises(InputError, match="cannot change a resumed run"):
        say(submit_commands.submit, *extend, "model.head=pspnet")
    assert say(submit_commands.submit, *extend, "training.steps=500").strip() == "2"
    project = Run(run).record().project
    assert project is not None and project.training.steps == 500
    with pytest.raises(QueueError, match="is job 2 of the queue"):
        say(submit_commands.submit, *extend, "training.steps=600")
    project = Run(run).record().project
    assert project is not None and project.training.steps == 500


def test_an_extension_that_is_cancelled_while_it_waits_leaves_no_trace(
    home: Bench, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_commands, "ensure_daemon", lambda: None)
    say(submit_commands.submit, "train", str(project_folder))
    home.queue.cancel(1)
    run = Run(project_folder / "runs" / "run-0001")
    before = run.record_file.read_bytes()
    for number, steps in ((2, 500), (3, 900)):
        words = ("extend", str(run.folder), "--set", f"training.steps={steps}")
        assert say(submit_commands.submit, *words).strip() == str(number)
        assert run.record_file.read_bytes() != before
        home.queue.pause(number)
        home.queue.cancel(number)
        assert run.record_file.read_bytes() == before


@pytest.mark.long
def test_a_watch_by_a_recipe_is_refused_at_once_where_it_differs_and_else_followed_over_an_end(
    home: Bench, tmp_path: Path, model_file: Path
) -> None:
    (tmp_path / "hot").mkdir()
    hot = Hot(tmp_path / "hot", model_file, "[limits.confidence]\nreview_below = 0.99")
    file = tmp_path / "night.json"
    recipe = lock_recipe(load_project(hot.folder), model_file, file)
    changed = tmp_path / "changed.json"
    changed.write_text(file.read_text().replace("0.99", "0.5"))
    watch = ("watch", str(hot.folder), "--recipe")
    for more, why in (
        ([str(tmp_path / "none.json")], "there is no such recipe"),
        ([str(changed)], "was changed after it was locked"),
        ([str(file), "--set", "limits.confidence.review_below=0.9"], "the recipe has 0.99, the pr"),
    ):
        told = CliRunner().invoke(submit_commands.submit, [*watch, *more])
        assert isinstance(told.exception, InputError)
        assert why in str(told.exception)
        assert "\n" not in str(told.exception)
    assert not (hot.folder / "runs").exists()
    assert not home.queue.list()

    hot.image("a.png")
    assert say(submit_commands.submit, *watch, str(file)).strip() == "1"
    wait_for(lambda: overview(hot.output).verdicts.get("review") == 1, seconds=240)
    assert overview(hot.output).recipe == recipe.id
    run = Run(hot.folder / "runs" / "run-0001")
    home.terminate(run)  # of a colleague: the daemon starts it again, by the same recipe
    wait_for(lambda: home.queue.get(1).starts == 2, seconds=240)
    hot.image("b.png", 1)
    wait_for(lambda: overview(hot.output).verdicts.get("review") == 2, seconds=240)
    home.queue.cancel(1)
    home.wait(1, "cancelled", "done", seconds=240)
    acts = (hot.output / FOLDER / NAME).read_text().splitlines()
    assert sum('"act":"recipe_changed"' in line for line in acts) == 1
    made = [line for line in acts if '"act":"predicted"' in line]
    assert len(made) == 2
    assert all(f'"recipe":"{recipe.id}"' in line for line in made)
