"""Files written row by row are read back by everyone, with their pixel size."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.files import temporary_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.images.writers import (
    PngWriter,
    RowWriter,
    TiffWriter,
    companion,
    is_companion,
    writer_for,
)
from emcfsys_engine.tools.measure.fields import pixel_nm_of

NAMES = ["x.png", "x.tif", "x.ome.tif", "x.ome.zarr"]


def _write(writer: RowWriter, pixels: np.ndarray, height: int) -> None:
    for first in range(0, len(pixels), height):
        writer.write(pixels[first : first + height])
    writer.finish()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (3, 1000), (700, 41), (513, 1030)])
def test_what_was_written_is_read_back_with_its_pixel_size(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 5, size, np.uint8)
    _write(writer_for(tmp_path / name, size, (4.0, 4.0)), pixels, 100)
    found = read_micrograph(ImageRef(path=tmp_path / name))
    assert np.array_equal(found.pixels, pixels)
    assert pixel_nm_of(ImageRef(path=tmp_path / name), None) == pytest.approx((4.0, 4.0))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pixel_nm", [2e-5, 0.002, 0.05, 4.9, 4e3])
def test_a_pixel_of_any_size_spoils_no_file(tmp_path: Path, name: str, pixel_nm: float) -> None:
    pixels = np.eye(30, dtype=np.uint8)
    _write(writer_for(tmp_path / name, (30, 30), (pixel_nm, 2 * pixel_nm)), pixels, 30)
    assert np.array_equal(read_micrograph(ImageRef(path=tmp_path / name)).pixels, pixels)
    known = pixel_nm_of(ImageRef(path=tmp_path / name), None)
    assert known is None or known == pytest.approx((pixel_nm, 2 * pixel_nm), rel=1e-6)
    assert known is not None or (name == "x.tif" and pixel_nm < 0.0024)


@given(
    heights=st.lists(st.integers(1, 400), min_size=1, max_size=6), name=st.sampled_from(NAMES[:2])
)
def test_how_rows_are_cut_does_not_matter(
    heights: list[int], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    pixels = np.random.default_rng(1).integers(0, 3, (sum(heights), 270), np.uint8)
    writer = writer_for(folder / name, (len(pixels), 270), None)
    for first, last in itertools.pairwise([0, *itertools.accumulate(heights)]):
        writer.write(pixels[first:last])
    writer.finish()
    assert np.array_equal(read_micrograph(ImageRef(path=folder / name)).pixels, pixels)


def test_a_colour_png_opens_in_pillow(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (90, 71, 3), np.uint8)
    writer = PngWriter(tmp_path / "x.png", (90, 71), (2.0, 2.0), channels=3, is_smooth=True)
    _write(writer, pixels, 13)
    with Image.open(tmp_path / "x.png") as picture:
        assert np.array_equal(np.asarray(picture), pixels)
        assert picture.text["pixel_nm"] == "2 2"  # type: ignore[attr-defined]


def test_other_programs_find_the_scale_in_the_ome_formats(tmp_path: Path) -> None:
    pixels = np.ones((300, 300), np.uint8)
    _write(writer_for(tmp_path / "x.ome.tif", (300, 300), (2.5, 5.0)), pixels, 64)
    with tifffile.TiffFile(tmp_path / "x.ome.tif") as tiff:
        assert tiff.ome_metadata is not None
        for word in ('PhysicalSizeX="5.0"', 'PhysicalSizeY="2.5"', 'PhysicalSizeXUnit="nm"'):
            assert word in tiff.ome_metadata
    _write(writer_for(tmp_path / "x.ome.zarr", (300, 300), (2.5, 5.0)), pixels, 64)
    ome = dict(zarr.open_group(str(tmp_path / "x.ome.zarr"), mode="r").attrs)["ome"]
    assert ome["version"] == "0.5"  # type: ignore[index, call-overload]
    scales = ome["multiscales"][0]  # type: ignore[index, call-overload]
    assert [axis["unit"] for axis in scales["axes"]] == ["nanometer"] * 2  # type: ignore[index, call-overload, union-attr]
    assert scales["datasets"][0]["coordinateTransformations"][0]["scale"] == [2.5, 5.0]  # type: ignore[index, call-overload]
    assert "image-label" in ome  # type: ignore[operator]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [0, 300])
def test_what_was_given_up_leaves_nothing(name: str, rows: int, tmp_path: Path) -> None:
    writer = writer_for(tmp_path / name, (600, 300), None)
    if rows:
        writer.write(np.ones((rows, 300), np.uint8))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_what_a_full_disk_did_not_take_is_given_up_quietly(name: str, tmp_path: Path) -> None:
    writer = writer_for(tmp_path / name, (600, 300), None)
    assert isinstance(writer, PngWriter | TiffWriter)
    writer._stream.write(b"not on the disk yet")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._stream.fileno())
    os.close(full)
    writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_older_file_stays_until_the_new_one_is_whole(name: str, tmp_path: Path) -> None:
    old, new = np.zeros((40, 40), np.uint8), np.ones((40, 40), np.uint8)
    _write(writer_for(tmp_path / name, (40, 40), None), old, 9)
    writer = writer_for(tmp_path / name, (40, 40), None)
    writer.write(new)
    assert np.array_equal(read_micrograph(ImageRef(path=tmp_path / name)).pixels, old)
    writer.finish()
    assert np.array_equal(read_micrograph(ImageRef(path=tmp_path / name)).pixels, new)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_too_few_rows_make_no_tiff(tmp_path: Path) -> None:
    writer = TiffWriter(tmp_path / "x.tif", (600, 300))
    writer.write(np.ones((256, 300), np.uint8))
    with pytest.raises(OSError, match="not all rows"):
        writer.finish()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ome.tif", "a.ome.zarr"])
def test_a_link_that_lies_where_a_mask_is_to_be_begun_is_not_followed(
    tmp_path: Path, name: str
) -> None:
    precious = tmp_path / "precious"
    if name.endswith(".zarr"):
        precious.mkdir()
        (precious / "mine").write_bytes(b"mine")
    else:
        precious.write_bytes(b"mine")
    temporary_of(tmp_path / name).symlink_to(precious)
    writer = writer_for(tmp_path / name, (8, 8), None)
    writer.write(np.full((8, 8), 3, np.uint8))
    writer.finish()
    kept = precious / "mine" if precious.is_dir() else precious
    assert kept.read_bytes() == b"mine"
    assert len(list(precious.parent.iterdir())) == 2
    assert read_micrograph(ImageRef(path=tmp_path / name)).pixels.min() == 3


def test_companions_are_known_whatever_the_name_of_their_mask_holds(tmp_path: Path) -> None:
    mask = tmp_path / "a\nb; =1.png"
    mask.touch()
    for kind in ("overlay", "uncertainty", "prob-grain\n2"):
        assert is_companion(companion(mask, kind))
    assert not is_companion(mask)
