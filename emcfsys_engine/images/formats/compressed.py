"""Files packed with gzip or bzip2: MRC stacks, and the Phenom's elid; unpacked within bounds."""

import bz2
import gzip
import importlib
import io
import zlib
from pathlib import Path

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.formats import mrc
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph

_MOST_BYTES_A_BYTE = 200  # honest micrographs pack 1:2, spectra 1:20; bombs 1:1000 and more
_SMALL_BYTES = 64 << 20


def probe(path: Path) -> ImageFacts:
    """Return the facts of the packed file from its unpacked start."""
    start = unpacked(path, 2048)
    if start[:4] == b"EID2":
        return importlib.import_module("emcfsys_engine.images.formats.phenom").probe(path)
    return mrc.facts_of(path, _mrc_header(path, start), f"MRC ({_packing(path)})")


def read(path: Path, plane: int) -> Micrograph:
    """Return one plane of the packed file; it is unpacked up to that plane only."""
    start = unpacked(path, 2048)
    if start[:4] == b"EID2":
        return importlib.import_module("emcfsys_engine.images.formats.phenom").read(path, plane)
    header = _mrc_header(path, start)
    height, width = header.size_ZYX[1:]
    need = header.start + (plane + 1) * height * width * header.dtype.itemsize
    return mrc.read_plane(path, header, plane, io.BytesIO(unpacked(path, need)))


def unpacked(path: Path, most_bytes: int) -> bytes:
    """Return the first bytes of what is packed, at most this many.

    Raises: ImageError when it is damaged, or unpacks to far more than an honest file would.
    """
    packed_bytes = path.stat().st_size
    if most_bytes > max(_SMALL_BYTES, packed_bytes * _MOST_BYTES_A_BYTE):
        raise ImageError(
            path,
            f"would unpack {packed_bytes:,} bytes to {most_bytes:,} or more",
            "It is damaged or made to do harm: do not use it",
        )
    opener = bz2.open if _packing(path) == "bzip2" else gzip.open
    try:
        with opener(path, "rb") as file:
            return file.read(most_bytes)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ImageError(
            path, f"is truncated or damaged and cannot be unpacked ({error})", "Copy it again"
        ) from None


def most_unpacked_bytes(path: Path) -> int:
    """Return how many bytes an honest file of this size may unpack to."""
    return max(_SMALL_BYTES, path.stat().st_size * _MOST_BYTES_A_BYTE)


def _mrc_header(path: Path, start: bytes) -> mrc.Header:
    if len(start) < 1024 or start[208:211] != b"MAP":
        what = f"is packed with {_packing(path)}, and what is in it is no MRC file"
        raise ImageError(path, what, "Unpack it first")
    # Only the unpacking itself shows whether all pixels are there.
    return mrc.parse_packed(path, start, most_unpacked_bytes(path))


def _packing(path: Path) -> str:
    with path.open("rb") as file:
        return "bzip2" if file.read(3) == b"BZh" else "gzip"
