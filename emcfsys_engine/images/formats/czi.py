"""Zeiss CZI, read by Zeiss's own library where it is installed."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph, square_nm
from emcfsys_engine.images.rows import PlaneRows, rows_from, whole

try:
    from pylibCZIrw import czi as library
except ImportError:  # there is no wheel for every machine
    library = None

_DTYPES = {
    "Gray8": "uint8",
    "Gray16": "uint16",
    "Gray32Float": "float32",
    "Bgr24": "uint8",
    "Bgr48": "uint16",
}
_PLANE_AXES = "TZC"


def probe(path: Path) -> ImageFacts:
    """Return the facts of a CZI file from its directory."""
    with _Opened(path) as document:
        return _facts(path, document)


def read(path: Path, plane: int) -> Micrograph:
    """Return one plane: times, then heights, then channels are counted."""
    return whole(open_rows(path, plane))


def open_rows(path: Path, plane: int) -> PlaneRows:
    """Return one plane row by row: the library decodes the sub-blocks that lie there."""
    with ExitStack() as stack:
        opened = _Opened(path)
        document = stack.enter_context(opened)
        facts = _facts(path, document)
        counts = _counts(document)
        number = min(max(plane, 0), facts.planes - 1)  # one that is not there: said by rows_from
        place = np.unravel_index(number, list(counts.values())) if counts else ()
        where = {axis: int(n) for axis, n in zip(counts, place, strict=True)}
        box: Mapping[str, tuple[int, int]] = document.total_bounding_box
        left, top, width = box["X"][0], box["Y"][0], facts.shape[1]

        def read(first: int, last: int, begin: int = 0, end: int = width) -> np.ndarray:
            try:
                region = (left + begin, top + first, end - begin, last - first)
                pixels = np.asarray(document.read(roi=region, plane=where))
            except Exception as error:
                raise opened.damaged(error) from None
            # Colours are stored blue first.
            return np.ascontiguousarray(
                pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., ::-1]
            )

        rows = rows_from(facts, plane, read, read_part=read)
        rows.resources = stack.pop_all()
        return rows


class _Opened:
    """An open CZI document whose every failure is an ImageError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._context: Any = None

    def __enter__(self) -> Any:
        if library is None:
            raise ImageError(
                self._path, "is a Zeiss CZI file, and its reader is not installed here",
                "Try: pip install pylibCZIrw, or export it as TIFF",
            )  # fmt: skip
        try:
            self._context = library.open_czi(str(self._path))
            return self._context.__enter__()
        except Exception as error:
            raise self.damaged(error) from None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._context.__exit__(None, None, None)
        if isinstance(error, Exception) and not isinstance(error, ImageError):
            raise self.damaged(error) from None

    def damaged(self, error: Exception) -> ImageError:
        """Return what is said of a file that the library stumbles over."""
        words = " ".join(str(error).split())[:100] or type(error).__name__
        return ImageError(
            self._path, f"is a truncated or damaged CZI file ({words})", "Copy it again"
        )


def _counts(document: Any) -> dict[str, int]:
    box: Mapping[str, tuple[int, int]] = document.total_bounding_box
    return {axis: box[axis][1] - box[axis][0] for axis in _PLANE_AXES if axis in box}


def _facts(path: Path, document: Any) -> ImageFacts:
    box: Mapping[str, tuple[int, int]] = document.total_bounding_box
    height, width = (box[axis][1] - box[axis][0] for axis in "YX")
    kind = str(next(iter(document.pixel_types.values())))
    if kind not in _DTYPES:
        raise ImageError(path, f"has pixels of the kind {kind}, which is not known here")
    dtype = np.dtype(_DTYPES[kind])
    colour = kind.startswith("Bgr")
    refuse_false_promise(path, (height, width), dtype.itemsize, "other")
    return ImageFacts(
        path=path,
        format="CZI",
        shape=(height, width, 3) if colour else (height, width),
        dtype=dtype.name,
        planes=math.prod(_counts(document).values()),
        pixel_nm=_pixel_nm(document),
        bit_depth=dtype.itemsize * 8,
    )


def _pixel_nm(document: Any) -> tuple[float, float] | None:
    try:
        items = document.metadata["ImageDocument"]["Metadata"]["Scaling"]["Items"]["Distance"]
        metres = {item["@Id"]: float(item["Value"]) for item in items}
        return square_nm(metres["Y"], metres["X"], "m")
    except (KeyError, TypeError, ValueError):
        return None
