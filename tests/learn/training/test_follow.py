"""A training that follows the labels, walked as a person does who draws while it runs."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import psutil
import pytest
from PIL import Image

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.training import follow
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.follow import Follower
from emcfsys_engine.learn.training.setup import TrainingSetup
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import (
    AnyEvent,
    LabelsJoined,
    RunResumed,
    StepDone,
    WarningGiven,
)
from emcfsys_engine.run.folder import Run
from tests.learn.training.made import made_setup
from tests.waiting import PATIENCE_S

COMMAND = [sys.executable, "-m", "emcfsys_engine", "train"]


class _Walk:
    """A training in the background, and its labels, which are put where it looks for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = Run(folder / "runs" / "run-0001")
        self.drawn = folder / "drawn"
        (folder / "masks").rename(self.drawn)
        text = (folder / "project.toml").read_text()
        (folder / "project.toml").write_text(text.replace("steps = 8\n", ""))
        for part in ("train", "val"):
            (folder / "masks" / part).mkdir(parents=True)

    def start(self, *words: str) -> None:
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*COMMAND, *words], **options, start_new_session=True)

    def label(self, name: str) -> None:
        shutil.copy(self.drawn / f"{name}.png", self.folder / "masks" / f"{name}.png")

    def wait(self, condition: Callable[[list[AnyEvent]], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition(self.run.events() if self.run.events_file.exists() else []):
            assert time.monotonic() < deadline, self.run.events()
            try:
                code = self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"ended with {code}: {self.run.events()}")

    def kill(self) -> None:
        """Kill all of it at once, as a power cut does."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        for each in reversed(family):
            each.kill()
        psutil.wait_procs(family[1:], PATIENCE_S)
        self.process.wait(PATIENCE_S)

    def joins(self, **wanted: tuple[str, ...]) -> None:
        self.wait(
            lambda events: any(
                all(getattr(event, key) == value for key, value in wanted.items())
                for event in events
                if isinstance(event, LabelsJoined)
            )
        )

    def warns(self, text: str) -> None:
        self.wait(
            lambda events: any(isinstance(e, WarningGiven) and text in e.message for e in events)
        )


@pytest.mark.long
def test_labels_join_whole_and_on_their_side_and_a_resume_goes_on_with_them(
    project_folder: Path,
) -> None:
    walk = _Walk(project_folder)
    walk.start(str(project_folder), "--follow")
    walk.warns("Waits for labels: 0 images are labelled")
    walk.label("train/train0")
    walk.warns("1 image is labelled")
    walk.label("val/val0")
    walk.wait(lambda events: any(isinstance(event, StepDone) for event in events))

    half = (walk.drawn / "train" / "train1.png").read_bytes()
    (project_folder / "masks" / "train" / "train1.png").write_bytes(half[: len(half) // 2])
    walk.warns("train1.png")
    walk.label("train/train1")
    walk.joins(train=("train1",), num_train=2)
    Image.fromarray(np.ones((64, 64), np.uint8)).save(project_folder / "masks/train/train0.png")
    walk.joins(changed=("train0",))
    (project_folder / "masks" / "train" / "train0.png").unlink()
    walk.joins(gone=("train0",), num_train=1)

    # The same pixels under another name never come to the other side, whatever was drawn of them.
    pixels = (project_folder / "images" / "train" / "train0.png").read_bytes()
    (project_folder / "images" / "val" / "twin.png").write_bytes(pixels)
    shutil.copy(walk.drawn / "train/train0.png", project_folder / "masks" / "val" / "twin.png")
    walk.warns("knows as one for training")
    walk.kill()
    half_again = project_folder / "masks" / "train" / "train2.png"
    half_again.write_bytes(half[: len(half) // 2])  # a resume goes on without what is faulty, too
    plan = json.loads(walk.run.plan_file.read_text())
    assert plan["train_images"] == ["train0", "train1"]
    walk.start("--resume", str(walk.run.folder))
    walk.wait(lambda events: sum(isinstance(event, RunResumed) for event in events) == 1)
    walk.label("train/train2")
    walk.joins(train=("train2",), num_train=2)
    walk.process.send_signal(signal.SIGINT)
    assert walk.process.wait(PATIENCE_S) == 0
    assert walk.run.outcome() == ("done", "stopped")
    _, card = load_model(walk.run.final_model)
    assert set(card.trained_on) == {"train0", "train1", "train2"}
    rates = [event.learning_rate for event in walk.run.events() if isinstance(event, StepDone)]
    assert rates[-1] < 0.2 * max(rates)


@pytest.mark.long
def test_a_training_that_is_stopped_before_a_label_came_is_cancelled(project_folder: Path) -> None:
    walk = _Walk(project_folder)
    walk.start(str(project_folder), "--follow")
    walk.warns("Waits for labels")
    walk.process.send_signal(signal.SIGINT)
    assert walk.process.wait(PATIENCE_S) == 130
    assert walk.run.outcome()[0] == "cancelled"


@pytest.mark.parametrize("other", ["training.kfold=2", "compute.processes=2"])
def test_a_training_that_follows_is_one_process_without_folds(
    project_folder: Path, other: str
) -> None:
    with pytest.raises(EmcfError, match="follow"):
        load_project(project_folder, ["training.follow=true", other])


@pytest.mark.long
def test_no_label_joins_once_classes_were_numbered_anew(project_folder: Path) -> None:
    """Masks that were saved by the new numbers were learned as the other class."""
    walk = _Walk(project_folder)
    walk.label("train/train0")
    walk.label("val/val0")
    walk.start(str(project_folder), "--follow")
    walk.wait(lambda events: any(isinstance(event, StepDone) for event in events))
    file = project_folder / "project.toml"
    text = file.read_text()
    file.write_text(text.replace("resin = 0\ngrain = 1", "resin = 1\ngrain = 0"))
    walk.label("train/train1")
    walk.warns("classes mean others since this run was begun (resin = 0, now 1")
    walk.label("train/train2")
    file.write_text(text)
    walk.joins(num_train=3)
    (joined,) = (one for one in walk.run.events() if isinstance(one, LabelsJoined))
    assert set(joined.train) == {"train1", "train2"}
    told = [one for one in walk.run.events() if isinstance(one, WarningGiven)]
    assert sum("mean others" in one.message for one in told) == 1
    walk.process.send_signal(signal.SIGINT)
    assert walk.process.wait(PATIENCE_S) == 0


@pytest.mark.long
def test_no_label_joins_while_masks_are_saved_by_numbers_that_project_toml_does_not_say_yet(
    project_folder: Path,
) -> None:
    """Masks come before project.toml is saved: what one class was would be learned as the other."""
    walk = _Walk(project_folder)
    walk.label("train/train0")
    walk.label("val/val0")
    walk.start(str(project_folder), "--follow")
    walk.wait(lambda events: any(isinstance(event, StepDone) for event in events))
    mask = project_folder / "masks" / "train" / "train0.png"
    swapped = np.array([1, 0, *range(2, 256)], np.uint8)[np.asarray(Image.open(mask))]
    Image.fromarray(swapped).save(mask)
    walk.warns("whole classes are others than before (resin is grain now, grain is resin now)")
    walk.label("train/train1")  # by either: nobody can tell
    half = (walk.drawn / "train" / "train2.png").read_bytes()[:40]
    (project_folder / "masks" / "train" / "train2.png").write_bytes(half)
    walk.warns("train2.png")  # so it was looked at again
    assert not any(isinstance(event, LabelsJoined) for event in walk.run.events())
    walk.label("train/train0")  # put back
    walk.joins(train=("train1",), num_train=2, changed=())
    told = [one for one in walk.run.events() if isinstance(one, WarningGiven)]
    assert sum("whole classes" in one.message for one in told) == 1
    walk.process.send_signal(signal.SIGINT)
    assert walk.process.wait(PATIENCE_S) == 0


def test_new_masks_by_other_numbers_do_not_join_though_no_known_mask_changed(
    project_folder: Path,
) -> None:
    """What the model calls resin was learned as grain, since a new mask has no earlier one."""
    masks = project_folder / "masks" / "train"
    drawn = {n: np.asarray(Image.open(masks / f"train{n}.png")) for n in (1, 2)}
    for n in drawn:
        (masks / f"train{n}.png").unlink()
    setup, told = made_setup(project_folder, "training.follow=true")
    truth = {f"train{n}": mask for n, mask in drawn.items()}
    card = setup.card

    def guesses(dataset: Dataset) -> dict[str, np.ndarray]:
        return {one.name: truth[one.name] for one in dataset.samples}

    follower = Follower(setup.project, lambda plan, train: card)
    follower.begin(setup.train, setup.val)
    assert follower(setup, 1, guesses) is None
    Image.fromarray(1 - drawn[1]).save(masks / "train1.png")
    assert follower(setup, 2, guesses) is None
    what = "In the new masks of train1 whole classes are others than by all before (resin is grain"
    assert sum(what in one.message for one in told if isinstance(one, WarningGiven)) == 1
    Image.fromarray(drawn[1]).save(masks / "train1.png")
    joined = follower(setup, 3, guesses)
    assert joined is not None
    assert len(joined.train) == 2
    Image.fromarray(1 - drawn[2]).save(masks / "train2.png")
    assert follower(joined, 4, guesses) is None
    resumed = Follower(setup.project, lambda plan, train: card)
    resumed.begin(joined.train, joined.val)
    taken = resumed(joined, 5, guesses)  # at a person's word
    assert taken is not None
    assert len(taken.train) == 3


def _outline(file: Path, image: str, label: str = "grain") -> None:
    corners = [[10, 5], [50, 5], [50, 50], [10, 50]]
    shape = {"label": label, "points": corners, "shape_type": "polygon"}
    size = {"imageHeight": 64, "imageWidth": 64}
    file.write_text(json.dumps({"shapes": [shape], "imagePath": image, "imageData": None, **size}))


def test_what_becomes_of_label_files_beside_the_images_is_followed(project_folder: Path) -> None:
    images = project_folder / "images" / "train"
    text = (project_folder / "project.toml").read_text()
    before = text[text.index("[[data]]") : text.index("[model]")]
    beside = '[[data]]\nimages = "images/train"\nannotations = "images/train"\n'
    (project_folder / "project.toml").write_text(text.replace(before, beside))
    rng = np.random.default_rng(0)
    for name in "abcdef":
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(images / f"{name}.png")
    for name in "ab":
        _outline(images / f"{name}.json", f"{name}.png")
    setup, told = made_setup(project_folder, "training.follow=true")
    follower = Follower(setup.project, lambda plan, train: setup.card)
    follower.begin(setup.train, setup.val)
    asked: list[Dataset] = []

    def known(setup: TrainingSetup) -> set[str]:
        return {one.name for one in (*setup.train.samples, *setup.val.samples)}

    def turn(setup: TrainingSetup) -> TrainingSetup:
        return follower(setup, 1, lambda dataset: asked.append(dataset) or {}) or setup

    _outline(images / "c.json", "c.png")
    (images / "d.json").touch()  # as a full disk leaves it
    _outline(images / "f.json", "f.png", "pore")
    setup = turn(setup)
    assert known(setup) == {"a", "b", "c"}
    assert any('label "pore" is no class' in one and "anew" in one for one in _warnings(told))
    (images / "c.json").rename(images / "d.json")
    setup = turn(setup)
    assert known(setup) == {"a", "b", "d"}
    assert any("d.json is taken for d.png, but says inside c.png" in o for o in _warnings(told))
    _outline(images / "c.json", "c.png")
    _outline(images / "e.json", "c.png")
    setup = turn(setup)
    assert known(setup) == {*"abcde"}
    assert any("says inside c.png (so do 1 more)" in one for one in _warnings(told))
    away = images.rename(images.with_name("away"))
    assert known(turn(setup)) == {*"abcde"}
    away.rename(images)
    assert known(turn(setup)) == {*"abcde"}
    assert sum("is empty (0 bytes)" in one for one in _warnings(told)) == 1
    assert not asked  # only masks are held against a model


def _warnings(told: Sequence[object]) -> list[str]:
    return [one.message for one in told if isinstance(one, WarningGiven)]


@pytest.mark.long
def test_no_label_joins_whose_white_would_make_all_others_unlabelled(project_folder: Path) -> None:
    """Masks of 0 and 255 are two classes until one of 0 and 1 comes: then 255 is no class."""
    walk = _Walk(project_folder)
    for mask in walk.drawn.glob("*/*.png"):
        if mask.stem != "train1":
            Image.fromarray(np.asarray(Image.open(mask)) * np.uint8(255)).save(mask)
    walk.label("train/train0")
    walk.label("val/val0")
    walk.start(str(project_folder), "--follow")
    walk.wait(lambda events: any(isinstance(event, StepDone) for event in events))
    walk.label("train/train1")
    walk.warns("No label joins: ")
    walk.label("train/train2")
    assert not any(isinstance(event, LabelsJoined) for event in walk.run.events())
    (project_folder / "masks" / "train" / "train1.png").unlink()
    walk.joins(train=("train2",), num_train=2)
    walk.process.send_signal(signal.SIGINT)
    assert walk.process.wait(PATIENCE_S) == 0


def test_a_folder_that_cannot_be_listed_for_a_while_ends_no_training(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(load_project(project_folder), lambda plan, train: pytest.fail("no plan"))
    told: list[Any] = []
    setup: Any = SimpleNamespace(plan=SimpleNamespace(deal=object()), emit=told.append)

    def failing(project: object, deal: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(project_folder))

    monkeypatch.setattr(follow, "labelled_now", failing)
    for step in (1, 2):
        assert follower(setup, step, lambda train: {}) is None
    assert [str(event.message) for event in told] == [
        f"{project_folder}: Input/output error: no label joins for now"
    ]
