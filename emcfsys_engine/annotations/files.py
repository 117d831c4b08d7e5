"""Find annotation files in a folder and read them, whatever tool wrote them."""

import functools
import glob
import importlib
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.images.reader import is_unfinished, is_zarr

_LARGEST_BYTES = 2 << 30
_SUFFIXES = frozenset((".json", ".geojson", ".xml", ".roi", ".zip", ".txt"))
_JSON_READERS = ("labelme", "coco", "geojson", "via", "label_studio")


class NotAnAnnotation(AnnotationError):
    """A sound file that no annotation tool wrote."""


def read_annotations(path: Path) -> tuple[Annotation, ...]:
    """Return the annotation of every image a file speaks of; the file is parsed once.

    Content decides, not the extension.
    Raises: AnnotationError for a file that cannot be read or is in no known format.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise AnnotationError(path, f"cannot be opened ({error.strerror})") from None
    return _read(path, status.st_mtime_ns, status.st_size)


def find_annotations(
    pattern: str, base: Path, faults: list[InputError], notes: list[str]
) -> dict[Path, tuple[Annotation, ...]]:
    """Return what every annotation file of a folder (with sub-folders) or glob says.

    A damaged file becomes a fault; one that no annotation tool wrote is left out with a note.
    """
    found: dict[Path, tuple[Annotation, ...]] = {}
    for path in _candidates(pattern, base):
        try:
            found[path] = read_annotations(path)
        except NotAnAnnotation as other:
            notes.append(f"{other} It is not used.")
        except InputError as fault:
            faults.append(fault)
    return found


def read_json(path: Path) -> Any:
    """Return the parsed document.

    Raises: AnnotationError when it is no JSON, or cannot be opened.
    """
    return _parsed_json(path, _bytes_of(path))


def _candidates(pattern: str, base: Path) -> list[Path]:
    whole = base / Path(pattern).expanduser()
    if whole.is_file():
        return [whole]
    if whole.is_dir():
        found = _below(whole)
    else:
        names = glob.glob(str(Path(pattern).expanduser()), root_dir=base, recursive=True)
        found = (base / name for name in names)
    return sorted(
        path
        for path in found
        if path.suffix.lower() in _SUFFIXES and not is_unfinished(path.name) and path.is_file()
    )


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; our own .emcfsys and the inside of a Zarr hold no labels."""
    for entry in folder.iterdir():
        if not entry.is_dir():
            yield entry
        elif not entry.name.startswith(".") and not is_zarr(entry):
            yield from _below(entry)


@functools.lru_cache(maxsize=4096)
def _read(path: Path, _mtime_ns: int, size: int) -> tuple[Annotation, ...]:
    if size == 0:
        if path.suffix.lower() == ".txt":  # YOLO writes an empty file for an image without objects
            return tuple(_module("yolo").read(path, ""))
        raise AnnotationError(path, "is empty (0 bytes)", "Export it again")
    if size > _LARGEST_BYTES:
        raise AnnotationError(path, f"has {size:,} bytes, more than can be read", "Split it")
    try:
        return tuple(_dispatched(path))
    except AnnotationError:
        raise
    # A known format whose parts are missing or of the wrong kind: what is wrong is in the words.
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        words = " ".join(f"{type(error).__name__} {error}".split())[:100]
        raise AnnotationError(path, f"is damaged ({words})", "Export it again") from None


def _dispatched(path: Path) -> list[Annotation]:
    start = _start_of(path)
    if start[:4] in (b"Iout", b"PK\3\4", b"PK\5\6"):
        return _module("imagej").read(path, start)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] in (b"{", b"["):
        return _read_document(path)
    if text[:1] == b"<":
        return _read_xml(path)
    if _module("yolo").is_yolo(text.decode("utf-8", "replace")):
        return _module("yolo").read(path, _bytes_of(path).decode("utf-8", "replace"))
    raise NotAnAnnotation(path, "is of no annotation tool known here")


def _read_document(path: Path) -> list[Annotation]:
    document = _parsed_json(path, _bytes_of(path))
    for name in _JSON_READERS:
        module = _module(name)
        if getattr(module, f"is_{name}")(document):
            return module.read(path, document)
    raise NotAnAnnotation(path, "is JSON, but of no annotation tool known here")


def _read_xml(path: Path) -> list[Annotation]:
    data = _bytes_of(path)
    if b"<!ENTITY" in data or b"<!DOCTYPE" in data:
        raise AnnotationError(path, "declares entities, which no annotation needs", "Do not use it")
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, RecursionError):
        raise AnnotationError(path, "is truncated or no XML", "Export it again") from None
    if root.tag == "annotations":
        return _module("cvat").read(path, root)
    raise NotAnAnnotation(path, "is XML, but of no annotation tool known here")


def _module(name: str) -> Any:
    return importlib.import_module(f"emcfsys_engine.annotations.formats.{name}")


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except PermissionError:
        raise AnnotationError(path, "may not be read", f"Try: chmod +r {path.name}") from None
    except OSError as error:
        raise AnnotationError(path, f"cannot be opened ({error.strerror})") from None


def _bytes_of(path: Path) -> bytes:
    _start_of(path)
    return path.read_bytes()


def _parsed_json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise AnnotationError(path, "is truncated or no JSON", "Export it again") from None
