"""FEI TIA: a series (.ser), an image or spectrum an element; the image that stands in an .emi.

The format of .emi is not published. What is used here holds for all files seen, also without their
.ser: a tag with the pixels' type, the byte length, width and height, the pixels, and then the two
calibration steps.
"""

import mmap
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph, square_nm

_DTYPES = {1: "u1", 2: "u2", 3: "u4", 4: "i1", 5: "i2", 6: "i4", 7: "f4", 8: "f8"}
_COMPLEX = (9, 10)
_SPECTRA = 0x4120
_LONGEST_PIXEL_M = 1e-3  # larger numbers are diffraction patterns in 1/m
_ELEMENT = struct.Struct("<ddiddiHII")
_WIDE_VERSION = 0x0220
_EMI = b"JK\0\2"
_PIXELS = re.compile(rb"\x02([\x01-\x08]).\x22\x02\x02(.{12})", re.DOTALL)
_STEPS = re.compile(rb"\x41\x00\x20\x01(.{8}).{8,32}?\x41\x00\x30\x01(.{8})", re.DOTALL)
_STEPS_WITHIN = 512


@dataclass(frozen=True, kw_only=True)
class _Element:
    start: int
    dtype: np.dtype[np.generic]
    size_HW: tuple[int, int]
    step_m: tuple[float, float] | None  # None: an .emi that does not tell


def probe(path: Path) -> ImageFacts:
    """Return the facts of a series from its header and first element, or of an .emi's images."""
    with path.open("rb") as file:
        is_emi, places = _places(path, file)
        first = _element(path, file, places[0])
        each = tuple(_pixel_nm_at(path, file, place) for place in places)
    differ = any(one != each[0] for one in each)
    notes: tuple[str, ...] = ()
    if is_emi and len({one.size_HW for one in places if isinstance(one, _Element)}) > 1:
        notes = ("its planes differ in size",)
    elif not is_emi and not _is_length(first.step_m):
        notes = ("a diffraction pattern (its axes are in 1/m): no pixel size in nm",)
    if differ:
        notes = (*notes, "its planes differ in pixel size: that of the first is told")
    return ImageFacts(
        path=path,
        format="TIA image" if is_emi else "TIA series",
        shape=first.size_HW,
        dtype=first.dtype.name,
        planes=len(places),
        pixel_nm=_pixel_nm(first.step_m),
        bit_depth=first.dtype.itemsize * 8,
        notes=notes,
        pixel_nm_each=each if differ else (),
    )


def _pixel_nm_at(path: Path, file: BinaryIO, place: int | _Element) -> tuple[float, float] | None:
    """Return the pixel size of one plane; None of one that is damaged, which reading it tells."""
    try:
        return _pixel_nm(_element(path, file, place).step_m)
    except ImageError:
        return None


def read(path: Path, plane: int) -> Micrograph:
    """Return one element of the series, or one of the images inside an .emi."""
    with path.open("rb") as file:
        _, places = _places(path, file)
        if not 0 <= plane < len(places):
            what = f"has {len(places)} planes, counted from 0, so there is no #{plane}"
            raise ImageError(path, what)
        element = _element(path, file, places[plane])
        file.seek(element.start)
        height, width = element.size_HW
        flat = np.frombuffer(file.read(height * width * element.dtype.itemsize), element.dtype)
    return Micrograph(
        pixels=flat.reshape(height, width)[::-1],  # TIA counts rows from the bottom
        pixel_nm=_pixel_nm(element.step_m),
        source=str(path) if len(places) == 1 else f"{path}#{plane}",
        bit_depth=element.dtype.itemsize * 8,
        info_bar_rows=0,
    )


def _is_length(step_m: tuple[float, float] | None) -> bool:
    """Tell whether calibration steps are metres rather than 1/m."""
    return step_m is not None and all(0 < abs(step) < _LONGEST_PIXEL_M for step in step_m)


def _pixel_nm(step_m: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the calibration (y, x) in nm, or None when it is no length."""
    return square_nm(*step_m, "m") if step_m is not None and _is_length(step_m) else None


def _places(path: Path, file: BinaryIO) -> tuple[bool, Sequence["int | _Element"]]:
    """Tell whether a file is an .emi, and where its images lie."""
    start = file.read(len(_EMI))
    file.seek(0)
    return (True, _inside(path, file)) if start == _EMI else (False, _offsets(path, file))


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


def _element(path: Path, file: BinaryIO, place: int | _Element) -> _Element:
    if isinstance(place, _Element):
        return place
    file.seek(place)
    raw = file.read(_ELEMENT.size)
    if len(raw) < _ELEMENT.size:
        raise ImageError(path, "is truncated before its pixels", "Copy it again")
    _x0, step_x, _xe, _y0, step_y, _ye, kind, width, height = _ELEMENT.unpack(raw)
    if kind in _COMPLEX:
        raise ImageError(path, "holds a Fourier transform (complex numbers), not a micrograph")
    if kind not in _DTYPES:
        raise ImageError(path, f"has data type {kind}, which is not known here", "Copy it again")
    dtype = np.dtype("<" + _DTYPES[kind])
    start = place + _ELEMENT.size
    left = path.stat().st_size - start
    refuse_false_promise(path, (height, width), dtype.itemsize, "none", left)
    return _Element(start=start, dtype=dtype, size_HW=(height, width), step_m=(step_y, step_x))


def _inside(path: Path, file: BinaryIO) -> list[_Element]:
    """Return the images inside an .emi."""
    images: list[_Element] = []
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0
        while found := _PIXELS.search(data, at):
            at = found.start() + 1
            image = _image(data, found)
            if image is not None:
                images.append(image)
                height, width = image.size_HW
                at = image.start + height * width * image.dtype.itemsize
    if not images:
        what = "holds no image: a spectrum, or only the description of a .ser file, or truncated"
        raise ImageError(path, what, "Use the .ser file beside it, or copy it again")
    return images


def _image(data: mmap.mmap, found: re.Match[bytes]) -> _Element | None:
    length, width, height = struct.unpack("<III", found[2])
    dtype = np.dtype("<" + _DTYPES[found[1][0]])
    count = width * height * dtype.itemsize
    if not count or length != count + 8 or found.end() + count > len(data):
        return None
    end = found.end() + count
    steps = _STEPS.search(data, end, min(len(data), end + _STEPS_WITHIN))
    step_m = None
    if steps:
        (across,), (down,) = (struct.unpack("<d", steps[n]) for n in (1, 2))
        step_m = (down, across)
    return _Element(start=found.end(), dtype=dtype, size_HW=(height, width), step_m=step_m)
