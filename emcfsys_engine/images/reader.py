"""The front door to micrographs: read one, ask for its facts, find them in a folder."""

import glob
import importlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from emcfsys_engine.errors import ImageError
from emcfsys_engine.files import first_bytes
from emcfsys_engine.images.damaged_files import fenced, quiet_libraries, try_first
from emcfsys_engine.images.micrograph import ImageFacts, ImageRef, ImageRefs, Micrograph
from emcfsys_engine.images.normalise import find_info_bar
from emcfsys_engine.images.other_outputs import converted_below
from emcfsys_engine.images.side_cars import pixel_nm_beside
from emcfsys_engine.images.walk import (
    is_regular,
    is_zarr,
    may_be_file,
    names_below,
    names_matching,
    split_glob,
)
from emcfsys_engine.suffixes import MICROGRAPH_SUFFIXES, is_left_alone
from emcfsys_engine.suffixes import OTHER_PICTURE_SUFFIXES as _NOT_READ
from emcfsys_engine.text import few, how_many, how_to_read

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


def format_of(path: Path | str) -> str | None:
    """Return the name of the module that reads this file, or None when it is no micrograph.

    Raises: ImageError when the file cannot be opened at all.
    """
    try:
        start = first_bytes(path, HEADER_BYTES)
    except IsADirectoryError:
        return "zarr" if is_zarr(Path(path)) else None
    except FileNotFoundError:
        raise ImageError(path, "there is no such file", "Check the name") from None
    except PermissionError:
        raise ImageError(path, "may not be read", how_to_read(path)) from None
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
            "Known are TIFF, PNG, JPEG, BMP, GIF, WebP, AVIF, JPEG 2000, PNM, MRC, DM3/DM4, "
            "SER/EMI, EMD, HDF5, Zarr, CZI and elid",
        )
    if name in _TRIED_FIRST:
        try_first(path.resolve(), name)
    return cast("FormatReader", importlib.import_module(f"emcfsys_engine.images.formats.{name}"))


def _format_of_bytes(start: bytes) -> str | None:
    for magic, name in _MAGIC:
        if start.startswith(magic):
            return name
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return "picture"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "frames"
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        return "frames"
    if re.match(rb"P[1-6fF](?:\s|#[^\n]*\n)+\d", start):
        return "netpbm"
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
    (b"JK\0\2", "tia"),
    (b"ZISRAWFILE", "czi"),
    (b"BZh", "compressed"),
    (b"\x1f\x8b", "compressed"),
    (b"GIF87a", "frames"),
    (b"GIF89a", "frames"),
    (b"qoif", "frames"),
    (b"\x59\xa6\x6a\x95", "frames"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
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


_UNFINISHED = (".tmp", ".part", ".partial", ".filepart", ".crdownload", "~")
_ALWAYS_ONE_PLANE = frozenset({"picture"})


def read_micrograph(ref: Path | ImageRef) -> Micrograph:
    """Return the pixels of an image, or of one plane of a stack.

    Raises: ImageError for what is no micrograph, is damaged, or has no such plane; and for a stack
    without a plane, since which one to use is not ours to say.
    """
    path, plane = (ref.path, ref.plane) if isinstance(ref, ImageRef) else (ref, None)
    with quiet_libraries(), fenced(path):
        reader = reader_for(path)
        if plane is None and reader.probe(path).planes > 1:
            planes = reader.probe(path).planes
            raise ImageError(path, f"is a stack of {planes} planes", f"Name one: {path.name}#0")
        micrograph = reader.read(path, plane or 0)
    if micrograph.pixel_nm is None:
        micrograph = replace(micrograph, pixel_nm=_size_beside(path, micrograph.pixels.shape))
    if micrograph.info_bar_rows:
        return micrograph
    return _with_info_bar(micrograph)


def probe(path: Path) -> ImageFacts:
    """Return what the headers say: format, size, planes, pixel size.

    Raises: ImageError for what is no micrograph, naming what it is where we know.
    """
    with quiet_libraries(), fenced(path):
        facts = reader_for(path).probe(path)
    if facts.pixel_nm is None:
        return replace(facts, pixel_nm=_size_beside(path, facts.shape))
    return facts


def _size_beside(path: Path, shape: tuple[int, ...]) -> tuple[float, float] | None:
    return pixel_nm_beside(path, (shape[0], shape[1]))


def find_images(pattern: str, base: Path, left_out: list[Path] | None = None) -> list[ImageRef]:
    """Return the images of a folder (with its sub-folders) or of a glob, sorted by name.

    A stack becomes one reference a plane. Unfinished copies and hidden files are left out. A file
    named like an image that cannot be read is kept: reading it says what is wrong with it. Pictures
    of kinds that nobody reads here, and folders of converted pictures, are added to `left_out`.
    Raises: ImageError when the folder or file does not exist.
    """
    return list(list_images(pattern, base, left_out))


def list_images(pattern: str, base: Path, left_out: list[Path] | None = None) -> ImageRefs:
    """Return the same images in a listing that stays small, of a million, too."""
    refs = ImageRefs()
    for name in _candidates(pattern, base):
        planes = _planes(name)
        for plane in planes:
            refs.add(name, plane)
        if left_out is not None and not planes and _suffix_of(name) in _NOT_READ:
            left_out.append(Path(name))
    if left_out is not None:
        left_out += converted_below(pattern, base)
    refs.sort()
    return refs


def left_out_words(left_out: Sequence[Path]) -> str:
    """Return the one line about what was left out: see `find_images`; empty without any."""
    kinds = Counter(suffix for path in left_out if (suffix := path.suffix.lower()) in _NOT_READ)
    folders = [str(path) for path in left_out if path.suffix.lower() not in _NOT_READ]
    told: list[str] = []
    if kinds:
        named = ", ".join(f"{number} × {kind}" for kind, number in sorted(kinds.items()))
        why = "since pictures of their kind are not read"
        told.append(f"left out, {why}: {named}. Save them as TIFF or PNG")
    if folders:
        what = how_many(len(folders), "folder", "folders")
        told.append(f"left out, since convert wrote it: {what} ({few(folders, 3)}). Name it, too")
    return ". ".join(told)


def is_unfinished(name: str) -> bool:
    """Tell whether a file is hidden or still being copied, by its name."""
    return is_left_alone(name) or name.lower().endswith(_UNFINISHED)


def _candidates(pattern: str, base: Path) -> Iterable[str]:
    root, wild = split_glob(pattern, base)
    if not wild:
        if root.is_dir():
            return [str(root)] if is_zarr(root) else _finished_below(root)
        if is_regular(root):
            return [str(root)]
        if root.exists():
            raise ImageError(root, "is a pipe, socket or device", "Name a file or a folder")
        raise ImageError(root, "there is no such folder or file", "Check the path")
    found = map(Path, names_matching(root, wild))
    kept = [path for path in found if not is_unfinished(path.name)]
    return [str(path) for path in kept if may_be_file(path) or is_zarr(path)]


def _finished_below(folder: Path) -> Iterable[str]:
    return (name for name in names_below(folder) if not is_unfinished(name.rpartition("/")[2]))


def _suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - of a million names


_ONE: tuple[int | None, ...] = (None,)  # the planes of a file that is one picture


def _planes(name: str) -> Iterable[int | None]:
    """Return the planes of a file that are images of their own; () where it is none."""
    try:
        kind = format_of(name)
    except ImageError:
        kind = ""  # cannot be opened: reading it says why
    looks_like_one = _suffix_of(name) in MICROGRAPH_SUFFIXES
    if kind is None and not looks_like_one:
        return ()
    if not kind or kind in _ALWAYS_ONE_PLANE:
        return _ONE
    if kind == "tia" and _suffix_of(name) != ".ser" and _has_series(Path(name)):
        return ()  # its pixels lie in the .ser files beside it
    try:
        planes = probe(Path(name)).planes
    except ImageError:
        return _ONE if looks_like_one else ()
    return _ONE if planes == 1 else range(planes)


def _has_series(emi: Path) -> bool:
    return any(emi.parent.glob(glob.escape(emi.stem) + "_*.ser"))


def _with_info_bar(micrograph: Micrograph) -> Micrograph:
    rows = find_info_bar(micrograph.pixels)
    if not rows:
        return micrograph
    return Micrograph(
        pixels=micrograph.pixels,
        pixel_nm=micrograph.pixel_nm,
        source=micrograph.source,
        bit_depth=micrograph.bit_depth,
        info_bar_rows=rows,
    )
