"""How long `check` takes for 2,000 pairs of 1024², the disk warm and the dry run apart.

    python -m tests.bench.check [--pairs 2000] [--side 1024]

The pictures are the demo's, with noise; every file has other bytes, as real ones have.
"""

import argparse
import os
import struct
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from emcfsys_engine.project import load_project
from emcfsys_engine.tools.check import check_project
from emcfsys_engine.tools.demo import encode_png, make_micrograph
from tests.bench.machine import machine_line

_KINDS = 16  # different pictures; the other files differ in a comment only
PROJECT = """
[project]
name = "bench"
[classes]
resin = 0
grain = 1
pore = 2
[[data]]
images = "images"
masks = "masks"
"""


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--side", type=int, default=1024)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        _make(folder, arguments.pairs, arguments.side)
        project = load_project(folder)
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            report = check_project(project)
            seconds.append(time.perf_counter() - started)
    print(machine_line("numpy", "imagecodecs", "pillow"))
    print(f"load {os.getloadavg()[0]:.1f}; {len(report.errors)} errors, {report.images}")
    print(f"check of {arguments.pairs} pairs   {seconds[0]:6.1f} s   target 20 s")
    print(f"again, from its cache    {seconds[1]:6.1f} s")


def _make(folder: Path, pairs: int, side: int) -> None:
    rng = np.random.default_rng(0)
    contents = []
    for kind in range(_KINDS):
        _, image = make_micrograph(0, kind)
        repeats = -(-side // min(image.shape))
        image = np.tile(image, (repeats, repeats))[:side, :side]
        mask = (image > 90).astype(np.uint8) + (image > 160)
        noisy = (image + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
        contents.append((encode_png(noisy), encode_png(mask)))
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(pairs):
        for name, content in zip(("images", "masks"), contents[number % _KINDS], strict=True):
            file = folder / name / f"{number:05d}.png"
            file.write_bytes(_with_comment(content, number))
    (folder / "project.toml").write_text(PROJECT)


def _with_comment(png: bytes, number: int) -> bytes:
    """Return a PNG with a comment of its own before its last chunk."""
    body = b"tEXt" + f"Comment\0{number:08d}".encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:-12] + chunk + png[-12:]


if __name__ == "__main__":
    main()
