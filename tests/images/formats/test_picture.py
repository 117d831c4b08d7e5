"""Kinds of files the corpus lacks, written by the formats' own libraries."""

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from emcfsys_engine.images.reader import probe, read_micrograph
from tests.images.formats.made import RNG


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


@pytest.mark.parametrize("kind", ["L", "I;16", "P", "RGB"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_png_that_says_how_it_lies_is_turned_as_label_tools_turn_it(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    pixels = RNG.integers(0, 250, (13, 17)).astype(np.uint16 if kind == "I;16" else np.uint8)
    picture = Image.fromarray(pixels)
    if kind == "P":
        picture.putpalette([value for grey in range(256) for value in (grey, 0, 255 - grey)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    (picture if kind in ("P", "I;16") else picture.convert(kind)).save(
        tmp_path / "a.png", exif=exif
    )
    with Image.open(tmp_path / "a.png") as stored:
        seen = np.asarray(ImageOps.exif_transpose(stored.convert("RGB") if kind == "P" else stored))
    read = read_micrograph(tmp_path / "a.png").pixels
    assert probe(tmp_path / "a.png").shape == read.shape
    assert np.array_equal(read, seen)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_XMP = (
    b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("where", ["behind the pixels", "as a raw profile", "as XMP"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_png_is_turned_by_notes_of_all_kinds(
    tmp_path: Path, where: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    notes = exif.tobytes()
    text = b"\nexif\n%8d\n" % len(notes) + notes.hex().encode() + b"\n"
    raw = b"Raw profile type exif\0\0" + zlib.compress(text)
    chunk = {
        "behind the pixels": _chunk(b"eXIf", notes.removeprefix(b"Exif\0\0")),
        "as a raw profile": _chunk(b"zTXt", raw),
        "as XMP": _chunk(b"iTXt", _XMP % orientation),
    }[where]
    plain = grey_png(RNG.integers(0, 256, (13, 17)).astype(np.uint8), 8)
    at = plain.rindex(b"IEND") - 4 if where == "behind the pixels" else 33
    (tmp_path / "a.png").write_bytes(plain[:at] + chunk + plain[at:])
    with Image.open(tmp_path / "a.png") as stored:
        seen = np.asarray(ImageOps.exif_transpose(stored))
    assert not np.array_equal(seen, np.asarray(Image.open(io.BytesIO(plain))))
    assert probe(tmp_path / "a.png").shape == seen.shape
    assert np.array_equal(read_micrograph(tmp_path / "a.png").pixels, seen)


def test_a_cameras_jpeg_of_several_pictures_is_turned_as_others(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(RNG.integers(0, 256, (16, 24, 3)).astype(np.uint8))
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture], exif=exif)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.format == "MPO"
        seen = np.asarray(ImageOps.exif_transpose(stored))
    read = read_micrograph(tmp_path / "a.jpg").pixels
    assert probe(tmp_path / "a.jpg").shape == read.shape
    assert np.abs(read.astype(int) - seen).max() <= 2


def test_a_palette_of_greys_only_is_applied(tmp_path: Path) -> None:
    greys = np.arange(256)
    greys[200:] = greys[200:][::-1]
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(pixels)
    picture.putpalette([value for grey in greys.tolist() for value in (grey,) * 3])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_micrograph(tmp_path / "a.png").pixels, greys[pixels])
