"""Find annotation files in a folder and read them, whatever tool wrote them."""

import functools
import importlib
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.annotations.text_encoding import other_encodings, text_of
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.files import reading
from emcfsys_engine.images.damaged_files import quiet_libraries
from emcfsys_engine.images.reader import is_unfinished
from emcfsys_engine.images.walk import (
    files_below,
    may_be_file,
    names_matching,
    split_glob,
    stamp_of,
)
from emcfsys_engine.text import how_to_read

_LARGEST_BYTES = 2 << 30
_LONGEST_NAME_BYTES = 255  # of every file system that is in use
_SUFFIXES = frozenset((".json", ".geojson", ".xml", ".roi", ".zip", ".txt"))
# Microscopes write tables beside images: "[SemImageFile]" (Hitachi), "[MAIN]", "$CM_FORMAT" (JEOL).
_SIDE_CAR = re.compile(r"\[(?!true|false|null)[A-Za-z][\w .-]*\][ \t]*[\r\n]|\$[A-Z]+_")
_JSON_READERS = ("labelme", "coco", "geojson", "via", "label_studio")


class NotAnAnnotation(AnnotationError):
    """A sound file that no annotation tool wrote."""


class _SideCar(NotAnAnnotation):
    """A microscope's own text beside its image: left alone without a word."""


def read_annotations(path: Path) -> tuple[Annotation, ...]:
    """Return the annotation of every image a file speaks of; the file is parsed once.

    Content decides, not the extension.
    Raises: AnnotationError for a file that cannot be read or is in no known format.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise AnnotationError(path, f"cannot be opened ({error.strerror})") from None
    changed = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return _read(path, (changed, *map(stamp_of, read_with(path))), status.st_size)


def read_with(path: Path) -> list[Path]:
    """Return the other files, there or not, that say what an annotation file means."""
    return _module("yolo").name_files(path) if path.suffix.lower() == ".txt" else []


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
            if not isinstance(other, _SideCar):
                notes.append(f"{other} It is not used.")
        except InputError as fault:
            faults.append(fault)
    return found


def _candidates(pattern: str, base: Path) -> list[Path]:
    root, wild = split_glob(pattern, base)
    if not wild and not root.is_dir():
        return [root] if may_be_file(root) else []
    found: Iterable[Path] = files_below(root)
    if wild:
        found = map(Path, names_matching(root, wild))
    return sorted(
        path
        for path in found
        if path.suffix.lower() in _SUFFIXES and not is_unfinished(path.name) and may_be_file(path)
    )


@functools.lru_cache(maxsize=4096)
def _read(path: Path, _changed: tuple[object, ...], size: int) -> tuple[Annotation, ...]:
    if size == 0:
        if path.suffix.lower() == ".txt":  # YOLO writes an empty file for an image without objects
            return tuple(_module("yolo").read(path, ""))
        raise AnnotationError(path, "is empty (0 bytes)", "Export it again")
    if size > _LARGEST_BYTES:
        raise AnnotationError(path, f"has {size:,} bytes, more than can be read", "Split it")
    try:
        # What is no number is refused shape by shape; numpy need not warn of it on a terminal.
        with quiet_libraries(), np.errstate(all="ignore"):
            return _with_possible_names(_dispatched(path))
    except AnnotationError:
        raise
    # A known format whose parts are missing or of the wrong kind: what is wrong is in the words.
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        words = " ".join(f"{type(error).__name__} {error}".split())[:100]
        raise AnnotationError(path, f"is damaged ({words})", "Export it again") from None


def _with_possible_names(annotations: list[Annotation]) -> tuple[Annotation, ...]:
    """Leave out what is said of images that no disk can hold; alone, the file's own name counts."""
    sound: list[Annotation] = []
    for one in annotations:
        name = one.image_name
        if _can_be_a_file(name):
            sound.append(one)
            continue
        shown = name.replace("\0", "\\0")
        shown = shown if len(shown) <= 40 else f"{shown[:40]}… ({len(name)} characters)"
        why = f"names an image that no file can be called: {shown}"
        if len(annotations) > 1:
            sound.append(replace(one, image_name="", unused=why))
        else:
            sound.append(replace(one, image_name="", notes=(*one.notes, f"{why}: not used")))
    return tuple(sound)


def _can_be_a_file(name: str) -> bool:
    try:
        parts = os.fsencode(name).split(b"/")
    except UnicodeEncodeError:  # halves of a pair that JSON can spell and no disk can hold
        return False
    return all(b"\0" not in part and len(part) <= _LONGEST_NAME_BYTES for part in parts)


def _dispatched(path: Path) -> list[Annotation]:
    start = _start_of(path)
    if start[:4] in (b"Iout", b"PK\3\4", b"PK\5\6"):
        found = _module("imagej").read(path, start)
        # An empty archive is ours for an image without objects: ImageJ saves none.
        if start[:4] == b"PK\3\4" and not any(one.num_read for one in found):
            raise NotAnAnnotation(path, "is an archive without ImageJ regions")
        return found
    text = _beginning(start)
    if _SIDE_CAR.match(text):
        raise _SideCar(path, "is what a microscope wrote beside its image")
    if text[:1] in ("{", "["):
        return _read_document(path)
    if text[:1] == "<":
        return _read_xml(path)
    if _module("yolo").is_yolo(text):
        return _module("yolo").read(path, text_of(path, _bytes_of(path)))
    if path.name == "classes.txt":  # read with YOLO's files
        raise _SideCar(path, "names the classes of the files beside it")
    raise NotAnAnnotation(path, "is of no annotation tool known here")


def _beginning(start: bytes) -> str:
    """Return the first characters of a file, to tell what it is, in whatever encoding it is."""
    wide = next((name for name in other_encodings(start) if name.startswith("UTF")), "utf-8")
    return start.decode(wide, "replace").lstrip("\ufeff \t\r\n")


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
        root = ET.fromstring(_declared_text(path, data))
    except (ET.ParseError, ValueError, RecursionError):
        raise AnnotationError(path, "is truncated or no XML", "Export it again") from None
    if root.tag == "annotations":
        return _module("cvat").read(path, root)
    raise NotAnAnnotation(path, "is XML, but of no annotation tool known here")


def _declared_text(path: Path, data: bytes) -> str | bytes:
    """Return XML as text where it says its encoding or has none but UTF-8; UTF-16 has a mark."""
    declared = re.match(rb"<\?xml[^>]*?encoding=[\"']([A-Za-z0-9._-]+)[\"'][^>]*\?>", data)
    if declared and declared[1].lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        name = declared[1].decode("ascii")
        try:
            return data[declared.end() :].decode(name)
        except (LookupError, UnicodeError):  # idna and undefined raise the wider one
            what = f"declares the encoding {name}, which it is not in"
            raise AnnotationError(path, what, "Export it again as UTF-8") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data
    return text_of(path, data)


def _module(name: str) -> Any:
    return importlib.import_module(f"emcfsys_engine.annotations.formats.{name}")


def _start_of(path: Path) -> bytes:
    try:
        with reading(path) as file:
            return file.read(4096)
    except PermissionError:
        raise AnnotationError(path, "may not be read", how_to_read(path)) from None
    except OSError as error:
        raise AnnotationError(path, f"cannot be opened ({error.strerror})") from None


def _bytes_of(path: Path) -> bytes:
    _start_of(path)
    return path.read_bytes()


def _parsed_json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(text_of(path, data))
    except (ValueError, RecursionError):
        raise AnnotationError(path, "is truncated or no JSON", "Export it again") from None
