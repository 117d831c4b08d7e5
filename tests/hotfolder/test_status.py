"""Which model "best" stands for: the best IoU among runs whose scores can be compared."""

import errno
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.hotfolder.status import (
    best_model,
    choose_best,
    resolve_model,
    status_of,
    what_it_would_do,
)
from emcfsys_engine.model_card import ModelCard, NetworkSpec
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run import folder
from emcfsys_engine.run.events import EventWriter, ImageDone, RunFinished, RunStarted, WatchState
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest, WatchRequest

IMAGES = {"a": "1", "b": "2"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("images", "masks", "incoming"):
        (tmp_path / name).mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\n'
        'images = "images"\nmasks = "masks"\n[hotfolder]\nwatch = "incoming"\n'
    )
    return load_project(tmp_path)


def finished(
    project: Project,
    iou: float | None,
    images: dict[str, str] = IMAGES,
    *,
    classes: tuple[str, ...] = ("a", "b"),
    ended: bool = True,
    labels: str = "",
) -> Run:
    """Write a run as a training leaves it: its events and its model's header."""
    run = new_run(project.runs_folder, TrainRequest(), project=project)
    with EventWriter(run.events_file) as events:
        events.write(RunStarted(run=run.id, does="train"))
        if ended:
            events.write(RunFinished(reason="steps", step=1))
    card = ModelCard(
        network=NetworkSpec(head="unet", backbone="resnet18", num_classes=len(classes)),
        classes=classes,
        class_values=tuple(range(len(classes))),
        colours=((0, 0, 0),) * len(classes),
        patch_px=64,
        scores={"mean_iou": iou},
        validated_on=images,
        run=run.id,
    )
    text = msgspec.json.encode(card).decode()
    header = json.dumps({"__metadata__": {"emcfsys": text}}).encode()
    run.best_model.write_bytes(struct.pack("<Q", len(header)) + header)
    if labels:
        prints = {name: {"image": image, "labels": labels} for name, image in images.items()}
        plan = {"val_images": list(images), "fingerprints": prints}
        run.plan_file.write_text(json.dumps(plan))
    return run


def test_a_short_trial_does_not_displace_a_good_model(project: Project) -> None:
    assert choose_best(project) is None
    good = finished(project, 0.910)
    finished(project, 0.850)
    finished(project, 0.227)
    best = choose_best(project)
    assert best is not None and best.file == good.best_model
    assert best.why == "best IoU 0.910 of 3 finished runs with the same validation images"
    assert best.why in what_it_would_do(project)["model"]


def test_scores_by_labels_that_were_corrected_since_are_not_compared(project: Project) -> None:
    finished(project, 0.95, labels="as somebody drew them first")
    corrected = finished(project, 0.90, labels="corrected")
    assert best_model(project) == corrected.best_model
    finished(project, 0.89, labels="corrected")
    assert best_model(project) == corrected.best_model
    older = finished(project, 0.91)  # whose plan does not say
    finished(project, 0.85, labels="corrected")
    assert best_model(project) == older.best_model


def test_among_equals_the_newest_serves(project: Project) -> None:
    finished(project, 0.9)
    newer = finished(project, 0.9)
    assert best_model(project) == newer.best_model


def test_a_run_whose_folder_was_renamed_or_copied_is_as_old_as_ever(project: Project) -> None:
    """Else a model by labels of before serves for ever, under a name that sorts last."""
    old = finished(project, 0.95, labels="as somebody drew them first")
    shutil.copytree(old.folder, project.runs_folder / "safe")
    corrected = finished(project, 0.90, labels="corrected")
    assert best_model(project) == corrected.best_model
    old.folder.rename(project.runs_folder / "the old one")
    assert best_model(project) == corrected.best_model


@pytest.mark.parametrize(
    ("images", "classes", "ended"),
    [
        ({"a": "1"}, ("a", "b"), True),
        ({"a": "1", "b": "another image"}, ("a", "b"), True),
        ({}, ("a", "b"), True),  # a model of an older version does not say
        (IMAGES, ("a", "c"), True),
        (IMAGES, ("a", "b"), False),
    ],
)
def test_scores_of_other_images_classes_or_unfinished_runs_are_not_compared(
    project: Project, images: dict[str, str], classes: tuple[str, ...], ended: bool
) -> None:
    finished(project, 0.99, images, classes=classes, ended=ended)
    newest = finished(project, 0.5)
    best = choose_best(project)
    assert best is not None and best.file == newest.best_model
    assert best.why.startswith("IoU 0.500, the ")


def test_of_models_that_do_not_say_what_they_validated_on_the_newest_serves(
    project: Project,
) -> None:
    finished(project, 0.9, {})
    newest = finished(project, None, {})
    best = choose_best(project)
    assert best is not None and best.file == newest.best_model
    assert best.why.startswith("no IoU")


_WITHOUT_ROOTS_POWERS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


@pytest.fixture
def seen_project(tmp_path: Path) -> Path:
    """A project with a training and a watch that saw one image."""
    for name in ("images", "masks", "incoming", "predictions"):
        (tmp_path / name).mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "x"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "images"\n'
        'masks = "masks"\n[hotfolder]\nwatch = "incoming"\noutput = "predictions"\n'
    )
    loaded = load_project(tmp_path)
    new_run(tmp_path / "runs", TrainRequest(), project=loaded)
    request = WatchRequest(
        model="m", watch=str(tmp_path / "incoming"), output=str(tmp_path / "predictions")
    )
    run = new_run(tmp_path / "runs", request, project=loaded)
    with EventWriter(run.events_file) as events:
        events.write(RunStarted(run=run.id, does="watch", project="x", classes=("a", "b")))
        events.write(WatchState(state="watching", detail="here"))
        done = ImageDone(image="a.png", mask="a.png", seconds=1, shares=(1.0, 0.0), confidence=1)
        events.write(done)
    return tmp_path


@pytest.mark.parametrize(
    "words", ["watch {p} --status", "runs {p}", "jobs", "check {p} --no-dry-run"]
)
def test_looking_at_a_project_that_one_may_only_read_leaves_no_trace_and_no_traceback(
    seen_project: Path, tmp_path_factory: pytest.TempPathFactory, words: str
) -> None:
    if os.geteuid():
        pytest.skip("only root can give a project to somebody else")
    for file in (seen_project, *seen_project.rglob("*")):
        os.chown(file, 65534, 65534)
    seen_project.chmod(0o755)
    before = sorted(seen_project.rglob("*"))
    home = tmp_path_factory.mktemp("home")
    command = words.format(p=seen_project).split()
    told = subprocess.run(
        [*_WITHOUT_ROOTS_POWERS, sys.executable, "-m", "emcfsys_engine", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "EMCFSYS_HOME": str(home), "XDG_CACHE_HOME": str(home)},
    )
    assert told.returncode == (2 if command[0] == "check" else 0), told.stderr
    assert "Traceback" not in told.stderr
    assert sorted(seen_project.rglob("*")) == before
    if command[0] == "watch":  # its run.json is for its owner and group alone
        assert told.stdout.startswith("STOPPED here\n")


def test_best_is_a_run_of_the_project_where_another_shares_the_folder(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "project.toml").write_bytes(project.file.read_bytes())
    for name in ("images", "masks", "incoming"):
        (other / name).mkdir()
    (other / "runs").symlink_to(project.runs_folder)
    finished(project, 0.5)
    finished(load_project(other), 0.9)
    best = choose_best(project)
    assert best is not None
    assert best.run == "run-0001"


def test_best_waits_for_a_disk_that_fails_rather_than_take_a_worse_model(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(project, 0.6)
    best = finished(project, 0.9)
    read = folder.read_own

    def failing(file: Path) -> tuple[bytes, os.stat_result]:
        if file == best.record_file:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return read(file)

    monkeypatch.setattr(folder, "read_own", failing)
    with pytest.raises(OSError, match="Input/output error"):
        best_model(project)
    with pytest.raises(InputError, match=r"run-0002/run\.json: cannot be read: Input/output error"):
        resolve_model(project, "best")
    monkeypatch.undo()
    assert best_model(project) == best.best_model


def test_best_names_what_only_others_may_read(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = finished(project, 0.6), finished(project, 0.9)
    read, closed = folder.read_own, {theirs.record_file}

    def refusing(file: Path) -> tuple[bytes, os.stat_result]:
        if file in closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return read(file)

    monkeypatch.setattr(folder, "read_own", refusing)
    best = choose_best(project)
    assert best is not None and best.file == mine.best_model
    assert best.why.endswith("passed over, as they may not be read: run-0002")
    closed.add(mine.record_file)
    with pytest.raises(InputError, match=r"may not be read: run-0001, run-0002"):
        resolve_model(project, "best")


@pytest.mark.parametrize("rubbish", ["folder", "socket", "words"])
def test_a_damaged_run_is_passed_over(project: Project, rubbish: str) -> None:
    good, bad = finished(project, 0.6), finished(project, 0.9)
    bad.record_file.unlink()
    if rubbish == "folder":
        bad.record_file.mkdir()
    elif rubbish == "socket":
        os.mknod(bad.record_file, stat.S_IFSOCK | 0o600)
    else:
        bad.record_file.write_text("words")
    assert best_model(project) == good.best_model


def test_an_image_that_is_predicted_again_is_unlike_once_or_no_more(project: Project) -> None:
    run = new_run(
        project.runs_folder, WatchRequest(model="m", watch="i", output="p"), project=project
    )
    done = ImageDone(image="a.tif", mask="a.png", seconds=1.0, unlike="odd")
    with EventWriter(run.events_file) as events:
        for one in (done, done, msgspec.structs.replace(done, image="b.tif")):
            events.write(one)
    assert status_of(project)["unlike_training_data"] == 2
    with EventWriter(run.events_file) as events:
        events.write(msgspec.structs.replace(done, unlike=""))
    assert status_of(project)["unlike_training_data"] == 1
