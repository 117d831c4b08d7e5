"""HDF5: axes as the file names them."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import probe, read_micrograph


def test_axes_of_hdf5_are_those_that_the_file_names(reported: Path, tmp_path: Path) -> None:
    with h5py.File(reported / "raw_xyz.h5") as file:
        (name,) = file
        stored = np.asarray(file[name])
    found = read_micrograph(ImageRef(path=reported / "raw_xyz.h5", plane=1)).pixels
    assert np.array_equal(found, stored[:, :, 1].T)
    facts = probe(reported / "probabilities_yxc2.h5")
    assert (facts.shape, facts.planes) == ((48, 64, 2), 1)
    assert any("first is used" in note for note in facts.notes)
    assert probe(reported / "seg_yxc1.h5").shape == (48, 64)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        data = file.create_dataset("d", data=np.zeros((5, 32, 40), "u2"))
        data.dims[0].label, data.dims[1].label, data.dims[2].label = "c", "y", "x"
    facts = probe(tmp_path / "labels.h5")
    assert (facts.shape, facts.planes) == ((32, 40), 5)


@pytest.mark.parametrize("raw", ["", "no json", '{"axes": 3}', "[" * 9000, json.dumps({})])
def test_axis_tags_that_make_no_sense_say_nothing(tmp_path: Path, raw: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("d", data=np.zeros((3, 32, 40), "u2")).attrs["axistags"] = raw
    assert probe(tmp_path / "a.h5").planes == 3


def test_a_last_axis_of_one_is_one_channel(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["d"] = np.arange(48 * 64, dtype="u2").reshape(48, 64, 1)
    assert read_micrograph(tmp_path / "a.h5").pixels.shape == (48, 64)


def test_groups_in_groups_without_end_are_refused_before_they_are_gone_through(
    tmp_path: Path,
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group: h5py.Group = file
        for _ in range(300):
            group = group.create_group("g")
        group["image"] = np.zeros((48, 64), np.uint8)
    with pytest.raises(ImageError, match=r"nested more than 64 deep. Export the image itself"):
        read_micrograph(tmp_path / "a.h5")


def test_pixels_behind_a_link_to_another_file_are_not_read(tmp_path: Path) -> None:
    """Nobody sees there that they changed, and it may be any file of the person's."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["Data/Image/x/Data"] = np.full((16, 16, 1), 7, np.uint8)
    with h5py.File(tmp_path / "image.emd", "w") as file:
        file.create_group("Data")["Image"] = h5py.ExternalLink("other.h5", "/Data/Image")
    with pytest.raises(ImageError, match="keeps its pixels in other files"):
        read_micrograph(ImageRef(path=tmp_path / "image.emd"))
