"""Damaged and hostile image files: one line, in time, within memory; never a crash."""

import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, probe, read_micrograph

FUZZED = (
    "czi/RGB-multichannel.czi",
    "emd/STEM HAADF Diffraction Micro.emd",
    "emd/example_image_berkeley.emd",
    "fei-tia/128x128-TEM_search_1.ser",
    "fei-tia/64x64_TEM_images_acquire.emi",
    "gatan/dmTest_float32_nonSquare_diffPixelSize.dm3",
    "gatan/dtypes/test-6.dm4",
    "mrc/HAADFscan.mrc",
    "mrc/EMD-3001.map.bz2",
    "phenom/Elid2Version4.elid",
    "tiff-edge-cases/12bit.cropped.tif",
    "tiff-edge-cases/hopper_lzw.tif",
    "tiff-edge-cases/hopper_jpg.tif",
    "tiff-edge-cases/tiff_tiled_planar_16bit_RGB.tiff",
    "tiff-edge-cases/g4_orientation_6.tif",
    "tiff-vendor/imagej/test_loading_image_saved_with_imageJ_stack.tif",
    "tiff-vendor/zeiss/test_tiff_Zeiss_SEM_512pix.tif",
)
MOST_SECONDS = 5.0

# Reads every file of a folder in a process of its own, so that a crash in C is seen as one.
READ_ALL = """
import resource, sys, time
from pathlib import Path
from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import probe, read_micrograph
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.monotonic()
    print(path.name, end=" ", flush=True)
    try:
        facts = probe(path)
        micrograph = read_micrograph(ImageRef(path=path, plane=0))
        said = "read"
    except ImageError as error:
        said = "refused"
        assert "\\n" not in str(error)
    print(said, round(time.monotonic() - start, 2), flush=True)
"""


def read_all(folder: Path) -> tuple[str, str]:
    """Read every file of a folder in a new process; return its stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ_ALL, str(folder)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"after {done.stdout[-200:]}: {done.stderr[-800:]}"
    return done.stdout, done.stderr


def skip_without_reader(name: str) -> None:
    if name.startswith("czi/"):
        pytest.importorskip("pylibCZIrw", reason="Zeiss's CZI reader has no wheel for this machine")


def judge(folder: Path, count: int) -> None:
    answers, said = read_all(folder)
    lines = [line.rsplit(" ", 2) for line in answers.splitlines()]
    assert len(lines) == count
    assert max(float(seconds) for _, _, seconds in lines) < MOST_SECONDS
    assert said == ""


@pytest.mark.parametrize("name", FUZZED)
def test_a_truncated_file_is_read_or_refused_in_silence(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    skip_without_reader(name)
    whole = (shared_data / "microscope-formats" / name).read_bytes()
    for part in range(16):
        (tmp_path / f"{part:02d}{Path(name).suffix}").write_bytes(whole[: len(whole) * part // 16])
    judge(tmp_path, 16)


@pytest.mark.long
@pytest.mark.parametrize("name", FUZZED)
def test_flipped_bytes_never_crash_hang_or_print(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    skip_without_reader(name)
    whole = np.frombuffer((shared_data / "microscope-formats" / name).read_bytes(), np.uint8)
    for seed in range(120):
        rng = np.random.default_rng(seed)
        harmed = whole.copy()
        # Half of the flips go into the first kilobyte, where headers are.
        reach = min(len(whole), 1024) if seed % 2 else len(whole)
        places = rng.integers(0, reach, rng.integers(1, 16))
        harmed[places] = rng.integers(0, 256, len(places))
        (tmp_path / f"{seed:03d}{Path(name).suffix}").write_bytes(harmed.tobytes())
    judge(tmp_path, 120)


def png(width: int, height: int, pixels: bytes, depth: int = 8) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(pixels, 9))
        + chunk(b"IEND", b"")
    )


def test_a_header_of_a_hundred_thousand_pixels_in_a_kilobyte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(100_000, 100_000, bytes(1000)))
    mrc = bytearray(1024 + 64)
    mrc[:16] = struct.pack("<4i", 100_000, 100_000, 1, 2)
    mrc[208:212] = b"MAP "
    (tmp_path / "b.mrc").write_bytes(mrc)
    tags = [(256, 100_000), (257, 100_000), (258, 8), (259, 8), (262, 1), (273, 8), (277, 1)]
    tags += [(278, 100_000), (279, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(400)
    (tmp_path / "c.tif").write_bytes(tiff)
    for name in ("a.png", "b.mrc", "c.tif"):
        start = time.monotonic()
        with pytest.raises(ImageError, match=r"100,000|truncated"):
            read_micrograph(tmp_path / name)
        assert time.monotonic() - start < 1


def test_a_bomb_inside_gzip_and_bzip2_is_refused(tmp_path: Path) -> None:
    import bz2
    import gzip

    header = bytearray(1024)
    header[:16] = struct.pack("<4i", 20_000, 20_000, 1, 2)
    header[208:212] = b"MAP "
    content = bytes(header) + bytes(50_000_000)
    (tmp_path / "a.mrc.gz").write_bytes(gzip.compress(content))
    (tmp_path / "b.mrc.bz2").write_bytes(bz2.compress(content))
    for name in ("a.mrc.gz", "b.mrc.bz2"):
        with pytest.raises(ImageError, match=r"would unpack|cannot hold|truncated"):
            read_micrograph(tmp_path / name)


def test_an_ome_tiff_never_opens_the_files_it_names(tmp_path: Path) -> None:
    import tifffile

    secret = tmp_path / "outside" / "secret.tif"
    secret.parent.mkdir()
    tifffile.imwrite(secret, np.full((8, 8), 77, np.uint8))
    folder = tmp_path / "source"
    folder.mkdir()
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" '
        'SizeY="8" SizeZ="2" SizeC="1" SizeT="1"><Channel ID="Channel:0:0"/>'
        '<TiffData FirstZ="0" IFD="0"><UUID FileName="../outside/secret.tif">urn:uuid:1</UUID>'
        '</TiffData><TiffData FirstZ="1" IFD="0"/></Pixels></Image></OME>'
    )
    tifffile.imwrite(folder / "a.ome.tif", np.zeros((8, 8), np.uint8), description=xml, ome=False)
    for ref in find_images("source", tmp_path):
        assert not (read_micrograph(ref).pixels == 77).any()


def test_an_hdf5_file_with_pixels_elsewhere_is_refused(tmp_path: Path) -> None:
    import h5py

    (tmp_path / "secret.raw").write_bytes(bytes([77]) * 64)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (8, 8), "u1", external=[(str(tmp_path / "secret.raw"), 0, 64)])
    with pytest.raises(ImageError, match="in other files"):
        read_micrograph(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"\x89PNG\r\n\x1a\n", "truncated"), (b"hello", "no image format")],
)
def test_what_is_no_image_is_named_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=words):
        probe(path)
    assert find_images(".", tmp_path) == [ImageRef(path=path)]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_micrograph(tmp_path / "none.tif")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "mrc"])
def test_reading_takes_at_most_twice_the_size_of_the_pixels(kind: str, tmp_path: Path) -> None:
    side = 9000
    rows = np.tile(np.arange(side, dtype=np.uint32) % 251, (side, 1)).astype(np.uint8)
    path = tmp_path / f"a.{kind}"
    if kind == "mrc":
        header = bytearray(1024)
        header[:16] = struct.pack("<4i", side, side, 1, 0)
        header[208:212] = b"MAP "
        path.write_bytes(bytes(header) + rows.tobytes())
    elif kind == "tif":
        import tifffile

        tifffile.imwrite(path, rows, compression="deflate", rowsperstrip=64)
    else:
        from PIL import Image

        Image.fromarray(rows).save(path)
    code = (
        "import sys; from pathlib import Path\n"
        "from emcfsys_engine.images.reader import read_micrograph\n"
        "import imagecodecs, tifffile, PIL.Image, numpy\n"
        "me = Path('/proc/self')\n"
        # ru_maxrss starts at the parent's: the kernel's own mark is set back and read instead.
        "def peak(): return int((me / 'status').read_text().split('VmHWM:')[1].split()[0])\n"
        "(me / 'clear_refs').write_text('5'); before = peak()\n"
        "m = read_micrograph(Path(sys.argv[1]))\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    # 4 MiB: what a library keeps for itself at its first call.
    taken = int(done.stdout) * 1024
    assert side * side <= taken < 2 * side * side + (4 << 20), f"{taken / 2**20:.0f} MiB"


@pytest.mark.parametrize("start", [b"\xff\xd8\xff\xe0", b"\xff\xd8" + b"\xff" * 60_000])
def test_a_jpeg_of_which_a_crash_left_zeros_is_refused_at_once(
    tmp_path: Path, start: bytes
) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(start)
    os.truncate(file, 4 << 30)  # Pillow would look at each of them for the header's next part
    began = time.monotonic()
    with pytest.raises(ImageError, match="damaged"):
        probe(file)
    assert time.monotonic() - began < MOST_SECONDS
