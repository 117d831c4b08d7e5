"""Reading damaged files: false promises refused, libraries fenced, fragile readers tried first."""

import functools
import importlib
import logging
import math
import struct
import subprocess
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from emcfsys_engine.errors import ImageError
from emcfsys_engine.text import how_to_read

# Bytes out for one byte in, at the very most. None of these lies between an honest file and us:
# deflate cannot exceed 1032; a JPEG block of 64 colour pixels takes at least 6 bits.
MOST_BYTES_A_BYTE = {"deflate": 1040, "lzw": 1500, "packbits": 64, "jpeg": 300, "none": 1.02}
MOST_BYTES_OTHERWISE = 20_000  # zstd, LZMA, CCITT: a blank page can be tiny
SMALL_BYTES = 64 << 20  # below this a false promise does no harm
MOST_SIDE_PX = 1 << 20


def refuse_false_promise(
    path: Path,
    shape: tuple[int, ...],
    item_bytes: float,
    coding: str,
    file_bytes: int | None = None,
) -> None:
    """Raise ImageError when a file cannot hold the pixels its header promises.

    Shapes: shape is any shape; only its product and its largest side count.
    """
    wanted = math.prod(shape) * item_bytes
    here = path.stat().st_size if file_bytes is None else file_bytes
    if min(shape, default=0) < 1:
        raise ImageError(path, f"promises an image of {_words(shape)} pixels", "It is damaged")
    if coding == "none" and wanted > here * 1.02 + 64:
        missing = wanted - here
        raise ImageError(
            path,
            f"is truncated: {_words(shape)} pixels need {wanted:,.0f} bytes, "
            f"{missing:,.0f} are missing",
            "Copy it again",
        )
    most = MOST_BYTES_A_BYTE.get(coding, MOST_BYTES_OTHERWISE)
    if (wanted > SMALL_BYTES and wanted > here * most) or max(shape) > MOST_SIDE_PX:
        raise ImageError(
            path,
            f"promises {_words(shape)} pixels, which {here:,} bytes cannot hold",
            "It is damaged or made to do harm: do not use it",
        )


def _words(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{side:,}" for side in shape)


# What numbers out of range do to a reader; an ImageError passes through untouched.
_STUMBLES = (
    OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, EOFError,
    struct.error, RuntimeError,
)  # fmt: skip


@contextmanager
def fenced(path: Path) -> Generator[None]:
    """Turn whatever a reader stumbles over into an ImageError of one line."""
    try:
        yield
    except PermissionError:
        raise ImageError(path, "may not be read", how_to_read(path)) from None
    except MemoryError:
        remedy = "Use a machine with more memory"
        raise ImageError(path, "does not fit into memory", remedy) from None
    except _STUMBLES as error:
        words = " ".join(f"{type(error).__name__} {error}".split())[:100]
        what = f"is truncated or damaged ({words})"
        raise ImageError(path, what, "Copy or export it again") from None


_CHATTY = ("tifffile", "rsciio", "PIL", "h5py", "zarr", "roifile", "mrcfile", "imagecodecs")
_SILENT = logging.CRITICAL + 1


@contextmanager
def quiet_libraries() -> Generator[None]:
    """Drop the log lines and warnings of image libraries; what matters comes as an ImageError."""
    for name in _CHATTY:
        logger = logging.getLogger(name)
        if logger.level != _SILENT:  # setting it empties every logger's cache: costly a file
            logger.setLevel(_SILENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Read a file first in a process of its own, where its library is known to die of damaged files.
#
# libhdf5 and libCZI are C and C++: a flipped byte can end the process that reads it. In a worker
# that watches a microscope's folder that would be the end of the watch, so a child goes first. It
# costs a quarter of a second a file, once for each state of the file.

_MOST_SECONDS = 30
_SLOWEST_BYTES_A_SECOND = 20e6  # of a large file on a slow disk


def try_first(path: Path, reader: str) -> None:
    """Read a file's facts and its first and last plane in a child process.

    Raises: ImageError when the child died or did not come to an end; whatever else is wrong, the
    reader itself says better.
    """
    status = path.stat()
    changed_ns = (status.st_mtime_ns, status.st_ctime_ns)
    if not _survives(str(path), reader, status.st_size, changed_ns):
        what = "is damaged: the library that reads this format fails on it"
        raise ImageError(path, what, "Copy or export it again")


@functools.lru_cache(maxsize=4096)
def _survives(path: str, reader: str, size: int, _changed_ns: tuple[int, int]) -> bool:
    command = [sys.executable, "-P", "-m", "emcfsys_engine.images.damaged_files", reader, path]
    package = Path(__file__).resolve().parents[2]  # the child finds us wherever it is started
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_MOST_SECONDS + size / _SLOWEST_BYTES_A_SECOND,
            cwd=package,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode >= 0


def main(reader: str, path: Path) -> None:
    """Read as the parent will; an exception is as good an end as success."""
    module = importlib.import_module(f"emcfsys_engine.images.formats.{reader}")
    try:
        planes = module.probe(path).planes
        for plane in sorted({0, planes - 1}):
            with module.open_rows(path, plane) as rows:
                for first in range(0, rows.height, rows.block_rows):
                    rows.read(first, min(rows.height, first + rows.block_rows))
    except Exception:
        # The parent meets the same and names it; here only survival counts.
        return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
