"""TIFF stacks in every layout."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, probe, read_micrograph
from emcfsys_engine.images.rows import PlaneRows, open_rows
from tests.images.formats.made import RNG


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "zstd"])
@pytest.mark.parametrize("tile", [None, (32, 32)])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_stacks_in_every_layout_are_read_plane_by_plane(
    tmp_path: Path,
    compression: str | None,
    tile: tuple[int, int] | None,
    byteorder: str,
    bigtiff: bool,
) -> None:
    stack = RNG.integers(0, 4096, (3, 50, 40)).astype(np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        stack,
        compression=compression,
        tile=tile,
        byteorder=byteorder,
        bigtiff=bigtiff,
        photometric="minisblack",
    )
    refs = find_images("a.tif", tmp_path)
    assert [ref.plane for ref in refs] == [0, 1, 2]
    for ref in refs:
        assert ref.plane is not None
        assert np.array_equal(read_micrograph(ref).pixels, stack[ref.plane])


def test_an_imagej_hyperstack_is_cut_into_planes(tmp_path: Path) -> None:
    stack = RNG.integers(0, 255, (2, 3, 20, 30)).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif",
        stack,
        imagej=True,
        resolution=(1 / 0.004, 1 / 0.004),
        metadata={"axes": "TZYX", "unit": "um"},
    )
    assert probe(tmp_path / "a.tif").pixel_nm == pytest.approx((4.0, 4.0), rel=1e-4)
    for plane in range(6):
        pixels = read_micrograph(ImageRef(path=tmp_path / "a.tif", plane=plane)).pixels
        assert np.array_equal(pixels, stack.reshape(6, 20, 30)[plane])


@pytest.mark.parametrize("kind", ["YCbCr", "LAB"])
def test_colours_that_no_viewer_shows_as_they_are_stored_are_refused(
    tmp_path: Path, kind: str
) -> None:
    grey = Image.fromarray(RNG.integers(0, 255, (40, 50)).astype(np.uint8))
    grey.convert("RGB").convert(kind).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="colours"):
        read_micrograph(tmp_path / "a.tif")
    grey.convert("YCbCr").save(tmp_path / "b.tif", compression="jpeg", quality=95)
    shown = read_micrograph(tmp_path / "b.tif").pixels.mean(axis=2)
    assert np.abs(shown - np.asarray(grey)).mean() < 10


@pytest.mark.parametrize("thumbnail_first", [True, False])
def test_a_thumbnail_is_no_plane_wherever_it_stands(tmp_path: Path, thumbnail_first: bool) -> None:
    image = RNG.integers(0, 255, (96, 128), np.uint8)
    pages = [(image, 0), (image[::8, ::8], 1)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for pixels, kind in reversed(pages) if thumbnail_first else pages:
            tiff.write(pixels, subfiletype=kind, metadata=None)
    assert probe(tmp_path / "a.tif").planes == 1
    read = read_micrograph(ImageRef(path=tmp_path / "a.tif")).pixels
    np.testing.assert_array_equal(read, image)


def test_a_file_of_nothing_but_a_thumbnail_is_that_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 8), np.uint8), subfiletype=1)
    assert probe(tmp_path / "a.tif").shape == (9, 8)


@pytest.mark.parametrize("is_grey", [True, False])
def test_a_palette_of_65536_entries_is_read_as_it_is_described(
    tmp_path: Path, is_grey: bool
) -> None:
    indices = RNG.integers(0, 1 << 16, (70, 80), np.uint16)
    ramp = np.arange(1 << 16, dtype=np.uint16)
    colormap = np.stack([ramp, ramp, ramp if is_grey else ramp[::-1]])
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=colormap)
    facts = probe(tmp_path / "a.tif")
    read = read_micrograph(ImageRef(path=tmp_path / "a.tif")).pixels
    assert (facts.shape, facts.dtype) == (read.shape, read.dtype.name)
    wanted = indices if is_grey else (colormap.T >> 8).astype(np.uint8)[indices]
    np.testing.assert_array_equal(read, wanted)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_each_page_has_its_own_palette(tmp_path: Path, compression: str | None) -> None:
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 256, (2, 40, 50)).astype(np.uint8)
    palettes = rng.integers(0, 1 << 16, (2, 3, 256)).astype(np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page, colormap in zip(indices, palettes, strict=True):
            writer.write(
                page,
                photometric="palette",
                colormap=colormap,
                compression=compression,
                metadata=None,
            )
    for plane in range(2):
        ref = ImageRef(path=tmp_path / "a.tif", plane=plane)
        shown = (palettes[plane].T >> 8).astype(np.uint8)[indices[plane]]
        assert np.array_equal(read_micrograph(ref).pixels, shown)
        with _rows(ref) as rows:
            assert np.array_equal(rows.read(0, rows.height), shown)


def test_pages_of_several_kinds_count_as_they_stand_in_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pages = [rng.integers(0, 200, (40, 50)).astype(("u1", "u2")[n % 2]) for n in range(4)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pages:
            writer.write(page, photometric="minisblack", metadata=None)
    for plane, page in enumerate(pages):
        ref = ImageRef(path=tmp_path / "a.tif", plane=plane)
        read = read_micrograph(ref)
        assert np.array_equal(read.pixels, page)
        assert read.bit_depth == 8 * page.itemsize
        with _rows(ref) as rows:
            assert rows.dtype == page.dtype
            assert np.array_equal(rows.read(0, rows.height), page)


def test_white_is_zero_beside_what_is_transparent_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 2)).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        photometric="miniswhite",
        extrasamples=["unassalpha"],
        planarconfig="contig",
    )
    read = read_micrograph(tmp_path / "a.tif").pixels
    assert np.array_equal(read[..., 0], 255 - pixels[..., 0])
    assert np.array_equal(read[..., 1], pixels[..., 1])


def test_a_strip_that_is_said_to_have_no_bytes_is_read(tmp_path: Path) -> None:
    pages = np.random.default_rng(0).integers(0, 256, (2, 40, 50)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pages:
            writer.write(page, photometric="minisblack", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages[0].aspage().tags["StripByteCounts"].overwrite(0)
    ref = ImageRef(path=tmp_path / "a.tif", plane=0)
    assert np.array_equal(read_micrograph(ref).pixels, pages[0])
    with open_rows(ref) or nullcontext() as rows:
        assert rows is None or np.array_equal(rows.read(0, rows.height), pages[0])


def _rows(ref: ImageRef) -> PlaneRows:
    rows = open_rows(ref)
    assert rows is not None
    return rows


@pytest.mark.parametrize(
    ("tag", "options"), [(279, {"rowsperstrip": 8}), (325, {"tile": (16, 16)})]
)
@pytest.mark.parametrize("pages", [1, 3])
def test_a_page_that_lost_where_its_parts_lie_is_refused_not_black(
    tmp_path: Path, tag: int, options: dict[str, Any], pages: int
) -> None:
    file = tmp_path / "a.tif"
    stack = np.full((pages, 64, 48), 7, np.uint8)
    tifffile.imwrite(file, stack, photometric="minisblack", metadata=None, **options)
    with tifffile.TiffFile(file) as tiff:
        place = tiff.pages[pages - 1].aspage().tags[tag].offset
    content = bytearray(file.read_bytes())
    content[place : place + 2] = (60000).to_bytes(2, "little")
    file.write_bytes(content)
    for read in (read_micrograph, open_rows):
        with pytest.raises(ImageError, match=r"parts of its pixels where they lie|damaged"):
            read(ImageRef(path=file, plane=pages - 1 if pages > 1 else None))
