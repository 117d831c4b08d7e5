"""Labels that come while a training runs: each image keeps the side it was given first."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.dataset.deals import Deal, files_of
from emcfsys_engine.dataset.follow import (
    folders_stamp,
    gather_some,
    has_both_sides,
    label_stamp,
    labelled_now,
)
from emcfsys_engine.dataset.sources import LabelRef
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.project import Project, load_project

TOML = """
[project]
name = "p"
[classes]
a = 0
b = 1
[[data]]
images = "images"
masks = "masks"
group = '^(g\\d)'
"""
NAMES = [f"g{group}_{number}" for group in range(4) for number in range(2)] + list("vwxyz")


def _project(folder: Path) -> Project:
    for number, name in enumerate(NAMES):
        _save(folder / "images" / f"{name}.png", np.full((8, 8), number * 9, np.uint8))
    (folder / "masks").mkdir()
    (folder / "project.toml").write_text(TOML)
    return load_project(folder)


def _deal_of(samples: Sequence[Sample]) -> Deal:
    return Deal(
        train=tuple(one.name for one in samples if one.split == "train"),
        val=tuple(one.name for one in samples if one.split == "val"),
        files=files_of(samples),
    )


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def _label(folder: Path, name: str) -> None:
    _save(folder / "masks" / f"{name}.png", np.eye(8, dtype=np.uint8))


@given(st.permutations(NAMES), st.lists(st.integers(1, 4), min_size=2, max_size=5))
@with_settings(max_examples=25)
def test_an_image_keeps_its_side_and_groups_stay_whole_in_whatever_order_labels_come(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], pieces: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("follow")
    project = _project(folder)
    left = list(order)
    while not has_both_sides(found := gather_some(project).samples):
        _label(folder, left.pop())
    deal = _deal_of(found)
    for number in pieces:
        for _ in range(min(number, len(left))):
            _label(folder, left.pop())
        now = labelled_now(project, deal)
        assert not now.gone
        train = {one.name for one in now.samples if one.split == "train"}
        val = {one.name for one in now.samples if one.split == "val"}
        assert train >= set(deal.train)
        assert val >= set(deal.val)
        assert not train & val
        groups = {name.partition("_")[0]: set() for name in train | val}
        for side, names in (("train", train), ("val", val)):
            for name in names:
                groups[name.partition("_")[0]].add(side)
        assert all(len(sides) == 1 for sides in groups.values())
        deal = _deal_of(now.samples)


def test_what_is_taken_away_is_gone_and_comes_back_on_its_own_side(tmp_path: Path) -> None:
    project = _project(tmp_path)
    for name in NAMES:
        _label(tmp_path, name)
    deal = _deal_of(gather_some(project).samples)
    mask = tmp_path / "masks" / f"{deal.val[0]}.png"
    content = mask.read_bytes()
    mask.unlink()
    assert labelled_now(project, deal).gone == {deal.val[0]}
    mask.write_bytes(content)
    back = labelled_now(project, deal)
    assert not back.gone
    assert {one.name for one in back.samples if one.split == "val"} == set(deal.val)


def test_a_label_that_is_written_again_has_another_stamp(tmp_path: Path) -> None:
    project = _project(tmp_path)
    for name in NAMES:
        _label(tmp_path, name)
    (one, *_) = gather_some(project).samples
    before, all_before = label_stamp(one), folders_stamp(project)
    assert folders_stamp(project) == all_before
    _save(tmp_path / "masks" / f"{one.name}.png", np.ones((8, 8), np.uint8))
    assert label_stamp(one) != before
    assert folders_stamp(project) != all_before


def test_labels_whose_names_are_told_anew_have_another_stamp(tmp_path: Path) -> None:
    project = _project(tmp_path)
    for name in NAMES:
        _label(tmp_path, name)
    (one, *_) = gather_some(project).samples
    yolo = LabelRef(path=tmp_path / "labels" / "a.txt", kind="shapes")
    (tmp_path / "classes.txt").write_text("pore\n")
    before = label_stamp(replace(one, label=yolo))
    (tmp_path / "classes.txt").write_text("crack\npore\n")
    assert label_stamp(replace(one, label=yolo)) != before
