"""What is no image is named in a line, and reading takes little more than the pixels."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, probe, read_micrograph
from tests.waiting import PATIENCE_S


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
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    # 4 MiB: what a library keeps for itself at its first call.
    taken = int(done.stdout) * 1024
    assert side * side <= taken < 2 * side * side + (4 << 20), f"{taken / 2**20:.0f} MiB"
