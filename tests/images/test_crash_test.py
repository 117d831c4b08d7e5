"""A library that dies of a damaged file takes a child along, and no more."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.crash_test import try_first


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
