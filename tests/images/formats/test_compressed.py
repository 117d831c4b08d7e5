"""Packed files hold the pixels of the files that they are; an elid its images alone."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.formats import compressed
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph


def test_the_packed_map_holds_the_same_pixels(shared_data: Path) -> None:
    folder = shared_data / "microscope-formats" / "mrc"
    plain = read_micrograph(ImageRef(path=folder / "EMD-3001.map", plane=7))
    packed = read_micrograph(ImageRef(path=folder / "EMD-3001.map.bz2", plane=7))
    assert np.array_equal(plain.pixels, packed.pixels)


def project(file: Path, *sizes: tuple[int, int]) -> Path:
    """Write a project of pictures whose first pixel says which they are."""
    data = b"EID2"
    for number, size in enumerate(sizes):
        inside = io.BytesIO()
        pixels = np.full(size, number, np.uint8)
        tifffile.imwrite(inside, pixels, photometric="minisblack")
        data += struct.pack("<I", len(inside.getvalue())) + inside.getvalue()
    file.write_bytes(gzip.compress(data))
    return file


def test_pictures_of_one_pixel_are_no_images(tmp_path: Path) -> None:
    file = project(tmp_path / "a.elid", (16, 20), (1, 1), (8, 9))
    facts = compressed.probe(file)
    assert facts.planes == 2
    assert "its planes differ in size" in facts.notes
    assert compressed.read(file, 1).pixels.shape == (8, 9)
    assert compressed.read(file, 1).pixels[0, 0] == 2
    with pytest.raises(ImageError, match="has 2 planes"):
        compressed.read(file, 2)


def test_a_project_of_spectra_alone_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="without an image.*Export the image as TIFF"):
        compressed.probe(project(tmp_path / "a.elid", (1, 1)))
