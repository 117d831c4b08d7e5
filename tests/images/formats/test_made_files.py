"""Kinds of files the corpus lacks, written by the formats' own libraries."""

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, probe, read_micrograph

RNG = np.random.default_rng(0)


def grey_png(pixels: np.ndarray, depth: int, *, dots: int | None = None) -> bytes:
    """Write a grey PNG of any depth by hand: Pillow writes 8 bits only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = pixels.shape
    bits = (pixels[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(height, width * depth).astype(np.uint8), axis=1)
    flat = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    middle = chunk(b"pHYs", struct.pack(">IIB", dots, dots, 1)) if dots else b""
    end = chunk(b"IDAT", zlib.compress(flat)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + end


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_grey_png_keeps_its_values_at_every_depth(tmp_path: Path, depth: int) -> None:
    dtype = np.uint16 if depth == 16 else np.uint8
    pixels = RNG.integers(0, 2**depth, (13, 17)).astype(dtype)
    path = tmp_path / "a.png"
    path.write_bytes(grey_png(pixels, depth))
    facts = probe(path)
    assert (facts.shape, facts.bit_depth, facts.dtype) == ((13, 17), depth, np.dtype(dtype).name)
    assert np.array_equal(read_micrograph(path).pixels, pixels)


def test_a_16_bit_colour_png_is_not_reduced(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 65536, (9, 8, 3)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    assert np.array_equal(read_micrograph(tmp_path / "a.png").pixels, pixels)


def test_a_png_with_grey_and_alpha_is_read(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (9, 8, 2)).astype(np.uint8)
    Image.fromarray(pixels, "LA").save(tmp_path / "a.png")
    assert probe(tmp_path / "a.png").shape == (9, 8, 2)
    assert np.array_equal(read_micrograph(tmp_path / "a.png").pixels, pixels)


@pytest.mark.parametrize(("per_metre", "pixel_nm"), [(11811, None), (200_000_000, 5.0)])
def test_printers_dots_are_no_pixel_size(
    tmp_path: Path, per_metre: int, pixel_nm: float | None
) -> None:
    (tmp_path / "a.png").write_bytes(grey_png(np.zeros((8, 8), np.uint8), 8, dots=per_metre))
    found = probe(tmp_path / "a.png").pixel_nm
    assert found == (None if pixel_nm is None else pytest.approx((pixel_nm, pixel_nm)))


def test_a_tiff_with_dots_per_inch_or_centimetre_has_no_pixel_size(tmp_path: Path) -> None:
    for unit in ("INCH", "CENTIMETER"):
        path = tmp_path / f"{unit}.tif"
        tifffile.imwrite(
            path, np.zeros((8, 8), np.uint8), resolution=(300, 300), resolutionunit=unit
        )
        assert probe(path).pixel_nm is None


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


def test_an_ome_tiff_tells_its_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {
        "axes": "ZYX",
        "PhysicalSizeX": 12.5,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.025,
        "PhysicalSizeYUnit": "µm",
    }
    tifffile.imwrite(path, np.zeros((2, 8, 9), np.float32), metadata=metadata)
    facts = probe(path)
    assert (facts.planes, facts.shape) == (2, (8, 9))
    assert facts.pixel_nm == pytest.approx((25.0, 12.5))


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


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_is_read_at_its_finest_level(tmp_path: Path, version: int) -> None:
    pixels = RNG.integers(0, 65535, (2, 30, 40)).astype(np.uint16)
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=version)
    for level, array in (("0", pixels), ("1", pixels[:, ::2, ::2])):
        root.create_array(level, data=array, chunks=(1, 16, 16))
    scales = {
        "version": "0.4",
        "axes": [
            {"name": "z", "type": "space", "unit": "nanometer"},
            {"name": "y", "type": "space", "unit": "nanometer"},
            {"name": "x", "type": "space", "unit": "micrometer"},
        ],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [{"type": "scale", "scale": [50, 4, 0.004]}],
            },
            {
                "path": "1",
                "coordinateTransformations": [{"type": "scale", "scale": [50, 8, 0.008]}],
            },
        ],
    }
    root.attrs["multiscales" if version == 2 else "ome"] = (
        [scales] if version == 2 else {"multiscales": [scales]}
    )
    facts = probe(tmp_path / "a.zarr")
    assert (facts.format, facts.shape, facts.planes) == ("OME-Zarr", (30, 40), 2)
    assert facts.pixel_nm == pytest.approx((4.0, 4.0))
    refs = find_images(".", tmp_path)
    assert [ref.name for ref in refs] == ["a.zarr#0", "a.zarr#1"]
    assert np.array_equal(read_micrograph(refs[1]).pixels, pixels[1])


def test_a_zarr_level_outside_its_folder_is_refused(tmp_path: Path) -> None:
    zarr.open_array(str(tmp_path / "secret.zarr"), mode="w", shape=(8, 8), dtype="u1")[:] = 77
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    root.attrs["multiscales"] = [{"datasets": [{"path": "../secret.zarr"}]}]
    with pytest.raises(Exception, match="outside its own folder"):
        probe(tmp_path / "a.zarr")
