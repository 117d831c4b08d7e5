"""MRC maps, whose bytes count from 0 or have a sign."""

from pathlib import Path

import numpy as np

from emcfsys_engine.images.reader import read_micrograph


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
