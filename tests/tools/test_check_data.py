"""What is odd about images and shapes is said once, with the file and a remedy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.dataset.facts_cache import FactsCache
from emcfsys_engine.dataset.samples import Sample, list_samples
from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.check_data import (
    Finding,
    duplicates,
    image_findings,
    leaking_groups,
    pixel_facts,
)
from tests.tools.made import project_at

RNG = np.random.default_rng(4)


def samples_of(folder: Path, images: dict[str, np.ndarray], data: str = "") -> list[Sample]:
    """Return the samples of a project of these images, all of one class."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for name, pixels in images.items():
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[: len(mask) // 2] = 1
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    text = f'[[data]]\nimages = "images"\nmasks = "masks"\n{data}'
    project = project_at(folder, text, "matrix = 0\nlarge = 1")
    return list(list_samples(project).samples)


def noise(side: int = 80) -> np.ndarray:
    return RNG.integers(20, 230, (side, side), np.uint8)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (np.full((80, 80), 7, np.uint8), "constant"),
        (np.where(RNG.random((80, 80)) < 0.3, 255, 90).astype(np.uint8), "saturat"),
        (noise(40), "only 40 pixels wide"),
    ],
)
def test_odd_images_are_named(pixels: np.ndarray, told: str, tmp_path: Path) -> None:
    samples = samples_of(tmp_path, {"odd": pixels, "good": noise()})
    found = image_findings(pixel_facts(samples, FactsCache()))
    named = [one.text for one in found if "odd.png" in one.file]
    assert any(told in text for text in named), [one.text for one in found]
    assert not [one for one in found if "good.png" in one.file and told in one.what]


def test_an_image_that_is_there_twice_is_named_with_its_twin(tmp_path: Path) -> None:
    pixels = noise()
    samples = samples_of(tmp_path, {"a": pixels, "b": pixels, "c": noise()})
    (found,) = duplicates(samples, FactsCache())
    assert "a.png" in found.text
    assert "b.png" in found.text


def test_an_image_of_two_tables_is_named(tmp_path: Path) -> None:
    data = 'split = "train"\n[[data]]\nimages = "images"\nmasks = "masks"\nsplit = "val"\n'
    samples = samples_of(tmp_path, {"a": noise(), "b": noise()}, data)
    found = duplicates(samples, FactsCache())
    assert [one.level for one in found] == ["error", "error"]
    assert "is in val, and the same image" in found[0].text
    on_one_side = [replace(sample, split="train") for sample in samples]
    found = duplicates(on_one_side, FactsCache())
    assert [one.level for one in found] == ["warning", "warning"]
    assert "is in two [[data]] tables" in found[0].text


def test_images_of_one_name_in_both_parts_are_told_of_groups(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, {"spot1_1": noise(), "spot1_2": noise(), "spot2_1": noise()})
    assert leaking_groups([one for one in samples if one.split == "train"]) == []


def test_a_finding_is_one_line_whatever_names_hold() -> None:
    text = Finding.of(InputError("\x1b[2J", "is cut", "Copy it again")).text
    assert text == "error: \\x1b[2J: is cut. Copy it again."
