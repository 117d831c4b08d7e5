"""Splits and folds: even, of whole groups and blocks, the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.dataset.samples import Sample, gather, list_samples
from emcfsys_engine.dataset.splits import assign_folds, split_units
from emcfsys_engine.errors import DataFaults
from emcfsys_engine.project import Project, load_project


def test_the_same_seed_gives_the_same_split_and_rare_classes_stay_in_training() -> None:
    units = {f"u{n}": frozenset({"a"} | ({"rare"} if n < 2 else set())) for n in range(20)}
    chosen = split_units(units, 3)
    assert chosen == split_units(units, 3)
    assert len(chosen) == 4
    assert sum("rare" in units[unit] for unit in chosen) == 1


def test_folds_are_even_and_hold_every_class() -> None:
    units = {f"u{n}": frozenset({"a", "b"} if n % 3 else {"a"}) for n in range(25)}
    folds = assign_folds(units, 5, seed=1)
    sizes = [sum(fold == n for fold in folds.values()) for n in range(5)]
    assert max(sizes) - min(sizes) <= 1
    assert all(any("b" in units[u] for u, f in folds.items() if f == n) for n in range(5))


TOML = """
[project]
name = "p"
[classes]
a = 0
b = 1
[training]
kfold = {folds}
"""


SOURCE = """
[[data]]
images = "{place}/images"
masks = "{place}/masks"
split = "{split}"
"""


def _write(folder: Path, name: str, rng: np.random.Generator, *, rare: bool = False) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[:8] = rare
    for kind, pixels in (
        ("images", rng.integers(0, 255, (16, 16)).astype(np.uint8)),
        ("masks", mask),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{name}.png")


def _project(folder: Path, folds: int, *sources: tuple[str, str], extra: str = "") -> Project:
    text = TOML.format(folds=folds)
    text += "".join(SOURCE.format(place=place, split=split) + extra for place, split in sources)
    (folder / "project.toml").write_text(text)
    return load_project(folder)


def _folds(project: Project) -> list[tuple[Sample, ...]]:
    numbers = range(1, project.training.kfold + 1)
    return [list_samples(project, fold=fold).samples for fold in numbers]


def _validating(fold: tuple[Sample, ...]) -> set[str]:
    return {sample.name for sample in fold if sample.split == "val"}


def test_every_image_but_those_for_testing_validates_exactly_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for place, number in (("x", 7), ("y", 4), ("z", 2)):
        for index in range(number):
            _write(tmp_path / place, f"{place}{'abcdefg'[index]}", rng)
    project = _project(tmp_path, 3, ("x", "train"), ("y", "val"), ("z", "test"))
    folds = _folds(project)
    for fold in folds:
        assert {s.name for s in fold if s.split == "test"} == {"za", "zb"}
        assert len({s.name for s in fold}) == 13
    validating = [_validating(fold) for fold in folds]
    assert sorted(name for names in validating for name in names) == sorted(
        [f"x{c}" for c in "abcdefg"] + [f"y{c}" for c in "abcd"]
    )
    assert max(map(len, validating)) - min(map(len, validating)) <= 1
    assert folds == _folds(project)  # the seed decides


def test_a_rare_class_is_dealt_out_evenly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index, letter in enumerate("abcdefghijkl"):
        _write(tmp_path / "x", letter, rng, rare=index in (0, 1, 2))
    folds = _folds(_project(tmp_path, 3, ("x", "auto")))
    for fold in folds:
        assert sum("b" in sample.classes for sample in fold if sample.split == "val") == 1


def test_groups_are_never_parted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for group in "pqrst":
        for index in range(3):
            _write(tmp_path / "x", f"{group}_{index}", rng)
    project = _project(tmp_path, 5, ("x", "auto"), extra="group = '^(\\w)_'\n")
    for fold in _folds(project):
        assert len({name[0] for name in _validating(fold)}) == 1
        assert len(_validating(fold)) == 3


def test_a_group_that_two_sources_have_is_on_one_side_in_both(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for source in "xyz":
        for group in "01234":
            _write(tmp_path / source, f"{group}_{source}", rng)
    group = "group = '^(\\w)_'\n"
    sources = (("x", "auto"), ("y", "auto"), ("z", "auto"))
    for fold in _folds(_project(tmp_path, 4, *sources, extra=group)):
        groups = {
            split: {one.group for one in fold if one.split == split} for split in ("train", "val")
        }
        assert groups["train"] and groups["val"]
        assert groups["train"].isdisjoint(groups["val"])
    found = list_samples(_project(tmp_path, 0, *sources, extra=group))
    assert len({one.group for one in found.samples if one.split == "val"}) == 1
    assert sum(one.split == "val" for one in found.samples) == 3
    assert "data.2: 5 of 5 images are where their groups are in other sources" in found.notes
    by_hand = _project(tmp_path, 0, ("x", "val"), ("y", "auto"), extra=group)
    assert {one.split for one in gather(by_hand).samples} == {"val"}


def test_a_stack_is_cut_into_one_block_a_fold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, pixels in (
        ("images", rng.integers(0, 255, (12, 16, 16)).astype(np.uint8)),
        ("masks", rng.integers(0, 2, (12, 16, 16)).astype(np.uint8)),
    ):
        (tmp_path / "x" / kind).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "x" / kind / "stack.tif", pixels, photometric="minisblack")
    seen: set[int] = set()
    for fold in _folds(_project(tmp_path, 4, ("x", "auto"))):
        planes = sorted(
            s.image.plane for s in fold if s.split == "val" and s.image.plane is not None
        )
        assert planes == list(range(planes[0], planes[0] + 3))
        seen |= set(planes)
    assert seen == set(range(12))


def test_more_folds_than_images_are_refused_in_a_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for letter in "ab":
        _write(tmp_path / "x", letter, rng)
    project = _project(tmp_path, 5, ("x", "auto"))
    with pytest.raises(DataFaults, match=r"training\.kfold: 2 images.* too few for 5 folds"):
        list_samples(project, fold=5)
