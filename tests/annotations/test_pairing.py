"""Which label belongs to which image, and to which source of a project."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.annotations.pairing import (
    bare_name,
    is_label_name,
    key_of_file,
    key_of_name,
    match,
    root_of,
    source_of,
)
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.project import load_project

ROOT = Path("/data/images")


def pairs_of(images: list[str], labels: list[str]) -> dict[str, str]:
    refs = [ImageRef(path=ROOT / name) for name in images]
    keys = {label: key_of_name(label) for label in labels}
    return {ref.path.name: label for ref, label in match(refs, ROOT, keys)[0].items()}


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("a.ome.tif", "a"),
        ("x.map.gz", "x"),
        ("x.0012", "x.0012"),
        ("noext", "noext"),
        ("Å b.TIFF", "Å b"),
        ("v1.2.png", "v1.2"),
    ],
)
def test_a_bare_name_has_no_extension_and_keeps_its_numbers(name: str, bare: str) -> None:
    assert bare_name(name) == bare


@pytest.mark.parametrize("name", ["x_mask.png", "mask_x.png", "x_cp_masks.png", "x-labels.tif"])
def test_a_label_is_told_by_its_name(name: str) -> None:
    assert is_label_name(Path(name))
    assert not is_label_name(Path("x.png"))


def test_the_exact_name_goes_before_the_one_without_suffix() -> None:
    assert pairs_of(["a.tif", "a_mask.tif"], ["a.png", "a_mask.png"]) == {
        "a.tif": "a.png",
        "a_mask.tif": "a_mask.png",
    }


def test_a_name_that_two_images_could_mean_is_no_pair() -> None:
    assert pairs_of(["s1/a.tif", "s2/a.tif"], ["a_mask.png"]) == {}
    assert pairs_of(["s1/a.tif", "s2/b.tif"], ["a_mask.png"]) == {"a.tif": "a_mask.png"}


def test_an_upload_has_its_mark_before_its_name_and_a_day_is_none() -> None:
    assert pairs_of(["1f2e3d4c-grid.tif"], ["grid.png"]) == {"1f2e3d4c-grid.tif": "grid.png"}
    assert pairs_of(["20261128-grid.tif"], ["grid.png"]) == {}


def test_a_label_of_an_image_that_is_gone_is_not_its_namesakes_in_another_folder() -> None:
    images = ["day1/0000.tif", "day1/0001.tif", "day2/0000.tif", "day2/0001.tif"]
    labels = ["day1/0000.png", "day1/0001.png", "day2/0001.png", "day3/0000.png"]
    refs = [ImageRef(path=ROOT / name) for name in images]
    keys = {label: key_of_name(label) for label in labels}
    found, left = match(refs, ROOT, keys)
    assert refs[2] not in found
    assert left == ["day3/0000.png"]
    del keys["day1/0000.png"]  # by what an earlier look took
    del found[refs[0]]
    assert match(refs[1:], ROOT, keys, taken=refs[:1]) == (found, left)


def test_a_slice_of_a_stack_is_paired_by_its_number() -> None:
    planes = [ImageRef(path=ROOT / "s.mrc", plane=plane) for plane in range(3)]
    found, left = match(planes, ROOT, {"one": key_of_name("s.0001.png"), "no": ("s", 9)})
    assert found == {planes[1]: "one"}
    assert left == ["no"]


@given(st.lists(st.sampled_from(["a", "b", "ab", "a_mask", "mask_b", "c.0001"]), unique=True))
def test_no_label_is_used_twice_and_none_is_lost(names: list[str]) -> None:
    images = [ImageRef(path=ROOT / f"{name}.tif") for name in ("a", "b", "ab", "c")]
    labels = {name: key_of_name(f"{name}.png") for name in names}
    found, left = match(images, ROOT, labels)
    assert sorted([*found.values(), *left]) == sorted(names)


def test_a_sources_own_labels_are_known_inside_its_folder_too(tmp_path: Path) -> None:
    (tmp_path / "masks" / "sub").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n'
        '[[data]]\nimages = "images"\nmasks = "masks"'
    )
    project = load_project(tmp_path)
    assert source_of(project, "masks", tmp_path) == project.data[0]
    assert source_of(project, str(tmp_path / "masks" / "sub"), Path("/")) == project.data[0]
    assert source_of(project, "predictions", tmp_path) is None
    assert root_of("masks/*.png", tmp_path) == tmp_path / "masks"
    assert key_of_file(tmp_path / "masks" / "sub" / "a.png", tmp_path / "masks") == ("sub/a", None)
