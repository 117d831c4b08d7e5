"""Find annotation files in a folder and read them, whatever tool wrote them."""

import functools
import importlib
import json
from pathlib import Path
from typing import Any

from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.errors import AnnotationError

_LARGEST_BYTES = 2 << 30
_JSON_READERS = ("labelme",)


def read_annotations(path: Path) -> tuple[Annotation, ...]:
    """Return the annotation of every image a file speaks of; the file is parsed once.

    Raises: AnnotationError for a file that cannot be read or is in no known format.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise AnnotationError(path, f"cannot be opened ({error.strerror})") from None
    return _read(path, status.st_mtime_ns, status.st_size)


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
    raise AnnotationError(path, "is JSON, but of no annotation tool known here")


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
