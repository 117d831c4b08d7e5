"""Text files beside an image give its scale, and only its own."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.images.side_cars import pictures_of, pixel_nm_beside

_HITACHI = "[SemImageFile]\r\nDataSize={size}\r\nPixelSize=12,5\r\n"


_JEOL = "$CM_FORMAT x\n$CM_FULL_SIZE {size}\n$$SM_MICRON_BAR 80\n$$SM_MICRON_MARKER 1um\n"


_TESCAN = "[MAIN]\nPixelSizeX=1.25e-008\nPixelSizeY=1.25e-008\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", _HITACHI.format(size="40x30")),
        ("a.txt", _JEOL.format(size="40 30")),
        ("a.hdr", _TESCAN),
        ("a-tif.hdr", _TESCAN),
    ],
)
def test_a_text_beside_a_picture_gives_its_pixel_size(tmp_path: Path, name: str, text: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((30, 40), np.uint8))
    assert probe(tmp_path / "a.tif").pixel_nm is None
    (tmp_path / name).write_bytes(text.encode("utf-16" if name == "a.txt" else "ascii"))
    assert probe(tmp_path / "a.tif").pixel_nm == pytest.approx((12.5, 12.5))
    assert read_micrograph(tmp_path / "a.tif").pixel_nm == pytest.approx((12.5, 12.5))


@pytest.mark.parametrize("text", [_HITACHI.format(size="80x60"), "PixelSize=3\n", "\0" * 99, ""])
def test_a_text_of_another_picture_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert pixel_nm_beside(tmp_path / "a.tif", (30, 40)) is None


@pytest.mark.parametrize("marker", ["1,000nm", "10,000nm"])
def test_a_comma_that_may_part_thousands_is_no_decimal_one(tmp_path: Path, marker: str) -> None:
    """A bar of 1,000 nm was taken as one of 1 nm."""
    (tmp_path / "a.txt").write_text(_JEOL.format(size="40 30").replace("1um", marker))
    assert pixel_nm_beside(tmp_path / "a.tif", (30, 40)) is None
    (tmp_path / "a.txt").write_text(_JEOL.format(size="40 30").replace("1um", "0,5um"))
    assert pixel_nm_beside(tmp_path / "a.tif", (30, 40)) == pytest.approx((6.25, 6.25))


@pytest.mark.parametrize("picture", ["s/a.tif", "a.TIFF", "a.b.bmp", "a-tif.png", "a.JPG"])
def test_a_text_names_the_pictures_that_it_may_lie_beside(picture: str) -> None:
    stem, _, suffix = picture.rpartition(".")
    for name in (f"{stem}.txt", f"{stem}.hdr", f"{stem}-{suffix}.hdr"):
        assert picture in pictures_of(name)
    assert picture not in pictures_of(f"{stem}x.txt")
    assert pictures_of(f"{stem}.csv") == []
