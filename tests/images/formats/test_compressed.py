"""Packed files hold the pixels of the files that they are."""

from pathlib import Path

import numpy as np

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph


def test_the_packed_map_holds_the_same_pixels(shared_data: Path) -> None:
    folder = shared_data / "microscope-formats" / "mrc"
    plain = read_micrograph(ImageRef(path=folder / "EMD-3001.map", plane=7))
    packed = read_micrograph(ImageRef(path=folder / "EMD-3001.map.bz2", plane=7))
    assert np.array_equal(plain.pixels, packed.pixels)
