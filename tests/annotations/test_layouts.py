"""Where labels lie in the folders that people and tools really leave."""

from pathlib import Path

import numpy as np
from PIL import Image

from emcfsys_engine.annotations.layouts import best_layout, masks_by_class

RNG = np.random.default_rng(3)


def micrograph(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (30, 40), np.uint8)).save(file)


def mask(file: Path, value: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((30, 40), np.uint8)
    pixels[5:20, 5:20] = value
    Image.fromarray(pixels).save(file)


def test_folders_with_usual_names_are_found_whatever_their_case(tmp_path: Path) -> None:
    micrograph(tmp_path / "Images" / "a.png")
    mask(tmp_path / "Labels" / "a.png")
    found = best_layout(tmp_path)
    assert found is not None
    assert (found.images, found.kind, found.labels, found.num_pairs) == (
        "Images", "masks", "Labels", 1,
    )  # fmt: skip


def test_masks_beside_their_images_are_told_by_their_names(tmp_path: Path) -> None:
    micrograph(tmp_path / "a.png")
    mask(tmp_path / "a_mask.png")
    found = best_layout(tmp_path)
    assert found is not None
    assert (found.images, found.labels, found.num_images, found.num_pairs) == (".", ".", 1, 1)


def test_a_folder_of_micrographs_of_the_same_names_is_no_folder_of_masks(tmp_path: Path) -> None:
    for detector in ("se", "bse"):
        micrograph(tmp_path / detector / "a.png")
    found = best_layout(tmp_path)
    assert found is not None
    assert found.num_pairs == 0


def test_several_folders_of_masks_of_one_name_are_one_folder_a_class(tmp_path: Path) -> None:
    micrograph(tmp_path / "images" / "a.png")
    for name in ("cell", "nucleus"):
        mask(tmp_path / "masks" / name / "a.png", 255)
    found = best_layout(tmp_path)
    assert found is not None
    assert found.class_folders == ("cell", "nucleus")
    mask(tmp_path / "split" / "train" / "a.png")
    mask(tmp_path / "split" / "val" / "b.png")
    assert masks_by_class(tmp_path / "split") == {}


def test_what_we_wrote_and_what_a_microscope_writes_is_no_data(tmp_path: Path) -> None:
    for folder in ("runs", "predictions", "incoming"):
        micrograph(tmp_path / folder / "a.png")
        mask(tmp_path / folder / "a_mask.png")
    assert best_layout(tmp_path) is None
