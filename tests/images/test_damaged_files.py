"""A header promises more than its file can hold: refused before any memory is taken."""

import struct
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import try_first
from emcfsys_engine.images.reader import read_micrograph
from tests.images.bad_files import png


def test_a_header_of_a_hundred_thousand_pixels_in_a_kilobyte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(100_000, 100_000, bytes(1000)))
    mrc = bytearray(1024 + 64)
    mrc[:16] = struct.pack("<4i", 100_000, 100_000, 1, 2)
    mrc[208:212] = b"MAP "
    (tmp_path / "b.mrc").write_bytes(mrc)
    tags = [(256, 100_000), (257, 100_000), (258, 8), (259, 8), (262, 1), (273, 8), (277, 1)]
    tags += [(278, 100_000), (279, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(400)
    (tmp_path / "c.tif").write_bytes(tiff)
    for name in ("a.png", "b.mrc", "c.tif"):
        start = time.process_time()
        with pytest.raises(ImageError, match=r"100,000|truncated"):
            read_micrograph(tmp_path / name)
        assert time.process_time() - start < 1


def test_a_bomb_inside_gzip_and_bzip2_is_refused(tmp_path: Path) -> None:
    import bz2
    import gzip

    header = bytearray(1024)
    header[:16] = struct.pack("<4i", 20_000, 20_000, 1, 2)
    header[208:212] = b"MAP "
    content = bytes(header) + bytes(50_000_000)
    (tmp_path / "a.mrc.gz").write_bytes(gzip.compress(content))
    (tmp_path / "b.mrc.bz2").write_bytes(bz2.compress(content))
    for name in ("a.mrc.gz", "b.mrc.bz2"):
        with pytest.raises(ImageError, match=r"would unpack|cannot hold|truncated"):
            read_micrograph(tmp_path / name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as made:
        made["data"] = np.zeros((20, 30), np.uint8)
    return tmp_path / "a.h5"


def test_a_file_that_is_read_without_harm_passes_whatever_else_is_wrong_with_it(
    file: Path,
) -> None:
    try_first(file, "hdf5")
    file.with_name("b.h5").write_bytes(b"no HDF5 at all")
    try_first(file.with_name("b.h5"), "hdf5")  # the reader itself says so


def test_a_file_of_which_the_child_dies_is_refused_with_a_remedy(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = file.with_name("python")
    program.write_text("#!/bin/sh\nkill -SEGV $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(ImageError, match=r"library that reads this format fails.*Copy or export"):
        try_first(file, "hdf5")
