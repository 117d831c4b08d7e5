"""Which images teach without labels, and which never do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.dataset import unlabelled
from emcfsys_engine.dataset.follow import drawn_side
from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.dataset.unlabelled import unlabelled_samples
from emcfsys_engine.errors import ProjectFaults
from emcfsys_engine.project import Project, load_project

HEAD = '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n'
BOTH = '[[data]]\nimages = "images"\nmasks = "masks"\nunlabelled = "learn"\n'


def _save(path: Path, value: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def _project(folder: Path, labelled: str, bare: str, text: str) -> Project:
    for number, name in enumerate(labelled + bare):
        _save(folder / "images" / f"{name}.png", number * 9)
    for name in labelled:
        path = folder / "masks" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(path)
    (folder / "project.toml").write_text(HEAD + text)
    return load_project(folder)


def test_what_has_no_labels_teaches_and_what_has_some_does_not(tmp_path: Path) -> None:
    project = _project(tmp_path, "abc", "xy", BOTH)
    samples = list_samples(project)
    assert [one.name for one in samples.samples] == ["a", "b", "c"]
    assert any("2 of 5 images have no labels: they teach without" in n for n in samples.notes)
    found, number = unlabelled_samples(project, samples.samples)
    assert ([one.name for one in found], number) == (["0/x.png", "0/y.png"], 2)
    assert all(one.label is None and one.split == "train" for one in found)


def test_a_folder_without_labels_needs_no_place_for_them(tmp_path: Path) -> None:
    for name in "uv":
        _save(tmp_path / "incoming" / f"{name}.png", 7)
    more = BOTH.replace('unlabelled = "learn"\n', "")
    text = f'{more}[[data]]\nimages = "incoming"\nunlabelled = "learn"\n'
    project = _project(tmp_path, "abc", "", text)
    found, _ = unlabelled_samples(project, list_samples(project).samples)
    assert [one.name for one in found] == ["1/u.png", "1/v.png"]


def test_a_group_that_validates_teaches_nothing(tmp_path: Path) -> None:
    text = BOTH + "group = '^([a-z])'\n"
    for folder, names in (("images", ("g1", "g2", "h1", "h2")), ("masks", ("g1", "h1"))):
        for number, name in enumerate(names):
            _save(tmp_path / folder / f"{name}.png", number % 2)
    project = _project(tmp_path, "", "", text)
    samples = list_samples(project)
    (validates,) = (one.group for one in samples.of("val"))
    found, _ = unlabelled_samples(project, samples.samples)
    assert [one.group for one in found] == ["h" if validates == "g" else "g"]


def test_a_group_that_validates_teaches_nothing_in_another_table_either(tmp_path: Path) -> None:
    group = "group = '^([a-z])'\n"
    more = BOTH.replace('unlabelled = "learn"\n', group)
    text = f'{more}[[data]]\nimages = "incoming"\nunlabelled = "learn"\n{group}'
    for number, name in enumerate(("g1", "h1")):
        _save(tmp_path / "images" / f"{name}.png", number)
        _save(tmp_path / "masks" / f"{name}.png", 1)
        _save(tmp_path / "incoming" / f"{name}b.png", number + 7)
    project = _project(tmp_path, "", "", text)
    samples = list_samples(project)
    (validates,) = (one.group for one in samples.of("val"))
    found, _ = unlabelled_samples(project, samples.samples)
    assert [one.group for one in found] == ["h" if validates == "g" else "g"]
    for one in samples.samples:
        assert drawn_side(replace(one, source=1), 0) == drawn_side(one, 0)


def test_of_very_many_images_as_many_are_taken_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlabelled, "MOST", 2)
    project = _project(tmp_path, "abc", "uvwxyz", BOTH)
    found, number = unlabelled_samples(project, list_samples(project).samples)
    assert ([one.name for one in found], number) == (["0/u.png", "0/x.png"], 6)


def test_where_labels_are_followed_nothing_teaches_that_may_validate_later(tmp_path: Path) -> None:
    bare = "ijklmnopqrstuvwxyz"
    project = _project(tmp_path, "abc", bare, BOTH + "[training]\nfollow = true\n")
    found, _ = unlabelled_samples(project, list_samples(project).samples)
    assert 0 < len(found) < len(bare)
    plain = [replace(one, name=one.name[2:-4]) for one in found]
    assert {drawn_side(one, project.project.seed) for one in plain} == {"train"}


def test_a_run_that_goes_on_takes_its_own_and_no_later_ones(tmp_path: Path) -> None:
    project = _project(tmp_path, "abc", "xyz", BOTH)
    samples = list_samples(project).samples
    found, number = unlabelled_samples(project, samples, ("0/x.png", "0/gone.png"))
    assert ([one.name for one in found], number) == (["0/x.png"], 2)
    assert unlabelled_samples(project, samples, ()) == ((), 0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_images_for_validation_and_testing_cannot_teach(tmp_path: Path, split: str) -> None:
    with pytest.raises(ProjectFaults, match=r'data\.0\.unlabelled: "learn" is for training'):
        _project(tmp_path, "abc", "", f'{BOTH}split = "{split}"\n')


def test_a_table_without_labels_must_say_that_it_teaches(tmp_path: Path) -> None:
    with pytest.raises(ProjectFaults, match=r'masks or annotations.*unlabelled = "learn"'):
        _project(tmp_path, "abc", "", '[[data]]\nimages = "images"\n')
