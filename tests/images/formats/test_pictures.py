"""GIF, WebP, AVIF, JPEG 2000, Netpbm, QOI, Sun raster: each against a reader that is not ours."""

import random
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, left_out_words, probe, read_micrograph
from tests.images.formats.pictures import FILES, film, put
from tests.images.test_bad_files import read_all

DEEP = np.random.default_rng(7).integers(0, 4096, (40, 51)).astype(np.uint16)


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
