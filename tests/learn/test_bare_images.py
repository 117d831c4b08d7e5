"""Patches of images that are labelled in part show what is labelled."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.dataset.samples import gather
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.training.dataset import Dataset, PatchSampler, class_pixel_counts
from emcfsys_engine.learn.training.plan import choose_class_weights
from emcfsys_engine.project import UNLABELLED, load_project
from tests.bench.scribbles import scribbled


def dataset(folder: Path, masks: list[np.ndarray]) -> Dataset:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number, mask in enumerate(masks):
        noise = rng.integers(0, 255, mask.shape, np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    (folder / "project.toml").write_text(
        '[project]\nname = "x"\n[classes]\nbg = 0\npore = 1\n'
        '[[data]]\nimages = "images"\nmasks = "masks"\nsplit = "train"\n'
    )
    project = load_project(folder)
    return Dataset(gather(project).samples, project, Normaliser())


def test_every_patch_of_bare_images_holds_labelled_pixels(tmp_path: Path) -> None:
    bare = np.full((256, 256), UNLABELLED, np.uint8)
    corner = bare.copy()
    corner[:20, :20], corner[:20, 20:30] = 1, 0
    sampler = PatchSampler(dataset(tmp_path, [corner, bare]), 32, 8, seed=3)
    for step in range(4):
        _, labels_NMM, _ = sampler.crops(step)
        assert bool((labels_NMM != UNLABELLED).flatten(1).any(1).all())


def test_classes_are_counted_by_their_labelled_pixels(tmp_path: Path) -> None:
    mask = np.full((64, 64), UNLABELLED, np.uint8)
    mask[:4], mask[4:6] = 0, 1
    assert class_pixel_counts(dataset(tmp_path, [mask])).tolist()[:2] == [256, 128]


def test_scribbles_of_the_bench_lie_in_their_classes_and_follow_the_seed() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[60:140, 60:140], mask[90:100, 90:100] = 1, 2
    drawn = scribbled(mask, 0.05, np.random.default_rng(5))
    labelled = drawn != UNLABELLED
    assert np.array_equal(drawn[labelled], mask[labelled])
    assert 0.04 < labelled.mean() < 0.06
    assert set(np.unique(drawn[labelled])) == {0, 1, 2}
    assert np.array_equal(drawn, scribbled(mask, 0.05, np.random.default_rng(5)))


def test_where_most_is_bare_a_drawn_pixel_of_each_class_counts_alike(tmp_path: Path) -> None:
    bare, whole = np.full((64, 64), UNLABELLED, np.uint8), np.zeros((64, 64), np.uint8)
    bare[:4], bare[4:6] = 0, 1
    whole[:16] = 1
    reasons: dict[str, str] = {}
    assert choose_class_weights(dataset(tmp_path / "bare", [bare]), reasons) == (1.0, 1.0)
    assert "drawn: " in reasons["class_weights"]
    common, rare = choose_class_weights(dataset(tmp_path / "whole", [whole]), reasons)
    assert rare / common == pytest.approx(3**0.5, rel=1e-3)
