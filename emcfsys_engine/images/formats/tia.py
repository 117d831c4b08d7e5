"""FEI TIA series (.ser): one image or spectrum an element, its calibration beside it."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph, square_nm

DTYPES = {1: "u1", 2: "u2", 3: "u4", 4: "i1", 5: "i2", 6: "i4", 7: "f4", 8: "f8"}
_COMPLEX = (9, 10)
_SPECTRA = 0x4120
_LONGEST_PIXEL_M = 1e-3  # larger numbers are diffraction patterns in 1/m
_ELEMENT = struct.Struct("<ddiddiHII")
_WIDE_VERSION = 0x0220


@dataclass(frozen=True, kw_only=True)
class _Element:
    start: int
    dtype: np.dtype[np.generic]
    size_HW: tuple[int, int]
    step_m: tuple[float, float]


def probe(path: Path) -> ImageFacts:
    """Return the facts of a series from its header and first element."""
    with path.open("rb") as file:
        offsets = _offsets(path, file)
        first = _element(path, file, offsets[0])
    notes: tuple[str, ...] = ()
    if not is_length(first.step_m):
        notes = ("a diffraction pattern (its axes are in 1/m): no pixel size in nm",)
    return ImageFacts(
        path=path,
        format="TIA series",
        shape=first.size_HW,
        dtype=first.dtype.name,
        planes=len(offsets),
        pixel_nm=pixel_nm(first.step_m),
        bit_depth=first.dtype.itemsize * 8,
        notes=notes,
    )


def read(path: Path, plane: int) -> Micrograph:
    """Return one element of the series."""
    with path.open("rb") as file:
        offsets = _offsets(path, file)
        if not 0 <= plane < len(offsets):
            what = f"has {len(offsets)} planes, counted from 0, so there is no #{plane}"
            raise ImageError(path, what)
        element = _element(path, file, offsets[plane])
        file.seek(element.start)
        height, width = element.size_HW
        flat = np.frombuffer(file.read(height * width * element.dtype.itemsize), element.dtype)
    return Micrograph(
        pixels=flat.reshape(height, width)[::-1],  # TIA counts rows from the bottom
        pixel_nm=pixel_nm(element.step_m),
        source=str(path) if len(offsets) == 1 else f"{path}#{plane}",
        bit_depth=element.dtype.itemsize * 8,
        info_bar_rows=0,
    )


def is_length(step_m: tuple[float, float]) -> bool:
    """Tell whether calibration steps are metres rather than 1/m."""
    return all(0 < abs(step) < _LONGEST_PIXEL_M for step in step_m)


def pixel_nm(step_m: tuple[float, float]) -> tuple[float, float] | None:
    """Return the calibration (y, x) in nm, or None when it is no length."""
    return square_nm(step_m[0], step_m[1], "m") if is_length(step_m) else None


def _offsets(path: Path, file: BinaryIO) -> list[int]:
    """Return where each whole element lies."""
    start = file.read(34)
    try:
        _order, _series, version, kind, _tag, total, valid = struct.unpack_from("<HHHIIII", start)
        wide = version >= _WIDE_VERSION
        (table,) = struct.unpack_from("<Q" if wide else "<I", start, 22)
    except struct.error:
        raise ImageError(path, "is truncated inside its header", "Copy it again") from None
    if kind == _SPECTRA:
        raise ImageError(path, "is a spectrum or a series of spectra, not a micrograph")
    width = 8 if wide else 4
    if not 0 < valid <= total or table + total * width > path.stat().st_size:
        raise ImageError(path, "is truncated or holds no image", "Copy it again")
    file.seek(table)
    raw = file.read(valid * width)
    return list(struct.unpack(f"<{valid}{'Q' if wide else 'I'}", raw))


def _element(path: Path, file: BinaryIO, offset: int) -> _Element:
    file.seek(offset)
    raw = file.read(_ELEMENT.size)
    if len(raw) < _ELEMENT.size:
        raise ImageError(path, "is truncated before its pixels", "Copy it again")
    _x0, step_x, _xe, _y0, step_y, _ye, kind, width, height = _ELEMENT.unpack(raw)
    if kind in _COMPLEX:
        raise ImageError(path, "holds a Fourier transform (complex numbers), not a micrograph")
    if kind not in DTYPES:
        raise ImageError(path, f"has data type {kind}, which is not known here", "Copy it again")
    dtype = np.dtype("<" + DTYPES[kind])
    start = offset + _ELEMENT.size
    left = path.stat().st_size - start
    refuse_false_promise(path, (height, width), dtype.itemsize, "none", left)
    return _Element(start=start, dtype=dtype, size_HW=(height, width), step_m=(step_y, step_x))
