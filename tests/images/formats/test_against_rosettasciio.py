"""Microscope formats read as rosettasciio, an independent reader, reads them."""

import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import probe, read_micrograph

PLUGINS = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".ser": "tia",
    ".emi": "tia",
    ".mrc": "mrc",
    ".map": "mrc",
}
_TO_NM = {"nm": 1.0, "µm": 1e3, "um": 1e3, "A": 0.1, "Å": 0.1, "pm": 1e-3, "m": 1e9}


def _theirs(path: Path) -> dict[str, object] | None:
    reader = import_module(f"rsciio.{PLUGINS[path.suffix]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = reader.file_reader(str(path))
    return found[0] if found else None  # an .emi without its .ser is nothing to it


def test_pixels_and_pixel_sizes_are_those_of_rosettasciio(shared_data: Path) -> None:
    compared = 0
    for path in sorted((shared_data / "microscope-formats").rglob("*")):
        if path.suffix not in PLUGINS:
            continue
        try:
            facts = probe(path)
        except ImageError:
            continue  # a spectrum or a Fourier transform: no micrograph, and said so
        theirs = _theirs(path)
        if theirs is None:
            continue
        pixels = np.asarray(theirs["data"])
        if pixels.dtype.fields or pixels.ndim not in (2, 3):
            continue
        plane = None if facts.planes == 1 else facts.planes - 1
        ours = read_micrograph(ImageRef(path=path, plane=plane))
        expected = pixels if pixels.ndim == 2 else pixels[plane if plane is not None else 0]
        np.testing.assert_array_equal(ours.pixels, expected, err_msg=path.name)
        _same_pixel_size(ours.pixel_nm, theirs["axes"], path)
        compared += 1
    assert compared >= 15


def _same_pixel_size(pixel_nm: tuple[float, float] | None, axes: object, path: Path) -> None:
    """Where both name a length, they agree; we may know of none where a unit is no length."""
    if pixel_nm is None or path.name.startswith("EMD-3001"):
        return  # its columns run along z (MAPC = 3 in the header), which rosettasciio passes over
    assert isinstance(axes, list)
    for ours, axis in zip(pixel_nm, axes[-2:], strict=True):
        factor = _TO_NM.get(str(axis["units"]))
        if factor is not None and axis["scale"]:
            assert ours == pytest.approx(axis["scale"] * factor, rel=1e-3), path.name
