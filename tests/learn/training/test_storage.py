"""Images that live on the GPU: the same crops as from the host's memory, and little goes up."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.pixels_on_device import AS_THEY_ARE, statistics_to_use
from emcfsys_engine.learn.training import dataset as dataset_module
from emcfsys_engine.learn.training.batches import Batches
from emcfsys_engine.learn.training.dataset import Dataset, PatchSampler, TrainingItem
from emcfsys_engine.learn.training.storage import Spool
from emcfsys_engine.project import load_project
from tests.learn.pretend_gpu import pretended_gpu
from tests.learn.training.items import Items

GPU = torch.device("cuda", 0)


def _sampler(kind: str, seed: int = 0, channels: int = 1) -> PatchSampler:
    """Return a sampler of 32² patches: images of many sizes, one smaller than a patch."""
    rng = np.random.default_rng(seed)
    items = Items()
    for height, width in ((90, 80), (7, 200), (40, 1), (33, 60)):
        pixels = rng.integers(0, 200, (height, width, channels)).astype(kind)
        found = statistics_to_use(Normaliser().per_channel(pixels))
        items.append(
            TrainingItem(
                pixels=pixels,
                labels=rng.integers(0, 3, (height, width), np.uint8),
                pixel_nm=None,
                raw_mean=0,
                raw_deviation=1,
                statistics=AS_THEY_ARE if kind == "float32" else found,
            )
        )
    return PatchSampler(cast(Dataset, items), 32, 9, seed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_crops_from_the_gpu_are_those_from_the_host(
    kind: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emcfsys_engine.learn.training.storage._AT_ONCE", 4 * 48 * 48)
    sampler = _sampler(kind, channels=channels)
    per_px, numbers = channels * sampler.dtype.itemsize + 1, 1 if kind == "float32" else channels
    with pretended_gpu() as seen:
        batches = Batches(sampler, 1, GPU)
        try:
            assert batches._resident is not None
            images_bytes = sum(h * w for h, w in sampler.sizes) * per_px
            assert images_bytes <= seen.uploaded_bytes
            for step in range(1, 12):
                seen.forget()
                there = [each.cpu() for each in batches.next()]
                here = sampler.crops(step).on(torch.device("cpu"))
                assert torch.equal(there[0], here[0])
                assert torch.equal(there[1], here[1])
                assert seen.uploaded_bytes == 2 * 9 * 48 * 8 + 9 * 16 * numbers  # line numbers
                assert not [kind for kind, _ in seen.syncs if "download" not in kind]
        finally:
            batches.close()


def test_images_that_do_not_fit_stay_on_the_host() -> None:
    with pretended_gpu(memory=100_000) as seen:  # 8 % of it is less than 10,227 pixels and labels
        batches = Batches(_sampler("uint8"), 1, GPU)
        try:
            assert batches._resident is None
            batches.next()
            assert seen.uploads == 3
        finally:
            batches.close()


def test_a_gpu_that_others_filled_leaves_images_on_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("emcfsys_engine.learn.training.storage.uploaded", full)
    with pretended_gpu():
        assert _sampler("uint8").resident_on(GPU) is None


@pytest.mark.parametrize("part", [4 << 30, 1000])
def test_arrays_come_back_and_no_file_has_a_name(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emcfsys_engine.learn.training.storage._PART_BYTES", part)
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 200, (n + 1, 37, 1)).astype(kind)
        for n in range(9)
        for kind in ("uint8", "uint16", "float32")
    ]
    spool = Spool(tmp_path / "made")
    kept = [spool.keep(each) for each in arrays]
    for one, other in zip(arrays, kept, strict=True):
        assert other is not None
        assert other.dtype == one.dtype
        np.testing.assert_array_equal(one, other)
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
@pytest.mark.parametrize("depth", [1, 2])
def test_nothing_is_kept_in_a_folder_that_another_user_made(tmp_path: Path, depth: int) -> None:
    folder = tmp_path / "emcfsys-0" / "images"
    theirs = (folder.parent, folder)[depth - 1]
    theirs.mkdir(parents=True)
    os.chown(theirs, 65534, 65534)
    assert Spool(folder).keep(np.zeros(9)) is None
    assert not list(theirs.iterdir())


def test_images_beyond_the_memory_are_read_once_and_cut_alike(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = load_project(project_folder)
    samples = list_samples(project).of("train")
    plain = PatchSampler(Dataset(samples, project, Normaliser()), 32, 4, 0).crops(3)
    monkeypatch.setattr(dataset_module, "_MEMORY_SHARE", 0.0)
    read: list[str] = []
    load = dataset_module.load_item
    monkeypatch.setattr(
        dataset_module, "load_item", lambda s, *more: (read.append(str(s.image)), load(s, *more))[1]
    )
    sampler = PatchSampler(Dataset(samples, project, Normaliser()), 32, 4, 0)
    for one, other in zip(plain, sampler.crops(3), strict=True):
        assert one.equal(other)
    assert len(read) == len(samples)


def test_a_full_disk_has_images_read_again(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = load_project(project_folder)
    samples = list_samples(project).of("train")
    monkeypatch.setattr(dataset_module, "_MEMORY_SHARE", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    data = Dataset(samples, project, Normaliser())
    np.testing.assert_array_equal(data[0].pixels, data[0].pixels)
    assert not data._kept
