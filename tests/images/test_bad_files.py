"""Damaged and hostile image files: one line, in time, within memory; never a crash."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.reader import find_images, probe, read_micrograph
from tests.thorough import tries

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
import os, resource, sys
from pathlib import Path
from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import probe, read_micrograph
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = sum(os.times()[:4])  # of a processor, and of child processes, too
    print(path.name, end=" ", flush=True)
    try:
        facts = probe(path)
        micrograph = read_micrograph(ImageRef(path=path, plane=0))
        said = "read"
    except ImageError as error:
        said = "refused"
        assert "\\n" not in str(error)
    print(said, round(sum(os.times()[:4]) - start, 2), flush=True)
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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name.startswith("emd/") else name
        for name in FUZZED
    ],
)
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
    number = tries(30, 120)
    for seed in range(number):
        rng = np.random.default_rng(seed)
        harmed = whole.copy()
        # Half of the flips go into the first kilobyte, where headers are.
        reach = min(len(whole), 1024) if seed % 2 else len(whole)
        places = rng.integers(0, reach, rng.integers(1, 16))
        harmed[places] = rng.integers(0, 256, len(places))
        (tmp_path / f"{seed:03d}{Path(name).suffix}").write_bytes(harmed.tobytes())
    judge(tmp_path, number)


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


@pytest.mark.parametrize("start", [b"\xff\xd8\xff\xe0", b"\xff\xd8" + b"\xff" * 60_000])
def test_a_jpeg_of_which_a_crash_left_zeros_is_refused_at_once(
    tmp_path: Path, start: bytes
) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(start)
    os.truncate(file, 4 << 30)  # Pillow would look at each of them for the header's next part
    began = time.process_time()
    with pytest.raises(ImageError, match="damaged"):
        probe(file)
    assert time.process_time() - began < MOST_SECONDS
