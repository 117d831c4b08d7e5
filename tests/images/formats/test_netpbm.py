"""Netpbm pictures, text ones too, by rows and as a whole."""

from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.images.rows import open_rows
from tests.images.formats.pictures import FILES, GREY, put


def test_of_several_images_in_a_pgm_the_first_is_used_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(FILES["grey.pgm"] * 2)
    assert probe(tmp_path / "a.pgm").notes == ("several images: the first is used",)
    assert np.array_equal(read_micrograph(tmp_path / "a.pgm").pixels, GREY)


@pytest.mark.parametrize("name", ["grey.pgm", "colours.ppm", "bits.pbm", "floats.pfm", "text.pgm"])
def test_any_rows_of_a_netpbm_file_are_rows_of_the_whole(name: str, tmp_path: Path) -> None:
    file = put(tmp_path, name)
    whole = read_micrograph(file).pixels
    rows = open_rows(ImageRef(path=file))
    assert rows is not None
    with rows:
        for first, last in ((0, 1), (7, 23), (39, 40)):
            assert np.array_equal(rows.read(first, last), whole[first:last])


def test_numbers_of_text_may_begin_with_zeros(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P2 3 1 255\n0000128 7 0000000255\n")
    assert read_micrograph(tmp_path / "a.pgm").pixels.tolist() == [[128, 7, 255]]
    (tmp_path / "b.pgm").write_bytes(b"P2 2 1 255\n12800000000000 7\n")
    with pytest.raises(ImageError, match="no numbers"):
        read_micrograph(tmp_path / "b.pgm")
