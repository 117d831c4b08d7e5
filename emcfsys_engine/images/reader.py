"""The front door to micrographs: read one, ask for its facts, find them in a folder."""

import fnmatch
import glob
from collections.abc import Iterable
from pathlib import Path

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.fence import fenced
from emcfsys_engine.images.info_bar import find_info_bar
from emcfsys_engine.images.micrograph import ImageFacts, ImageRef, Micrograph
from emcfsys_engine.images.quiet import quiet_libraries
from emcfsys_engine.images.recognise import IMAGE_SUFFIXES, format_of, is_zarr, reader_for

_UNFINISHED = ("*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*~")
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
    if micrograph.info_bar_rows:
        return micrograph
    return _with_info_bar(micrograph)


def probe(path: Path) -> ImageFacts:
    """Return what the headers say: format, size, planes, pixel size.

    Raises: ImageError for what is no micrograph, naming what it is where we know.
    """
    with quiet_libraries(), fenced(path):
        return reader_for(path).probe(path)


def find_images(pattern: str, base: Path) -> list[ImageRef]:
    """Return the images of a folder (with its sub-folders) or of a glob, sorted by name.

    A stack becomes one reference a plane. Unfinished copies and hidden files are left out. A file
    named like an image that cannot be read is kept: reading it says what is wrong with it.
    Raises: ImageError when the folder or file does not exist.
    """
    refs: list[ImageRef] = []
    for path in _candidates(pattern, base):
        refs.extend(_planes(path))
    return sorted(refs, key=_natural)


def is_unfinished(name: str) -> bool:
    """Tell whether a file is hidden or still being copied, by its name."""
    return name.startswith(".") or any(fnmatch.fnmatch(name.lower(), p) for p in _UNFINISHED)


def _candidates(pattern: str, base: Path) -> Iterable[Path]:
    pattern = str(Path(pattern).expanduser())
    whole = base / pattern
    if whole.is_dir():
        return [whole] if is_zarr(whole) else _files_below(whole)
    if whole.exists():
        return [whole]
    if not glob.has_magic(pattern):
        raise ImageError(whole, "there is no such folder or file", "Check the path")
    found = (Path(name) for name in glob.glob(str(pattern), root_dir=base, recursive=True))
    kept = [base / name for name in found if not is_unfinished(name.name)]
    return [path for path in kept if path.is_file() or is_zarr(path)]


def _files_below(folder: Path) -> Iterable[Path]:
    for entry in sorted(folder.iterdir()):
        if is_unfinished(entry.name):
            continue
        if entry.is_dir() and not is_zarr(entry):
            yield from _files_below(entry)
        else:
            yield entry


def _planes(path: Path) -> list[ImageRef]:
    try:
        name = format_of(path)
    except ImageError:
        name = ""  # cannot be opened: reading it says why
    looks_like_one = path.suffix.lower() in IMAGE_SUFFIXES
    if name is None and not looks_like_one:
        return []
    if not name or name in _ALWAYS_ONE_PLANE:
        return [ImageRef(path=path)]
    if name == "tia_emi" and _has_series(path):
        return []  # its pixels lie in the .ser files beside it
    try:
        planes = probe(path).planes
    except ImageError:
        return [ImageRef(path=path)] if looks_like_one else []
    if planes == 1:
        return [ImageRef(path=path)]
    return [ImageRef(path=path, plane=plane) for plane in range(planes)]


def _has_series(emi: Path) -> bool:
    return any(emi.parent.glob(glob.escape(emi.stem) + "_*.ser"))


def _natural(ref: ImageRef) -> tuple[str, int]:
    return str(ref.path), -1 if ref.plane is None else ref.plane


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
