"""Images on the disk: the same arrays, no file left behind, a full disk is no end."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.training import dataset as dataset_module
from emcfsys_engine.learn.training.dataset import Dataset, PatchSampler
from emcfsys_engine.learn.training.spool import Spool
from emcfsys_engine.project import load_project


@pytest.mark.parametrize("part", [4 << 30, 1000])
def test_arrays_come_back_and_no_file_has_a_name(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emcfsys_engine.learn.training.spool._PART_BYTES", part)
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
