"""Images read in bands are the images read whole: pixels, statistics, bars and borders."""

import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images import normalise, rows
from emcfsys_engine.images.micrograph import ImageRef, Micrograph
from emcfsys_engine.images.normalise import Normaliser, find_info_bar, to_grey
from emcfsys_engine.images.reader import find_images, read_micrograph
from emcfsys_engine.images.rows import open_rows, rows_of, survey


def _picture(dtype: str, *, planes: int = 1, colours: int = 0) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (planes, 150, 97) if planes > 1 else (150, 97)
    pixels = rng.integers(0, 250, (*shape, colours) if colours else shape)
    return pixels.astype(dtype)


_TIFFS = {
    "uncompressed": {},
    "one strip": {"rowsperstrip": 150},
    "odd strips": {"rowsperstrip": 7, "compression": "zlib"},
    "lzw": {"rowsperstrip": 16, "compression": "lzw", "predictor": True},
    "tiles": {"tile": (32, 48), "compression": "zlib"},
    "bare tiles": {"tile": (32, 48)},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True, "compression": "deflate", "rowsperstrip": 20},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", list(_TIFFS))
@pytest.mark.parametrize(("planes", "colours"), [(1, 0), (3, 0), (1, 3)])
def test_rows_of_a_tiff_are_those_of_the_whole(
    kind: str, dtype: str, planes: int, colours: int, tmp_path: Path
) -> None:
    options = {"photometric": "rgb" if colours else "minisblack"} | _TIFFS[kind]
    order = {name: options.pop(name) for name in ("byteorder", "bigtiff") if name in options}
    file = tmp_path / "x.tif"
    with tifffile.TiffWriter(file, **order) as tiff:
        tiff.write(_picture(dtype, planes=planes, colours=colours), **options)
    _check_alike(file)


def test_rows_of_jpeg_palette_bilevel_and_sparse_tiffs(tmp_path: Path) -> None:
    grey = _picture("uint8")
    tifffile.imwrite(tmp_path / "j.tif", grey, compression="jpeg", tile=(64, 64))
    ramp = np.stack([np.arange(256)[::-1] * 257] * 3).astype(np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", grey, photometric="palette", colormap=ramp)
    tifffile.imwrite(tmp_path / "b.tif", grey > 100, rowsperstrip=10)
    tiles = (None if n % 2 else np.full((64, 64), n, np.uint8) for n in range(6))
    tifffile.imwrite(
        tmp_path / "s.tif", tiles, shape=(150, 97), dtype=np.uint8, tile=(64, 64),
        compression="zlib",
    )  # fmt: skip
    for name in ("j.tif", "p.tif", "b.tif", "s.tif"):
        _check_alike(tmp_path / name)


def test_rows_of_mrc_hdf5_and_zarr(tmp_path: Path) -> None:
    stack = _picture("int16", planes=3)
    header = np.zeros(256, "<i4")
    header[:4] = 97, 150, 3, 1
    raw = bytearray(header.tobytes())
    raw[208:216] = b"MAP \x44\x44\0\0"
    (tmp_path / "a.mrc").write_bytes(bytes(raw) + stack.astype("<i2").tobytes())
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("image", data=stack, chunks=(1, 40, 32), compression="gzip")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["image"] = stack[0].astype("<f4")
    zarr.save_array(str(tmp_path / "d.zarr"), stack)
    made = zarr.create_array(
        store=str(tmp_path / "e.zarr"),
        shape=(150, 97),
        chunks=(16, 32),
        shards=(64, 64),
        dtype="f4",
    )
    made[:] = stack[1]
    for name in ("a.mrc", "b.h5", "c.h5", "d.zarr", "e.zarr"):
        _check_alike(tmp_path / name)


def test_real_micrographs_read_in_bands_are_the_same(shared_data: Path) -> None:
    checked = 0
    for ref in find_images(str(shared_data), Path("/")):
        if ref.path.stat().st_size > 30_000_000 or (ref.plane or 0) > 1:
            continue
        try:
            micrograph = read_micrograph(ref)
        except ImageError:
            continue
        opened = open_rows(ref)
        if opened is None or checked > 150:
            continue
        checked += 1
        with opened:
            assert np.array_equal(opened.read(0, opened.height), micrograph.pixels, equal_nan=True)
            found = survey(opened, Normaliser())
            assert found.info_bar_rows == micrograph.info_bar_rows, ref
            expected = Normaliser().statistics(to_grey(micrograph.pixels), found.info_bar_rows)
            assert found.statistics == expected
    if not checked:
        pytest.skip("the real data holds no file that can be read in bands")


_READ_ALL = """
import sys
from pathlib import Path
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.rows import open_rows
with open_rows(ImageRef(path=Path(sys.argv[1]))) as opened:
    shape = opened.shape
    assert opened.read(0, 100).max() == 0  # libraries are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the mark of the most memory is set back
    lines = Path("/proc/self/status").read_text().split()
    before = int(lines[lines.index("VmHWM:") + 1])
    for first in range(0, opened.height, 300):
        assert opened.read(first, min(opened.height, first + 300)).max() == 0
    lines = Path("/proc/self/status").read_text().split()
    print(*shape, (int(lines[lines.index("VmHWM:") + 1]) - before) // 1024)
"""
_LARGE_HW = (16_000, 12_000)


def _large_czi(file: Path, _: Path) -> None:
    czi = pytest.importorskip("pylibCZIrw.czi", reason="Zeiss's reader has no wheel here")
    tile = np.zeros((2000, 2000, 1), np.uint8)
    with czi.create_czi(str(file), compression_options="zstd0:ExplicitLevel=1") as document:
        for top in range(-4000, 12_000, 2000):  # places below 0 are usual
            for left in range(0, 12_000, 2000):
                document.write(tile, location=(left, top))


def _large_dm4(file: Path, shared: Path) -> None:
    """Write the real file's tags around far more pixels, a hole in the file."""
    folder = shared / "microscope-formats" / "gatan"
    raw = (folder / "dmTest_float32_nonSquare_diffPixelSize.dm4").read_bytes()
    height, width = 64, 128
    start = raw.rindex(struct.pack(">q", height * width)) + 8
    end = start + height * width * 4
    tail = bytearray(raw[end:])
    place = tail.index(b"Dimensions")
    for old, new in ((width, _LARGE_HW[1]), (height, _LARGE_HW[0])):
        place = tail.index(struct.pack("<I", old), place)
        tail[place : place + 4] = struct.pack("<I", new)
    with file.open("wb") as made:
        made.write(raw[: start - 8] + struct.pack(">q", math.prod(_LARGE_HW)))
        made.seek(math.prod(_LARGE_HW) * 4, os.SEEK_CUR)
        made.write(tail)


@pytest.mark.parametrize(("make", "plane_mb"), [(_large_czi, 192), (_large_dm4, 768)])
def test_large_czi_and_dm_files_are_never_in_memory_as_a_whole(
    make: Callable[[Path, Path], None], plane_mb: int, shared_data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "large"
    make(file, shared_data)
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(file)],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    height, width, grown_mb = map(int, done.stdout.split())
    assert (height, width) == _LARGE_HW
    # Mostly 71 MB of the CZI; one time in fifty its library holds the tiles of a band twice: 118.
    assert grown_mb < 0.8 * plane_mb


def test_rows_of_real_dm_and_czi_files_are_those_of_the_whole(shared_data: Path) -> None:
    checked = 0
    for ref in find_images("*/*.[dc][mz]*", shared_data / "microscope-formats"):
        try:
            whole = read_micrograph(ref)
        except ImageError:
            continue  # spectra and transforms
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows, "_BLOCK_BYTES", 5 * whole.pixels[0].nbytes)
            opened = open_rows(ref)
            assert opened is not None
            with opened:
                assert np.array_equal(opened.read(0, opened.height), whole.pixels)
                assert np.array_equal(opened.read(1, 2), whole.pixels[1:2])
        checked += 1
    assert checked >= 15


def test_a_truncated_file_is_said_to_be_when_its_rows_are_read(tmp_path: Path) -> None:
    file = tmp_path / "x.tif"
    tifffile.imwrite(file, _picture("uint16"), compression="zlib", rowsperstrip=10)
    file.write_bytes(file.read_bytes()[:-9000] if file.stat().st_size > 9000 else b"II*\0")
    with pytest.raises(ImageError, match="x.tif"):
        opened = open_rows(ImageRef(path=file))
        assert opened is not None
        with opened:
            opened.read(0, opened.height)


@given(
    data=st.data(),
    kind=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    colours=st.sampled_from([0, 1, 3, 4]),
    equal=st.booleans(),
    frame=st.tuples(*[st.integers(0, 9)] * 4),
    bar=st.integers(0, 20),
)
@settings(max_examples=60)
def test_a_survey_in_bands_finds_what_the_whole_image_says(
    data: st.DataObject, kind: str, colours: int, equal: bool, frame: tuple[int, ...], bar: int
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    height, width = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 120))
    shape = (height, width, colours) if colours else (height, width)
    pixels = rng.integers(0, data.draw(st.sampled_from([2, 255])), shape).astype(kind)
    if colours >= 3 and equal:
        pixels[..., 1] = pixels[..., 2] = pixels[..., 0]
    top, bottom, left, right = frame
    pixels[:top] = pixels[height - bottom :] = 0
    pixels[:, :left] = pixels[:, width - right :] = 7
    if bar and height > bar:
        pixels[-bar:] = 3
        pixels[-bar:, ::9] = 255
    if kind == "float32" and data.draw(st.booleans()):
        pixels.flat[max(1, colours) :: max(1, pixels.size // 9)] = (
            np.nan
        )  # never all: that is refused
    _check_survey(pixels, blocks=data.draw(st.integers(1, 50)), sample_px=data.draw(
        st.sampled_from([500, 4_000_000])))  # fmt: skip


@pytest.mark.parametrize("value", [0, 9])
def test_a_survey_of_flat_images(value: int) -> None:
    for shape in ((1, 1), (1, 80), (80, 1), (70, 90)):
        _check_survey(np.full(shape, value, np.uint8), blocks=8, sample_px=4_000_000)
    halves = np.zeros((80, 80), np.uint8)
    halves[40:] = 9
    _check_survey(halves, blocks=8, sample_px=4_000_000)


def test_only_an_image_without_any_number_is_refused_by_a_survey() -> None:
    framed = np.full((40, 40), np.nan, np.float32)
    framed[0] = 0  # a frame's numbers are no sample, but numbers
    _check_survey(framed, blocks=8, sample_px=4_000_000)
    _check_survey(np.array([[7, np.nan]], np.float32), blocks=1, sample_px=500)
    framed[0] = np.nan
    with pytest.raises(ImageError, match="holds no finite number"):
        _check_survey(framed, blocks=8, sample_px=4_000_000)


def _check_survey(pixels: np.ndarray, *, blocks: int, sample_px: int) -> None:
    micrograph = Micrograph(pixels=pixels, pixel_nm=None, source="x", bit_depth=8, info_bar_rows=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_BLOCK_BYTES", blocks * pixels[0].nbytes)
        patch.setattr(normalise, "SAMPLE_PX", sample_px)
        found = survey(rows_of(micrograph), Normaliser())
        bar = find_info_bar(pixels)
        assert found.info_bar_rows == bar
        expected = Normaliser().statistics(to_grey(pixels), bar)
    assert found.statistics == expected
    assert np.array_equal(found.grey(pixels), to_grey(pixels), equal_nan=True)


def _check_alike(file: Path) -> None:
    for ref in find_images(str(file), Path("/")):
        whole = read_micrograph(ref)
        opened = open_rows(ref)
        assert opened is not None, file
        with pytest.MonkeyPatch.context() as patch, opened:
            patch.setattr(rows, "_BLOCK_BYTES", 3000)
            assert opened.shape == whole.pixels.shape
            assert opened.dtype == whole.pixels.dtype
            assert opened.source == whole.source
            assert opened.pixel_nm == whole.pixel_nm
            assert np.array_equal(opened.read(0, opened.height), whole.pixels)
            for first, last in ((149, 150), (31, 33), (0, 0), (60, 140), (5, 6)):
                assert np.array_equal(opened.read(first, last), whole.pixels[first:last])
            for left, right in ((0, 1), (7, 60), (50, opened.width), (0, opened.width)):
                some = opened.columns(left, right)
                assert some.shape == (opened.height, right - left, *opened.shape[2:])
                for first, last in ((149, 150), (60, 140), (31, 33)):
                    part = whole.pixels[first:last, left:right]
                    assert np.array_equal(some.read(first, last), part), (file, left)
