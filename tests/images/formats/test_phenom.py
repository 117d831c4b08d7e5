"""Phenom projects give their images, not the spots of their spectra."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.formats import phenom


def project(file: Path, *sizes: tuple[int, int]) -> Path:
    """Write a project of pictures whose first pixel says which they are."""
    data = b"project"
    for number, size in enumerate(sizes):
        inside = io.BytesIO()
        pixels = np.full(size, number, np.uint8)
        tifffile.imwrite(inside, pixels, photometric="minisblack")
        data += struct.pack("<I", len(inside.getvalue())) + inside.getvalue()
    file.write_bytes(gzip.compress(data))
    return file


def test_pictures_of_one_pixel_are_no_images(tmp_path: Path) -> None:
    file = project(tmp_path / "a.elid", (16, 20), (1, 1), (8, 9))
    facts = phenom.probe(file)
    assert facts.planes == 2
    assert "its planes differ in size" in facts.notes
    assert phenom.read(file, 1).pixels.shape == (8, 9)
    assert phenom.read(file, 1).pixels[0, 0] == 2
    with pytest.raises(ImageError, match="has 2 planes"):
        phenom.read(file, 2)


def test_a_project_of_spectra_alone_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="without an image.*Export the image as TIFF"):
        phenom.probe(project(tmp_path / "a.elid", (1, 1)))
