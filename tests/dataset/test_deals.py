"""A deal is kept for ever: what comes, goes, moves or is drawn anew changes no part of it."""

import random
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.dataset.deals import (
    Deal,
    Fingerprint,
    files_of,
    keep_folds,
    refuse_renumbered,
    refuse_renumbered_since,
    refuse_swapped,
    renumbered,
)
from emcfsys_engine.dataset.samples import Samples, list_samples, samples_of
from emcfsys_engine.errors import DataFaults, RunFolderError
from emcfsys_engine.project import Project, load_project, numbers_now

TOML = """
[project]
name = "p"
[classes]
a = 0
b = 1
[[data]]
images = "x/images"
masks = "x/masks"
unlabelled = "skip"
[[data]]
images = "y/images"
masks = "y/masks"
unlabelled = "skip"
[training]
kfold = 3
"""
ACTS = ("add", "add bare", "add broken", "add twin", "remove", "unlabel", "relabel", "move")


def _write(folder: Path, name: str, value: int = 0, suffix: str = ".png") -> None:
    rng = np.random.default_rng(sum(name.encode()))
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = value
    for kind, pixels in (
        ("images", rng.integers(0, 255, (8, 8)).astype(np.uint8)),
        ("masks", mask),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(
            folder / kind / (name + (suffix * (kind == "images") or ".png"))
        )


def _project(folder: Path) -> Project:
    for place, names in (("x", "abcdefg"), ("y", "pqrs")):
        for name in names:
            _write(folder / place, name)
    (folder / "project.toml").write_text(TOML)
    return load_project(folder)


def _deal_of(found: Samples) -> Deal:
    return Deal(
        train=tuple(one.name for one in found.of("train")),
        val=tuple(one.name for one in found.of("val")),
        files=files_of(found.samples),
    )


def _act(folder: Path, act: str, number: int) -> None:
    """Do to the data what people do between two starts of a run."""
    images = sorted((folder / "x" / "images").iterdir())
    image = images[number % len(images)]
    mask = folder / "x" / "masks" / f"{image.stem}.png"
    if act == "add":
        _write(folder / "x", f"new{number}", value=1)
    elif act == "add bare" and image.stem != f"bare{number}":
        shutil.copy(image, image.with_name(f"bare{number}.png"))
    elif act == "add broken":
        image.with_name(f"broken{number}.png").write_bytes(b"\x89PNG no picture")
        mask.with_name(f"broken{number}.png").write_bytes(b"\x89PNG no picture")
    elif act == "add twin" and image.stem in "abcdefg":  # a.tif beside a.png
        Image.open(image).save(image.with_suffix(".tif"))
    elif act == "remove" and len(images) > 3:
        image.unlink()
    elif act == "unlabel" and len(images) > 3:
        mask.unlink(missing_ok=True)
    elif act == "relabel" and mask.exists():
        Image.fromarray(np.full((8, 8), number % 2, np.uint8)).save(mask)
    elif act == "move" and not (folder / "y" / "images" / image.name).exists() and mask.exists():
        image.rename(folder / "y" / "images" / image.name)
        mask.rename(folder / "y" / "masks" / mask.name)


@given(
    acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 50)), max_size=6),
    fold=st.integers(0, 3),
)
@with_settings(max_examples=40)
def test_what_trains_and_what_validates_never_changes_sides(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int]], fold: int
) -> None:
    folder = tmp_path_factory.mktemp("deal")
    project = _project(folder)
    deal = _deal_of(list_samples(project, fold=fold))
    assert not set(deal.train) & set(deal.val)
    for act, number in acts:
        _act(folder, act, number)
    try:
        found = samples_of(project, deal)
    except DataFaults as faults:  # whole parts are gone: said, not dealt anew
        assert all("none of the run's" in str(fault) for fault in faults.faults)
        return
    train, val = ({one.name for one in found.of(part)} for part in ("train", "val"))
    assert train | set(found.vanished) >= set(deal.train)
    assert train <= set(deal.train)
    assert val <= set(deal.val)
    assert train | val | set(found.vanished) == set(deal.names)
    paths = [(one.image.path, one.image.plane) for one in found.samples]
    assert len(paths) == len(set(paths))


def test_what_came_and_what_went_is_named(tmp_path: Path) -> None:
    project = _project(tmp_path)
    deal = _deal_of(list_samples(project))
    _write(tmp_path / "x", "later", value=1)
    (tmp_path / "x" / "images" / f"{next(n for n in deal.train if n in 'abcdefg')}.png").unlink()
    notes = "\n".join(samples_of(project, deal).notes)
    assert "1 image that this run was not begun with: left out: later" in notes
    assert f"{next(n for n in deal.train if n in 'abcdefg')} is no longer there" in notes


def test_a_moved_image_stays_on_its_side(tmp_path: Path) -> None:
    project = _project(tmp_path)
    deal = _deal_of(list_samples(project))
    name = next(n for n in deal.train if n in "abcdefg")
    for kind in ("images", "masks"):
        (tmp_path / "x" / kind / f"{name}.png").rename(tmp_path / "y" / kind / f"{name}.png")
    found = samples_of(project, deal)
    assert name in {one.name for one in found.of("train")}
    assert found.vanished == ()


def test_the_first_deal_of_a_group_stands(tmp_path: Path) -> None:
    project = _project(tmp_path)
    file = tmp_path / "kfold-0001.deal.json"
    first = keep_folds(file, list_samples(project, fold=1).samples, {})
    for name in ("later", "latest", "late"):
        _write(tmp_path / "x", name, value=1)
    assert keep_folds(file, list_samples(project, fold=2).samples, {}) == first
    validating = [name for fold in (1, 2, 3) for name in first.deal(fold).val]
    assert sorted(validating) == sorted("abcdefgpqrs")
    assert list(tmp_path.glob(".*tmp")) == []


def test_folds_begun_by_an_older_version_are_dealt_around(tmp_path: Path) -> None:
    project = _project(tmp_path)
    begun = {1: Deal(train=tuple("defgqrs"), val=tuple("abcp"))}
    for name in ("later", "latest"):
        _write(tmp_path / "x", name)
    made = keep_folds(tmp_path / "deal.json", list_samples(project, fold=2).samples, begun)
    assert set(made.deal(1).val) == set("abcp")
    assert set(made.deal(2).val) | set(made.deal(3).val) == set("defgqrs")
    assert set(made.folds) == set("abcdefgpqrs")


def test_a_damaged_deal_is_not_dealt_anew(tmp_path: Path) -> None:
    project = _project(tmp_path)
    file = tmp_path / "deal.json"
    file.write_text("{}")
    with pytest.raises(RunFolderError, match="deal.json: cannot be read"):
        keep_folds(file, list_samples(project, fold=1).samples, {})


def test_images_that_changed_names_across_the_parts_are_refused(tmp_path: Path) -> None:
    deal = Deal(train=("a",), val=("b",))
    before = {n: Fingerprint(image=f"image of {n}", labels="") for n in "ab"}
    swapped = {"a": before["b"], "b": before["a"]}
    with pytest.raises(DataFaults, match="b: is now the image that this run trained on as a"):
        refuse_swapped(deal, before, swapped, tmp_path)
    refuse_swapped(deal, before, before, tmp_path)


def test_the_order_is_that_of_the_deal(tmp_path: Path) -> None:
    project = _project(tmp_path)
    deal = _deal_of(list_samples(project))
    shuffled = list(deal.train)
    random.Random(1).shuffle(shuffled)
    other = Deal(train=tuple(shuffled), val=deal.val, files=deal.files)
    assert [one.name for one in samples_of(project, other).of("train")] == shuffled


def test_masks_that_were_numbered_anew_are_refused_and_others_are_not(tmp_path: Path) -> None:
    """A resume learned one class under the name of the other: its own classes are of before."""
    project = _project(tmp_path)
    (first, one), (second, other) = list(project.classes.items())[:2]
    deal = Deal(train=("a",), val=("b",))
    before = {n: Fingerprint(image=n, labels="") for n in "ab"}
    drawn = {**before, "b": Fingerprint(image="b", labels="others")}
    text = project.file.read_text()
    refuse_renumbered(deal, before, drawn, project)  # corrected labels

    swapped = text.replace(f"{first} = {one}", f"{first} = {other}")
    project.file.write_text(swapped.replace(f"{second} = {other}", f"{second} = {one}"))
    refuse_renumbered(deal, before, before, project)  # shapes are told by their names
    with pytest.raises(DataFaults, match=rf"{first} = {one}, now {other}.*back \(b\)"):
        refuse_renumbered(deal, before, drawn, project)
    for harmless in ("[classes", text.replace(f"{first} = ", "renamed = ")):
        project.file.write_text(harmless)
        refuse_renumbered(deal, before, drawn, project)


def test_a_run_that_waited_while_its_classes_were_numbered_anew_is_refused(tmp_path: Path) -> None:
    """It was begun with the numbers of before on masks of now: classes were swapped, unsaid."""
    project = _project(tmp_path)
    (first, one), (second, other) = list(project.classes.items())[:2]
    text, numbers = project.file.read_text(), numbers_now(project.file)
    given = msgspec.structs.replace(project, classes={first: other, second: one})
    refuse_renumbered_since(given, numbers)  # by --set, and so on purpose
    swapped = text.replace(f"{first} = {one}", f"{first} = {other}")
    project.file.write_text(swapped.replace(f"{second} = {other}", f"{second} = {one}"))
    refuse_renumbered_since(project, "")  # an older version's run
    with pytest.raises(DataFaults, match=rf"mean others .*{first} = {one}, now {other}"):
        refuse_renumbered_since(project, numbers)
    project.file.write_text(text + "[training]\nsteps = 9\n")
    refuse_renumbered_since(project, numbers)


def test_labels_of_a_table_that_mean_another_class_now_are_told(tmp_path: Path) -> None:
    project = _project(tmp_path)
    first, second = list(project.classes)[:2]
    text = project.file.read_text()
    whose = {"images": "a", "masks": "m"}
    source = msgspec.structs.replace(project.data[0], **whose, labels={"9": first})
    known = msgspec.structs.replace(project, data=(source,))
    head = text[: text.index("[[data]]")] + '[[data]]\nimages = "a"\nmasks = "m"\n'
    for meaning, told in ((first, ""), (second, f"label '9' = {first}, now {second}")):
        project.file.write_text(f'{head}[data.labels]\n"9" = "{meaning}"\n')
        assert renumbered(known) == told
