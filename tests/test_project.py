"""project.toml: what it may say, and how its faults are told."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import ProjectError, ProjectFaults
from emcfsys_engine.project import load_project, parse_loss

GOOD = """
[project]
name = "p"
[classes]
b = 5
a = 0
[[data]]
images = "images"
masks = "masks"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "project.toml").write_text(GOOD)
    return tmp_path


def test_a_folder_stands_for_its_project_toml(folder: Path) -> None:
    project = load_project(folder)
    assert project.file == folder / "project.toml"
    assert project.folder == folder


def test_channels_follow_the_order_of_values_not_of_lines(folder: Path) -> None:
    project = load_project(folder)
    assert project.class_names == ("a", "b")
    assert project.class_values == (0, 5)


def test_defaults_hold_where_nothing_is_said(folder: Path) -> None:
    project = load_project(folder)
    assert (project.model.head, project.training.loss) == ("unet", "ce+dice")
    assert project.data[0].skips_unlabelled is False


def test_an_override_is_a_toml_value_or_else_a_string(folder: Path) -> None:
    project = load_project(folder, ["training.steps=200", "model.head=pspnet", "data.0.weight=2"])
    assert project.training.steps == 200
    assert project.model.head == "pspnet"
    assert project.data[0].weight == 2


def test_the_newer_of_steps_and_minutes_wins_on_the_command_line(folder: Path) -> None:
    (folder / "project.toml").write_text(GOOD + "[training]\nminutes = 5\n")
    training = load_project(folder, ["training.steps=7"]).training
    assert (training.steps, training.minutes) == (7, None)


def test_every_fault_is_named_at_once(folder: Path) -> None:
    text = GOOD.replace('name = "p"', 'nam = "p"').replace('"masks"', '"maskz"')
    text += '[training]\nloss = "ce+dcie"\nbest_by = "iou:c"\nsetps = 3\nsteps = 0\n'
    (folder / "project.toml").write_text(text)
    with pytest.raises(ProjectFaults) as caught:
        load_project(folder)
    lines = str(caught.value).splitlines()
    keys = [line.split(": ")[1] for line in lines]
    assert keys == [
        "project.nam",
        "project.name",
        "training.setps",
        "training.steps",
        "data.0.masks",
        "training.loss",
        "training.best_by",
    ]
    assert all(line.startswith(str(folder / "project.toml")) for line in lines)
    assert "Did you mean 'steps'?" in lines[2]
    assert "Did you mean 'dice'?" in lines[5]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("b = 5", "b = 0"), "classes.a"),
        (("b = 5", "b = 255"), "classes.b"),
        (("b = 5", 'b = "x"'), "classes.b"),
        (("b = 5\n", ""), "classes"),
        (("masks = ", "annotations = 'x'\nmasks = "), "data.0"),
        (('masks = "masks"', 'masks = "masks"\nsplit = "vall"'), "data.0.split"),
        (('masks = "masks"', "masks = \"masks\"\ngroup = '('"), "data.0.group"),
        (('masks = "masks"', 'masks = "masks"\nlabels = {x = "c"}'), "data.0.labels.x"),
        (("[classes]", "[training]\nencoder_lr = 0\n[classes]"), "training.encoder_lr"),
        (("[classes]", "[training]\nsteps = 1\nminutes = 1\n[classes]"), "training"),
        (("[classes]", "[traning]\n[classes]"), "traning"),
        (("[classes]", "[training]\nkfold = 1\n[classes]"), "training.kfold"),
        (("[classes]", "[compute]\nnodes = 2\n[classes]"), "compute.nodes"),
        (("[classes]", "[compute]\nprocesses = 2\n[classes]"), "compute.processes"),
        (("[classes]", f"[compute]\nthreads = {10**9}\n[classes]"), "compute.threads"),
        (("[classes]", f"[training]\nsteps = {10**23}\n[classes]"), "training.steps"),
        (('name = "p"', f'name = "p"\nseed = {10**20}'), "project.seed"),
    ],
)
def test_a_fault_names_its_key(folder: Path, change: tuple[str, str], key: str) -> None:
    (folder / "project.toml").write_text(GOOD.replace(*change))
    with pytest.raises(ProjectFaults) as caught:
        load_project(folder)
    assert key in [getattr(fault, "key", None) for fault in caught.value.faults]


@pytest.mark.parametrize("text", ["a = ", "[x\n", "\x00"])
def test_what_is_no_toml_is_one_line(folder: Path, text: str) -> None:
    (folder / "project.toml").write_text(text)
    with pytest.raises(ProjectError, match="is no valid TOML"):
        load_project(folder)


def test_a_missing_project_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="emcfsys-engine new"):
        load_project(tmp_path)


def test_a_loss_is_a_weighted_sum() -> None:
    assert parse_loss("ce+0.5*dice") == ((1.0, "ce"), (0.5, "dice"))


@pytest.mark.parametrize("text", ["", "ce+", "0*ce", "-1*ce", "x*ce", "nan*ce"])
def test_a_loss_without_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|must be"):
        parse_loss(text)


def test_escapes_in_names_never_reach_the_message(folder: Path) -> None:
    (folder / "project.toml").write_text(GOOD + '[training]\n"\\u001b[31mred" = 1\n')
    with pytest.raises(ProjectFaults) as caught:
        load_project(folder)
    assert "\x1b" not in str(caught.value)


def test_limits_are_read_by_the_number_they_are_of(folder: Path) -> None:
    (folder / "project.toml").write_text(GOOD + "[limits.b_fraction]\nreview_above = 0.4\n")
    project = load_project(folder, ["limits.confidence.fail_below=0.5"])
    assert project.limits["b_fraction"].review_above == 0.4
    assert project.limits["confidence"].fail_below == 0.5
    with pytest.raises(ProjectFaults, match="limits.c_fraction"):
        load_project(folder, ["limits.c_fraction.fail_below=0.5"])
