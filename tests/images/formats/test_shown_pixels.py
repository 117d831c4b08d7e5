"""Pixels and pixel sizes as every viewer shows them: each kind against a second reader."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.images.rows import open_rows


def _rows(path: Path) -> np.ndarray:
    rows = open_rows(ImageRef(path=path))
    assert rows is not None
    with rows:
        return rows.read(0, rows.height)


@pytest.mark.parametrize("name", ["miniswhite8.tif", "inverted_palette.bmp", "pal1wb.bmp"])
def test_a_picture_in_which_0_is_white_is_no_negative(reported: Path, name: str) -> None:
    with Image.open(reported / name) as seen:
        assert np.array_equal(read_micrograph(reported / name).pixels, seen.convert("L"))


def test_inks_become_the_colours_that_they_make(reported: Path) -> None:
    with Image.open(reported / "cmyk.tif") as seen:
        wanted = np.asarray(seen.convert("RGB")).astype(int)
    found = read_micrograph(reported / "cmyk.tif").pixels
    assert found.shape == wanted.shape == probe(reported / "cmyk.tif").shape
    assert np.abs(found.astype(int) - wanted).max() <= 1
    assert np.array_equal(_rows(reported / "cmyk.tif"), found)


def test_a_jpeg_that_ends_early_is_refused_and_a_whole_one_with_more_behind_it_is_read(
    reported: Path, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="ends early"):
        read_micrograph(reported / "truncated_half.jpg")
    file = tmp_path / "whole.jpg"
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(file, progressive=True)
    whole = file.read_bytes()
    file.write_bytes(whole + b"appended by a microscope")
    assert read_micrograph(file).pixels.shape == (64, 64)
    for share in (0.5, 0.9):
        (tmp_path / "cut.jpg").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ImageError):
            read_micrograph(tmp_path / "cut.jpg")


@pytest.mark.parametrize(
    "name",
    ["omex_entity.ome.tif", "ij_micrometers.tif", "zeiss_AP_PIXEL_only.tif", "fei_comma.tif"],
)
def test_a_pixel_size_that_is_written_is_found(reported: Path, name: str) -> None:
    assert probe(reported / name).pixel_nm == pytest.approx((12.5, 12.5))


@settings(max_examples=40, deadline=None)
@given(bits=st.sampled_from([1, 8, 16]), seed=st.integers(0, 99), tiled=st.booleans())
def test_white_is_zero_is_turned_whole_and_by_rows(
    tmp_path_factory: pytest.TempPathFactory, bits: int, seed: int, tiled: bool
) -> None:
    rng = np.random.default_rng(seed)
    shown = rng.integers(0, 2**bits, (48, 64)).astype(np.uint16 if bits == 16 else np.uint8)
    stored = (2**bits - 1 - shown).astype(shown.dtype)
    file = tmp_path_factory.mktemp("w") / "a.tif"
    options = {"tile": (16, 16)} if tiled and bits > 1 else {"rowsperstrip": 5}
    data = stored.astype(bool) if bits == 1 else stored
    tifffile.imwrite(file, data, photometric="miniswhite", **options)  # type: ignore[arg-type]
    assert np.array_equal(read_micrograph(file).pixels, shown)
    assert np.array_equal(_rows(file), shown)


def _fei(section: str) -> tuple[int, object]:
    return 34682, f"[{section}]\r\nPixelWidth=1,25e-08\r\nPixelHeight=1,25e-08\r\n"


@pytest.mark.parametrize(
    "tag",
    [
        _fei("Scan"),
        _fei("EScan"),
        (34118, "\r\nAP_PIXEL_SIZE\r\nPixel Size = 12,5 nm\r\n"),
        (34118, "\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 0.0125 µm\r\n".encode("cp1252")),
        (50431, "[MAIN]\r\nDevice=MIRA3\r\nPixelSizeX=1.25e-008\r\nPixelSizeY=1.25e-008\r\n"),
    ],
)
def test_makers_write_their_pixel_size_in_many_ways(
    tmp_path: Path, tag: tuple[int, object]
) -> None:
    file = tmp_path / "a.tif"
    extra = [(tag[0], 2, 0, tag[1], True)]
    tifffile.imwrite(file, np.zeros((8, 8), "u1"), metadata=None, extratags=extra)
    assert probe(file).pixel_nm == pytest.approx((12.5, 12.5))


def test_colours_that_no_viewer_shows_as_stored_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 10, 10)).convert("LAB").save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="Save it as RGB"):
        probe(tmp_path / "a.tif")


def test_an_inverting_table_of_imagej_lies_over_plain_values(tmp_path: Path) -> None:
    values = np.arange(200, dtype=np.uint8).reshape(10, 20)
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, photometric="miniswhite")
    assert np.array_equal(read_micrograph(tmp_path / "a.tif").pixels, values)
