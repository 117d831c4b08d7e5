"""FEI TIA series: rows from the bottom, calibrations in metres; diffraction has no scale."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.formats import tia
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph


def series(
    file: Path, planes: list[np.ndarray], step_m: float = 2e-9, kind: int = 0x4122, cut: int = 0
) -> Path:
    """Write a series of unsigned 16-bit images, with 4-byte offsets (version 0x0210)."""
    table = 34
    first = table + 4 * len(planes)
    elements, offsets = b"", []
    for pixels in planes:
        offsets.append(first + len(elements))
        height, width = pixels.shape
        head = struct.pack("<ddiddiHII", 0, step_m, 0, 0, step_m, 0, 2, width, height)
        elements += head + pixels[::-1].astype("<u2").tobytes()
    start = struct.pack("<HHHIIII", 0x4949, 0x0197, 0x0210, kind, 0x4152, len(planes), len(planes))
    start += struct.pack("<I", table)
    data = start.ljust(table, b"\0") + struct.pack(f"<{len(planes)}I", *offsets) + elements
    file.write_bytes(data[: len(data) - cut])
    return file


PLANES = [np.arange(12, dtype=np.uint16).reshape(3, 4) + n for n in range(2)]


def test_elements_are_planes_read_from_the_bottom_row(tmp_path: Path) -> None:
    file = series(tmp_path / "a.ser", PLANES)
    facts = tia.probe(file)
    assert (facts.shape, facts.planes, facts.pixel_nm) == ((3, 4), 2, (2.0, 2.0))
    assert np.array_equal(tia.read(file, 1).pixels, PLANES[1])
    with pytest.raises(ImageError, match="has 2 planes"):
        tia.read(file, 2)


def test_a_diffraction_pattern_has_no_pixel_size_and_says_so(tmp_path: Path) -> None:
    facts = tia.probe(series(tmp_path / "a.ser", PLANES, step_m=1e7))
    assert facts.pixel_nm is None
    assert "diffraction" in facts.notes[0]


def test_spectra_and_cut_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="spectrum"):
        tia.probe(series(tmp_path / "a.ser", PLANES, kind=0x4120))
    file = series(tmp_path / "b.ser", PLANES, cut=10)
    with pytest.raises(ImageError, match="is truncated or damaged"):
        read_micrograph(ImageRef(path=file, plane=1))


@pytest.mark.parametrize("name", ["128x128-TEM_search", "64x64_TEM_images_acquire"])
def test_an_emi_holds_the_pixels_and_the_scale_of_its_series(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "microscope-formats" / "fei-tia"
    alone = shutil.copy(folder / f"{name}.emi", tmp_path / "a.emi")
    inside, beside = tia.read(alone, 0), tia.read(folder / f"{name}_1.ser", 0)
    assert np.array_equal(inside.pixels, beside.pixels)
    assert inside.pixel_nm == pytest.approx(beside.pixel_nm)


def test_an_emi_without_an_image_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.emi"
    file.write_bytes(b"JK\0\2" + bytes(500))
    with pytest.raises(ImageError):
        tia.probe(file)
