"""`check` is the whole truth: it passes exactly where a training reaches its first step."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.learn.training import run as training
from emcfsys_engine.learn.training.run import dry_run
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.events import RunFailed, StepDone
from emcfsys_engine.run.groups import new_trainings
from emcfsys_engine.tools.check import CheckReport, check_project
from emcfsys_engine.tools.check_data import Finding
from emcfsys_tui.engine.jobs import submit_training
from tests.learn.conftest import run_here
from tests.thorough import tries

TOML = """
[project]
name = "p"
[classes]
a = 0
b = 1
[model]
backbone = "mobilenetv3_small_050"
weights = "none"
[training]
steps = 1
patch_px = 32
batch = 1
[compute]
gpus = 0
threads = 1
"""
SOURCE = '[[data]]\nimages = "{0}/images"\nmasks = "{0}/masks"\nsplit = "{1}"\n'
SETTINGS = (
    "training.kfold=2",
    "training.kfold=3",
    "training.kfold=5",
    "model.backbone=mobilenetv3_smal_050",
    "model.weights=nowhere.pth",
    "model.weights=other.pth",
    "training.patch_px=33",
    "training.batch=3",
    "training.loss=dice",
    "project.seed=18446744073709551615",
    "project.seed=18446744073709551616",
)
FAULTS = (
    *["none"] * 40,
    "bare",
    "all bare",
    "value",
    "size",
    "twin",
    "broken image",
    "broken mask",
)


def _make(folder: Path, rng: random.Random) -> list[str]:
    """Write a random small project; return the settings to lay over it."""
    text = TOML
    for place in "xy"[: rng.randint(1, 2)]:
        fault = rng.choice(FAULTS)
        number = rng.randint(1, 6)
        for index in range(number):
            _write(
                folder / place,
                f"{place}{'acegikm'[index]}",
                rng,
                fault,
                is_last=index == number - 1,
            )
        text += SOURCE.format(place, rng.choice((*["auto"] * 12, "train", "val", "test")))
    (folder / "project.toml").write_text(text)
    torch.save({"layer": torch.zeros(3)}, folder / "other.pth")
    return rng.sample(SETTINGS, rng.choice((0, 0, 0, 0, 1, 2)))


def _write(folder: Path, name: str, rng: random.Random, fault: str, *, is_last: bool) -> None:
    numbers = np.random.default_rng(0 if fault == "twin" else rng.randrange(10**9))
    image = numbers.integers(0, 255, (40, 40)).astype(np.uint8)
    mask = numbers.integers(0, 2, (40, 40)).astype(np.uint8)
    if fault == "all bare" or (fault == "bare" and is_last):
        mask[:] = 255
    if fault == "value" and is_last:
        mask[3, 3] = 9
    if fault == "size" and is_last:
        mask = mask[:30]
    for kind, pixels in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        file = folder / kind / f"{name}.png"
        Image.fromarray(pixels).save(file)
        if is_last and fault == f"broken {kind[:-1]}":
            file.write_bytes(file.read_bytes()[: rng.choice((30, 900))])


def _checked(project: Project) -> CheckReport:
    return check_project(project, dry_run=lambda one: [Finding.of(f) for f in dry_run(one)])


def _agree(folder: Path, seed: int) -> bool:
    """Hold check and training of one random project against each other; tell whether it trains."""
    rng = random.Random(seed)
    try:
        project = load_project(folder, _make(folder, rng))
    except EmcfError:  # refused by whatever reads project.toml: by both
        return False
    report = _checked(project)
    runs = new_trainings(project)
    ends = [run_here(run) for run in runs] if not report.errors else [run_here(runs[0])]
    reached = all(any(isinstance(e, StepDone) for e in run.events()) for run in runs)
    assert reached == (not report.errors), (report.errors, ends, [r.outcome() for r in runs])
    if not reached:
        (failed,) = (e for e in runs[0].events() if isinstance(e, RunFailed))
        assert any(one.what in failed.reason for one in report.errors), (report.errors, failed)
    return reached


@pytest.fixture(scope="module", autouse=True)
def nothing_after_the_training() -> Iterator[None]:
    """What a model learns of its own masks comes after all steps, and took a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "keep_trust", lambda *_: None)
        yield


@given(seed=st.integers(0, 10**9))
@with_settings(max_examples=8, derandomize=True)
def test_check_passes_where_the_first_step_is_reached(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    _agree(tmp_path_factory.mktemp("project"), seed)


@pytest.mark.long
def test_check_passes_where_the_first_step_is_reached_in_many_projects(tmp_path: Path) -> None:
    trained, number = 0, tries(40, 300)
    for seed in range(number):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        trained += _agree(folder, seed)
    # Both answers are common: neither side is right by saying the same.
    assert 0.2 < trained / number < 0.8


def test_folds_are_refused_before_the_first_of_them_trains(tmp_path: Path) -> None:
    rng = random.Random(0)
    for name in ("xa", "xc"):
        _write(tmp_path / "x", name, rng, "none", is_last=False)
    (tmp_path / "project.toml").write_text(TOML + SOURCE.format("x", "auto"))
    project = load_project(tmp_path, ["training.kfold=5"])
    (error,) = _checked(project).errors
    assert "2 images, groups and blocks are too few for 5 folds" in error.text
    runs = new_trainings(project)
    assert run_here(runs[0]) == 2
    assert error.what in runs[0].outcome()[1]


def test_a_fold_without_labels_is_refused_before_the_first_trains(tmp_path: Path) -> None:
    rng = random.Random(0)
    for name in ("xa", "xc"):
        _write(tmp_path / "x", name, rng, "bare", is_last=name == "xc")
    (tmp_path / "project.toml").write_text(TOML + SOURCE.format("x", "auto"))
    project = load_project(tmp_path, ["training.kfold=2"])
    (error,) = check_project(project).errors
    assert "the images that validate in fold" in error.text
    assert error.what in "".join(one.what for one in dry_run(project))
    assert all(run_here(run) == 2 for run in new_trainings(project))


@pytest.mark.long
def test_the_interface_starts_nothing_that_check_refuses(
    tmp_path: Path,
) -> None:
    rng = random.Random(0)
    for name in ("xa", "xc"):
        _write(tmp_path / "x", name, rng, "none", is_last=False)
    (tmp_path / "project.toml").write_text(TOML + SOURCE.format("x", "auto"))
    for setting, words in (
        ("training.kfold=5", "are too few for 5 folds"),
        ("model.backbone=mobilenetv3_smal_050", "no backbone of this name"),
    ):
        with pytest.raises(EmcfError, match=words):
            submit_training(tmp_path, (setting,))
    assert not (tmp_path / "runs").exists()


def test_a_seed_that_nothing_can_hold_is_refused_by_its_key(tmp_path: Path) -> None:
    _make(tmp_path, random.Random(0))
    with pytest.raises(EmcfError, match="project.seed: 18446744073709551616 is above"):
        load_project(tmp_path, ["project.seed=18446744073709551616"])
