"""Find annotation files in a folder and read them, whatever tool wrote them."""

import functools
import glob
import importlib
import json
from pathlib import Path
from typing import Any

from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.images.reader import is_unfinished

_LARGEST_BYTES = 2 << 30
_SUFFIXES = frozenset([".json", ".geojson", ".xml", ".roi", ".zip", ".txt"])
_JSON_READERS = ("labelme",)


class NotAnAnnotation(AnnotationError):
    """A sound file that no annotation tool wrote."""


def read_annotations(path: Path) -> tuple[Annotation, ...]:
    """Return the annotation of every image a file speaks of; the file is parsed once.

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

    A damaged file becomes a fault; a file of no annotation tool is left out, and JSON is noted.
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


def _candidates(pattern: str, base: Path) -> list[Path]:
    whole = base / Path(pattern).expanduser()
    if whole.is_file():
        return [whole]
    if whole.is_dir():
        found = whole.rglob("*")
    else:
        names = glob.glob(str(Path(pattern).expanduser()), root_dir=base, recursive=True)
        found = (base / name for name in names)
    return sorted(
        path
        for path in found
        if path.suffix.lower() in _SUFFIXES and not is_unfinished(path.name) and path.is_file()
    )


@functools.lru_cache(maxsize=64)
def _read(path: Path, _mtime_ns: int, size: int) -> tuple[Annotation, ...]:
    if size == 0:
        raise AnnotationError(path, "is empty (0 bytes)", "Export it again")
    if size > _LARGEST_BYTES:
        raise AnnotationError(path, f"has {size:,} bytes, more than can be read", "Split it")
    document = read_json(path)
    for name in _JSON_READERS:
        module = importlib.import_module(f"emcfsys_engine.annotations.{name}")
        if getattr(module, f"is_{name}")(document):
            return tuple(module.read(path, document))
    raise NotAnAnnotation(path, "is JSON, but of no annotation tool known here")


def read_json(path: Path) -> Any:
    """Return the parsed document.

    Raises: AnnotationError when it is no JSON, or cannot be opened.
    """
    try:
        return json.loads(path.read_bytes())
    except PermissionError:
        raise AnnotationError(path, "may not be read", f"Try: chmod +r {path.name}") from None
    except OSError as error:
        raise AnnotationError(path, f"cannot be opened ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise AnnotationError(path, "is truncated or no JSON", "Export it again") from None
