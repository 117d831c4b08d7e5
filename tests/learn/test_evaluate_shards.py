"""Tasks that share an evaluation out find what one process finds, whenever they are killed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine import any_names
from emcfsys_engine.cli import cli
from emcfsys_engine.commands import evaluate as command
from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.evaluate import Evaluation
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.run.events import ImageFailed, ItemDone, RunFailed, RunFinished, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import EVALUATION
from emcfsys_engine.run.shards import Shards
from emcfsys_engine.shards import runner
from emcfsys_engine.shards.task import do_shards
from tests.jobs.conftest import wait_for
from tests.learn.conftest import add_image, replace_model, run_here
from tests.learn.trusting import add_validation_image, learned, with_trust
from tests.shards.made import Here, listed
from tests.thorough import tries


@pytest.fixture
def model(model_file: Path, project_folder: Path, tmp_path: Path) -> Path:
    """A model of the project, which can tell how good its masks are."""
    add_validation_image(project_folder)
    network, card = load_model(model_file)
    file = tmp_path / "of_this_project.safetensors"
    save_model(file, network, msgspec.structs.replace(card, class_values=(0, 1)))
    return with_trust(file, learned(file, project_folder), tmp_path / "knows.safetensors")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "started", Here)
    monkeypatch.setattr(command, "run_in_foreground", run_here)


def run_of(
    model: Path, folder: Path, shards: str = "3", out: str = "out", **options: object
) -> Run:
    asked: dict[str, object] = {
        "also": (),
        "images": None,
        "masks": None,
        "cl_dice": True,
        "gpus": 0,
        "split": "all",
        "as_dealt_now": False,
        "tta": False,
        "overlap": 0.25,
        "boundary_px": 2.0,
    }
    return command.make_evaluation(
        model,
        folder,
        out=folder / out,
        shards=shards,
        **(asked | options),  # pyright: ignore[reportArgumentType]
    )


def _failed(run: Run) -> list[str]:
    return [event.reason for event in run.events() if isinstance(event, ImageFailed)]


@pytest.mark.usefixtures("here")
def test_scores_are_to_the_last_digit_those_of_one_process(
    model: Path, project_folder: Path, engine_here: Callable[..., str]
) -> None:
    words = ["evaluate", model, project_folder, "--split", "all", "--cl-dice", "--json"]
    words += ["--gpus", "0", "--out"]
    one = json.loads(engine_here(*words, project_folder / "one"))
    assert one["promise"]
    for shards in ("1", "5%2"):
        out = project_folder / f"of{shards}"
        told = json.loads(engine_here(*words, out, "--shards", shards))
        assert told == one
        assert json.loads((out / "evaluation.json").read_bytes()) == one
    assert json.loads((project_folder / "one" / "evaluation.json").read_bytes()) == one


@pytest.mark.usefixtures("here")
def test_two_folders_and_an_ensemble_are_compared_in_shards_as_by_one_process(
    model: Path, project_folder: Path, tmp_path: Path, engine_here: Callable[..., str]
) -> None:
    network, card = load_model(model)
    other = tmp_path / "other.safetensors"
    save_model(other, network, msgspec.structs.replace(card, trust=None))
    folders = [word for kind in ("images", "masks") for word in (f"--{kind}", tmp_path / kind)]
    words = ["evaluate", model, *folders, "--with", other, "--gpus", "0"]
    shards = ["--out", tmp_path / "out", "--shards", "4"]
    assert engine_here(*words, *shards) == engine_here(*words)
    page = tmp_path / "page.html"
    engine_here(*words, *shards, "--report", page)
    assert "13 images" in page.read_text()


@pytest.mark.usefixtures("here")
def test_an_image_a_label_or_a_model_that_changes_before_the_end_is_named(
    model: Path, project_folder: Path
) -> None:
    run = run_of(model, project_folder)
    assert do_shards(run.folder, None, lambda: None) == 0
    changed = project_folder / "masks" / "train" / "train1.png"
    status = changed.stat()
    with Image.open(changed) as opened:
        pixels = np.asarray(opened).copy()
    Image.fromarray(pixels).save(changed)  # the same bytes, written later
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert run_here(run) == 1
    (reason,) = _failed(run)
    assert f"train1.png: its label {changed} changed since the list" in reason
    assert "Evaluate again" in reason
    told = [event.message for event in run.events() if isinstance(event, WarningGiven)]
    assert any(
        "1 of 13 images could not be compared, so there are no scores" in one for one in told
    )
    assert not (project_folder / "out" / "evaluation.json").exists()
    again = run_of(model, project_folder)
    assert again.id != run.id  # it lists anew
    assert run_here(again) == 0
    third = run_of(model, project_folder, "2")
    assert do_shards(third.folder, None, lambda: None) == 0
    replace_model(model)
    assert run_here(third) == InputError.exit_code
    ending = third.ending()
    assert isinstance(ending, RunFailed)
    assert "another model than when the list of shards was written" in ending.reason


@pytest.mark.usefixtures("here")
def test_marks_that_no_task_of_ours_left_are_no_scores(model: Path, project_folder: Path) -> None:
    run = run_of(model, project_folder, "1")
    shards = listed(run)
    event = '{"kind":"item_done","image":"x"}'
    told = "".join(f'{{"type":"became","number":{n},"event":{event}}}\n' for n in range(13))
    shards.lines_file(0).write_text(told + '{"type":"finished"}\n')
    assert run_here(run) == 1
    reasons = _failed(run)
    assert len(reasons) == 13
    assert all("what its task kept of it is damaged. Evaluate again" in one for one in reasons)
    assert not (project_folder / "out" / "evaluation.json").exists()
    assert run_here(run_of(model, project_folder, "1")) == 0  # it lists anew


@pytest.mark.usefixtures("here")
def test_every_fault_is_told_with_its_image_and_no_scores_are_made_of_the_others(
    model: Path, project_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(model, project_folder)
    for name in ("train0.png", "train2.png"):
        image = project_folder / "images" / "train" / name
        content = image.read_bytes()
        image.write_bytes(content[:-300] + bytes(300))  # its header and length are whole
    assert run_here(run) == 1
    named = sorted(Path(reason.partition(":")[0]).name for reason in _failed(run))
    assert named == ["train0.png", "train2.png"]
    done = {event.image for event in run.events() if isinstance(event, ItemDone)}
    assert len(done) == 11
    assert not (project_folder / "out" / "evaluation.json").exists()


def test_the_same_command_goes_on_and_another_one_beside_it_is_refused(
    model: Path, project_folder: Path
) -> None:
    run = run_of(model, project_folder)
    assert do_shards(run.folder, 0, lambda: None) == 0
    assert run_of(model, project_folder).id == run.id
    lock = Shards(run).claim(1)
    assert lock is not None
    for options in ({}, {"split": "val"}):
        with pytest.raises(
            InputError, match=r"evaluates into it, in shards, now.*Wait for its end"
        ):
            run_of(model, project_folder, **options)
    os.close(lock)


def test_without_a_folder_shards_are_refused_and_nothing_is_made(
    model: Path, project_folder: Path
) -> None:
    before = sorted(project_folder.rglob("*"))
    words = ["evaluate", str(model), str(project_folder), "--shards", "2"]
    for more, told in (
        ([], "--shards: needs a folder for scores and tasks. Name it with --out."),
        (["--out", "x", "--processes", "2"], "--processes: and --shards exclude one another"),
    ):
        found = CliRunner().invoke(cli, words + more)
        assert isinstance(found.exception, InputError)
        assert told in str(found.exception)
    assert sorted(project_folder.rglob("*")) == before


@pytest.mark.usefixtures("here")
def test_a_file_of_somebody_else_is_kept_and_the_scores_lie_beside_it(
    model: Path, project_folder: Path
) -> None:
    run = run_of(model, project_folder)
    mine = project_folder / "out" / "evaluation.json"
    mine.write_text("mine")
    assert run_here(run) == 0
    assert mine.read_text() == "mine"
    made = any_names.decode((run.folder / EVALUATION).read_bytes(), Evaluation)
    beside = mine.with_name("evaluation.v2.json")
    assert any_names.decode(beside.read_bytes(), Evaluation) == made
    told = " ".join(one.message for one in run.events() if isinstance(one, WarningGiven))
    assert f"kept: the scores are in {beside}" in told


@pytest.mark.long
def test_tasks_killed_again_and_again_lose_nothing_and_count_nothing_twice(
    model: Path, project_folder: Path
) -> None:
    number_more, most_kills = tries(9, 30), tries(5, 20)
    for number in range(number_more):
        add_image(project_folder, f"train/kill{number}", 90 + number)
    one = run_of(model, project_folder, "1", "one")
    assert run_here(one) == 0
    run = run_of(model, project_folder, "4")
    command = [sys.executable, "-m", "emcfsys_engine.shards.task", str(run.folder)]
    rng = np.random.default_rng(5)
    killed = 0
    while killed < most_kills:
        tasks = [subprocess.Popen(command) for _ in range(2)]
        before = _num_told(run)
        # Some are killed before they begin, the others soon after something new is told.
        with suppress(AssertionError):
            wait_for(partial(_is_new, run, before, tasks), seconds=float(rng.choice([2.0, 60.0])))
        for task in tasks:
            killed += task.poll() is None
            task.kill()
            task.wait()
        if all(file.read_bytes().endswith(b'"finished"}\n') for file in _lines(run)):
            break
    assert run_here(run) == 0
    assert (run.folder / EVALUATION).read_bytes() == (one.folder / EVALUATION).read_bytes()
    done = [event.image for event in run.events() if isinstance(event, ItemDone)]
    assert len(done) == len(set(done)) == 13 + number_more
    assert sum(isinstance(event, RunFinished) for event in run.events()) == 1


def _lines(run: Run) -> list[Path]:
    return sorted(Shards(run).folder.glob("0*.jsonl")) or [run.record_file]


def _is_new(run: Run, before: int, tasks: list["subprocess.Popen[bytes]"]) -> bool:
    return _num_told(run) != before or all(task.poll() is not None for task in tasks)


def _num_told(run: Run) -> int:
    return sum(file.read_bytes().count(b'"became"') for file in _lines(run))


@pytest.fixture
def words(model_file: Path, project_folder: Path, tmp_path: Path) -> list[object]:
    network, card = load_model(model_file)
    file = tmp_path / "of_this_project.safetensors"
    save_model(file, network, msgspec.structs.replace(card, class_values=(0, 1)))
    out = project_folder / "out"
    return ["evaluate", file, project_folder, "--split", "all", "--gpus", "0", "--out", out]


def test_a_forecast_counts_images_labels_and_tasks_and_writes_nothing(
    words: list[object], project_folder: Path, engine_here: Callable[..., str]
) -> None:
    before = sorted(project_folder.rglob("*.*"))
    words = [*words, "--shards", "3%2", "--dry-run"]
    found = json.loads(engine_here(*words, "--json"))
    assert (found["images"], found["tasks"], found["at_once"], found["tried"]) == (4, 3, 2, 3)
    assert found["pixels"] == 4 * 64 * 64
    files = [
        file for kind in ("images", "masks") for file in (project_folder / kind).rglob("*.png")
    ]
    assert found["read_bytes"] == sum(file.stat().st_size for file in files)
    assert found["written_bytes"] > 4 * 100
    assert found["seconds"] == pytest.approx(2 * 64 * 64 / found["pixels_a_second"])
    assert "3 tasks, 2 at a time" in engine_here(*words)
    assert sorted(project_folder.rglob("*.*")) == before


def test_without_shards_or_an_image_that_works_it_is_said_why(
    words: list[object], project_folder: Path, engine_here: Callable[..., str]
) -> None:
    with pytest.raises(InputError, match="--dry-run.*Add --shards auto"):
        engine_here(*words, "--dry-run")
    for file in (project_folder / "images").rglob("*.png"):
        file.write_bytes(file.read_bytes()[:-300] + bytes(300))  # its header and length are whole
    with pytest.raises(InputError, match="none of 3 images that were tried can be compared"):
        engine_here(*words, "--shards", "3", "--dry-run")
