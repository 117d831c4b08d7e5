"""Which reader a file needs, decided by its first bytes and never by its name."""

import importlib
from pathlib import Path
from typing import Protocol, cast

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.crash_test import try_first
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph

# Names a person gives to images: a file so called that is none is worth an error, others are not.
_SUFFIXES = (
    ".tif .tiff .btf .png .jpg .jpeg .bmp .mrc .mrcs .map .rec .st .ali .dm3 .dm4 .ser .emi .emd"
    " .h5 .hdf5 .zarr .czi .elid"
)
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
HEADER_BYTES = 1024
_TRIED_FIRST = frozenset({"hdf5", "czi"})  # their libraries can die of a damaged file


class FormatReader(Protocol):
    """What each format's module offers."""

    def probe(self, path: Path) -> ImageFacts:
        """Return the facts of the file from its headers."""
        ...

    def read(self, path: Path, plane: int) -> Micrograph:
        """Return one plane; 0 is the first."""
        ...


def format_of(path: Path) -> str | None:
    """Return the name of the module that reads this file, or None when it is no micrograph.

    Raises: ImageError when the file cannot be opened at all.
    """
    if path.is_dir():
        return "zarr" if is_zarr(path) else None
    try:
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES)
    except FileNotFoundError:
        raise ImageError(path, "there is no such file", "Check the name") from None
    except PermissionError:
        raise ImageError(path, "may not be read", f"Try: chmod +r {path.name}") from None
    except OSError as error:
        raise ImageError(path, f"cannot be opened ({error.strerror})") from None
    return _format_of_bytes(start)


def reader_for(path: Path) -> FormatReader:
    """Return the module that reads this file.

    Raises: ImageError for an empty file, or one in no format we know.
    """
    name = format_of(path)
    if name is None:
        if path.is_dir():
            raise ImageError(path, "is a folder, not an image")
        if path.stat().st_size == 0:
            raise ImageError(path, "is empty (0 bytes)", "Copy or export it again")
        raise ImageError(
            path,
            "is in no image format known here",
            "Known are TIFF, PNG, JPEG, BMP, MRC, DM3/DM4, SER/EMI, EMD, HDF5, Zarr, CZI and elid",
        )
    if name in _TRIED_FIRST:
        try_first(path.resolve(), name)
    return cast("FormatReader", importlib.import_module(f"emcfsys_engine.images.formats.{name}"))


def is_zarr(folder: Path) -> bool:
    """Tell whether a folder is a Zarr array or group, which is one image rather than many."""
    return any((folder / name).is_file() for name in (".zarray", ".zgroup", "zarr.json"))


def _format_of_bytes(start: bytes) -> str | None:
    for magic, name in _MAGIC:
        if start.startswith(magic):
            return name
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return "picture"
    if start[:3] == b"\0\0\0" and start[3:4] in (b"\3", b"\4") and _is_dm(start):
        return "dm"
    return "mrc" if _is_mrc(start) else None


_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "picture"),
    (b"\xff\xd8\xff", "picture"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"II\x97\x01", "tia"),
    (b"JK\0\2", "tia_emi"),
    (b"ZISRAWFILE", "czi"),
    (b"BZh", "compressed"),
    (b"\x1f\x8b", "compressed"),
)


def _is_dm(start: bytes) -> bool:
    # After the version come the length (4 bytes in DM3, 8 in DM4) and the byte order, 0 or 1.
    order = start[8:12] if start[3] == 3 else start[12:16]
    return order in (b"\0\0\0\0", b"\0\0\0\1")


def _is_mrc(start: bytes) -> bool:
    if len(start) < HEADER_BYTES:
        return False
    if start[208:212] == b"MAP ":
        return True
    # Old MRC files have no mark: take one whose sizes, mode and axis order all make sense.
    for order in ("little", "big"):
        words = [int.from_bytes(start[i : i + 4], order) for i in range(0, 1024, 4)]  # type: ignore[arg-type]
        sizes_fit = all(1 <= size <= 1 << 20 for size in words[:3])
        if sizes_fit and words[3] in (0, 1, 2, 4, 6, 12, 101) and _axes_fit(words[16:19]):
            return True
    return False


def _axes_fit(axes: list[int]) -> bool:
    return sorted(axes) == [1, 2, 3] or axes == [0, 0, 0]
