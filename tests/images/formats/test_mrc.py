"""MRC maps, whose bytes count from 0 or have a sign."""

import struct
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.images.reader import probe, read_micrograph


def test_bytes_of_imod_count_from_0_and_those_of_others_have_a_sign(
    reported: Path, tmp_path: Path
) -> None:
    file = reported / "u8_imod_unsigned.mrc"
    pixels = read_micrograph(file).pixels
    assert (pixels.dtype, pixels.min(), pixels.max()) == (np.dtype("u1"), 0, 255)
    data = bytearray(file.read_bytes())
    data[156:160] = (1).to_bytes(4, "little")  # IMOD's flag: the bytes have a sign
    (tmp_path / "signed.mrc").write_bytes(data)
    assert read_micrograph(tmp_path / "signed.mrc").pixels.dtype == np.dtype("i1")


@pytest.mark.parametrize(
    ("cell_nm", "told"), [(0.0, 2.0), (0.1, 2.0), (2.01, 2.0), (2.0, 2.0), (4.0, None)]
)
def test_the_scale_of_an_image_that_was_binned_after_the_microscope_wrote_it_is_no_guess(
    tmp_path: Path, cell_nm: float, told: float | None
) -> None:
    side = 8
    start = bytearray(1024 + 768 + side * side * 2)
    struct.pack_into("<10i", start, 0, side, side, 1, 1, 0, 0, 0, side, side, 1)
    struct.pack_into("<3f", start, 40, 10 * cell_nm * side, 10 * cell_nm * side, 10)
    struct.pack_into("<3i", start, 64, 1, 2, 3)
    struct.pack_into("<i", start, 92, 768)
    start[104:108], start[208:216] = b"FEI1", b"MAP \x44\x44\0\0"
    struct.pack_into("<2d", start, 1024 + 156, 2e-9, 2e-9)
    file = tmp_path / "a.mrc"
    file.write_bytes(start)
    facts = probe(file)
    assert facts.pixel_nm == (None if told is None else pytest.approx((told, told)))
    assert read_micrograph(file).pixel_nm == facts.pixel_nm
    assert any("disagree (2 and 4 nm)" in note for note in facts.notes) == (told is None)
