"""GIF, WebP, AVIF, JPEG 2000, Netpbm, QOI, Sun raster: each against a reader that is not ours."""

import io
import random
import struct
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from emcfsys_engine.annotations.masks import mask_facts, read_mask, table_of
from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, left_out_words, probe, read_micrograph
from emcfsys_engine.images.rows import open_rows
from tests.images.test_bad_files import read_all

GREY = np.random.default_rng(5).integers(0, 255, (40, 51), np.uint8)
COLOURS = np.random.default_rng(6).integers(0, 255, (40, 51, 3), np.uint8)
DEEP = np.random.default_rng(7).integers(0, 4096, (40, 51)).astype(np.uint16)


def by_pillow(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def sun_raster(pixels: np.ndarray) -> bytes:
    height, width = pixels.shape
    head = (0x59A66A95, width, height, 8, height * (width + width % 2), 1, 0, 0)
    return struct.pack(">8I", *head) + np.pad(pixels, ((0, 0), (0, width % 2))).tobytes()


def film(kind: str, frames: int = 4, **options: object) -> bytes:
    pictures = [Image.fromarray(np.roll(COLOURS, 3 * n, axis=1)) for n in range(frames)]
    stream = io.BytesIO()
    pictures[0].save(stream, kind, save_all=True, append_images=pictures[1:], **options)
    return stream.getvalue()


def text_pgm(pixels: np.ndarray) -> bytes:
    rows = "\n".join(" ".join(map(str, row)) for row in pixels)
    return f"P2\n# by hand\n51 40\n255\n{rows}\n".encode()


FILES: dict[str, bytes] = {
    "grey.gif": by_pillow(GREY, "GIF"),
    "colours.gif": by_pillow(COLOURS, "GIF"),
    "colours.webp": by_pillow(COLOURS, "WEBP", lossless=True),
    "lossy.webp": by_pillow(COLOURS, "WEBP", quality=80),
    "grey.avif": by_pillow(GREY, "AVIF"),
    "grey.jp2": by_pillow(GREY, "JPEG2000"),
    "colours.jp2": by_pillow(COLOURS, "JPEG2000"),
    "grey.j2k": imagecodecs.jpeg2k_encode(GREY, level=0, codecformat="j2k"),
    "grey.pgm": by_pillow(GREY, "PPM"),
    "text.pgm": text_pgm(GREY),
    "colours.ppm": by_pillow(COLOURS, "PPM"),
    "bits.pbm": by_pillow(GREY > 99, "PPM"),
    "floats.pfm": by_pillow(GREY.astype(np.float32) / 7, "PPM"),
    "colours.qoi": imagecodecs.qoi_encode(COLOURS),
    "grey.ras": sun_raster(GREY),
}


def put(folder: Path, name: str) -> Path:
    file = folder / name
    file.write_bytes(FILES[name])
    return file


@pytest.mark.parametrize("name", FILES)
def test_a_picture_is_read_as_pillow_shows_it(name: str, tmp_path: Path) -> None:
    file = put(tmp_path, name)
    (ref,) = find_images(".", tmp_path)
    found = read_micrograph(ref)
    with Image.open(file) as seen:
        wanted = np.asarray(seen if seen.mode in ("L", "RGB", "F", "1") else seen.convert("RGB"))
    if found.pixels.ndim == 2 and wanted.ndim == 3:
        assert (wanted == wanted[..., :1]).all()
        wanted = wanted[..., 0]
    assert np.array_equal(found.pixels, wanted)
    facts = probe(file)
    assert (facts.shape, np.dtype(facts.dtype)) == (found.pixels.shape, found.pixels.dtype)
    assert (facts.planes, facts.pixel_nm) == (1, None)


@pytest.mark.parametrize(
    ("name", "decode"),
    [
        ("colours.webp", imagecodecs.webp_decode), ("grey.avif", imagecodecs.avif_decode),
        ("grey.gif", imagecodecs.gif_decode), ("colours.qoi", imagecodecs.qoi_decode),
    ],
)  # fmt: skip
def test_what_pillow_decodes_another_decoder_reads_alike(
    name: str, decode: Callable[[bytes], np.ndarray], tmp_path: Path
) -> None:
    found = read_micrograph(put(tmp_path, name)).pixels.astype(int)
    other = np.squeeze(decode(FILES[name])).astype(int)
    other = other[..., 0] if found.ndim < other.ndim else other
    assert np.abs(found - other).max() <= 1


def test_values_of_more_than_8_bits_are_those_that_were_written(tmp_path: Path) -> None:
    plain = b"P5 # 12 bits of a camera\n51 40\n4095\n" + DEEP.astype(">u2").tobytes()
    (tmp_path / "a.pgm").write_bytes(plain)
    for name, bits in (("a.jp2", 12), ("b.j2k", 16)):
        packed = imagecodecs.jpeg2k_encode(
            DEEP, level=0, bitspersample=bits, codecformat=name.rpartition(".")[2]
        )
        (tmp_path / name).write_bytes(packed)
    for name, bits in (("a.pgm", 12), ("a.jp2", 12), ("b.j2k", 16)):
        found = read_micrograph(tmp_path / name)
        assert np.array_equal(found.pixels, DEEP), name
        assert (found.pixels.dtype, found.bit_depth) == (np.dtype("u2"), bits)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF"])
def test_each_frame_of_a_moving_picture_is_a_plane(kind: str, tmp_path: Path) -> None:
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    (tmp_path / "a.x").write_bytes(film(kind, **options))
    refs = find_images(".", tmp_path)
    assert [ref.plane for ref in refs] == [0, 1, 2, 3]
    with Image.open(tmp_path / "a.x") as seen:
        frames = [np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(seen)]
    for ref, wanted in zip(refs, frames, strict=True):
        assert np.array_equal(read_micrograph(ref).pixels, wanted)
    with pytest.raises(ImageError, match="Name one"):
        read_micrograph(tmp_path / "a.x")
    with pytest.raises(ImageError, match="no #4"):
        read_micrograph(ImageRef(path=tmp_path / "a.x", plane=4))


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


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("clear", [None, 2])
def test_a_palette_mask_gives_its_classes_and_what_is_transparent_is_unlabelled(
    name: str, colours: bool, clear: int | None, tmp_path: Path
) -> None:
    ids = (GREY // 90).astype(np.uint8)
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    options = {} if clear is None else {"transparency": clear}
    picture.save(tmp_path / name, optimize=False, **options)
    words = {"#ff0000": "pore", "#00ff00": "grain", "#000000": "background"} if colours else {}
    table = table_of({"background": 0, "pore": 1, "grain": 2}, words)
    found = read_mask(ImageRef(path=tmp_path / name), table, "index", (0, 1, 2))
    assert np.array_equal(found, np.where(ids == clear, 255, ids))
    facts = mask_facts(ImageRef(path=tmp_path / name), table)
    assert facts.transparent == (ids == clear).sum()


CUT = {**FILES, "film.gif": film("GIF"), "film.webp": film("WEBP"), "film.avif": film("AVIF")}
CUT |= {"deep.jp2": imagecodecs.jpeg2k_encode(DEEP, level=0, bitspersample=12)}


@settings(max_examples=150)
@given(name=st.sampled_from(sorted(CUT)), share=st.floats(0, 0.999))
def test_a_picture_that_ends_early_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, share: float
) -> None:
    whole = CUT[name].rstrip()
    file = tmp_path_factory.mktemp("cut") / name
    # The last number of a text is a number still when it loses a digit; AVIF's frames have margins.
    file.write_bytes(whole[: int(share * (len(whole) - 3))])
    with pytest.raises(ImageError) as refused:
        for ref in [ImageRef(path=file, plane=n) for n in range(probe(file).planes)]:
            read_micrograph(ref)
        assert probe(file).planes == 4 or not name.startswith("film")
    assert "\n" not in str(refused.value)


def flipped(whole: bytes, seed: int) -> bytes:
    draw = random.Random(seed)
    harmed = bytearray(whole)
    reach = min(len(harmed), 200) if seed % 2 else len(harmed)
    for _ in range(draw.randint(1, 12)):
        harmed[draw.randrange(reach)] = draw.randrange(256)
    return bytes(harmed)


def _harm_and_read(folder: Path, seeds: range) -> None:
    for name, whole in CUT.items():
        for seed in seeds:
            (folder / f"{seed:03d}{name}").write_bytes(flipped(whole, seed))
    answers, said = read_all(folder)
    lines = [line.rsplit(" ", 2) for line in answers.splitlines()]
    assert len(lines) == len(CUT) * len(seeds)
    assert max(float(seconds) for _, _, seconds in lines) < 5
    assert said == ""


def test_flipped_bytes_of_pictures_never_crash_hang_or_print(tmp_path: Path) -> None:
    _harm_and_read(tmp_path, range(12))


@pytest.mark.long
def test_many_flipped_bytes_of_pictures_never_crash_hang_or_print(tmp_path: Path) -> None:
    _harm_and_read(tmp_path, range(1000, 1200))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pgm", b"P5 100000 100000 255\n" + bytes(1000)),
        ("b.pbm", b"P1 90000 90000\n" + b"1" * 1000),
        ("c.gif", b"GIF89a" + struct.pack("<HHBBB", 65_000, 65_000, 0, 0, 0) + b"," + bytes(99)),
        ("d.qoi", b"qoif" + struct.pack(">IIBB", 100_000, 100_000, 4, 0) + bytes(99)),
        ("e.pgm", b"P5 10 10 70000\n" + bytes(200)),
        ("f.pgm", b"P2 2 2 9\n1 2 3 12"),
        ("g.pgm", b"P2 2 2 9\n1 2 3 x"),
        ("h.pfm", b"Pf 2 2 0\n" + bytes(16)),
    ],
)
def test_promises_that_a_picture_cannot_keep_are_refused(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError):
        read_micrograph(tmp_path / name)


def test_pictures_of_kinds_that_are_not_read_are_listed_once(tmp_path: Path) -> None:
    put(tmp_path, "grey.pgm")
    for name in ("a.heic", "b.HEIC", "c.psd", "notes.txt", "d.fits"):
        (tmp_path / name).write_bytes(b"whatever this is" * 9)
    left_out: list[Path] = []
    assert [ref.path.name for ref in find_images(".", tmp_path, left_out)] == ["grey.pgm"]
    assert "1 × .fits, 2 × .heic, 1 × .psd" in left_out_words(left_out)
    assert left_out_words([]) == ""
