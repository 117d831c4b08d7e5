"""MRC, MAP, REC, ST: electron microscopy's own stack format (MRC2014 and its older forms)."""

import io
import math
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph, sides_words, square_nm
from emcfsys_engine.images.rows import PlaneRows, StoredRows, rows_from

_HEADER_BYTES = 1024
_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_COMPLEX_MODES = (3, 4)
_IMOD_STAMP = 1146047817  # "IMOD"
_UNSET_NM = (0.1, 0.1)  # 1 Å a pixel is what a cell says that nobody set
_FEI_PIXEL_AT = 156  # in FEI1 and FEI2 extended headers: two float64, x and y, in metres


@dataclass(frozen=True, kw_only=True)
class Header:
    size_ZYX: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    start: int  # byte of the first pixel
    pixel_nm: tuple[float, float] | None
    is_volume: bool
    notes: tuple[str, ...] = ()


def probe(path: Path) -> ImageFacts:
    """Return the facts of an MRC file from its header."""
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES + 256)
    return facts_of(path, _parse(path, start, path.stat().st_size), "MRC")


def read(path: Path, plane: int) -> Micrograph:
    """Return one plane; of a large stack only this plane is read."""
    with path.open("rb") as file:
        header = _parse(path, file.read(_HEADER_BYTES + 256), path.stat().st_size)
        return read_plane(path, header, plane, file)


def open_rows(path: Path, plane: int) -> PlaneRows:
    """Return one plane row by row."""
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        header = _parse(path, file.read(_HEADER_BYTES + 256), path.stat().st_size)
        _, height, width = header.size_ZYX
        start = header.start + plane * height * width * header.dtype.itemsize
        read = StoredRows(path, file, start, (height, width), header.dtype)
        rows = rows_from(facts_of(path, header, "MRC"), plane, read, read_part=read.part)
        rows.resources = stack.pop_all()
        return rows


def parse_packed(path: Path, start: bytes, file_bytes: int) -> Header:
    """Return the header of an MRC file found inside a compressed one."""
    return _parse(path, start, file_bytes)


def facts_of(path: Path, header: Header, name: str) -> ImageFacts:
    """Return the facts that a header states."""
    planes, height, width = header.size_ZYX
    notes = ("a volume: its planes are slices, counted from 0",) if header.is_volume else ()
    return ImageFacts(
        path=path,
        format=name,
        shape=(height, width),
        dtype=header.dtype.newbyteorder("=").name,
        planes=planes,
        pixel_nm=header.pixel_nm,
        bit_depth=header.dtype.itemsize * 8,
        notes=(*notes, *header.notes),
    )


def read_plane(
    path: Path, header: Header, plane: int, file: io.BufferedIOBase | io.BufferedReader
) -> Micrograph:
    """Return one plane from an open file that is placed anywhere."""
    planes, height, width = header.size_ZYX
    if not 0 <= plane < planes:
        raise ImageError(path, f"has {planes} planes, counted from 0, so there is no #{plane}")
    wanted = height * width * header.dtype.itemsize
    file.seek(header.start + plane * wanted)
    pixels = np.frombuffer(file.read(wanted), header.dtype)
    if pixels.size < height * width:
        raise ImageError(path, f"is truncated: plane #{plane} is not whole", "Copy it again")
    native = pixels.reshape(height, width).astype(header.dtype.newbyteorder("="), copy=False)
    return Micrograph(
        pixels=native,
        pixel_nm=header.pixel_nm,
        source=str(path) if planes == 1 else f"{path}#{plane}",
        bit_depth=header.dtype.itemsize * 8,
        info_bar_rows=0,
    )


def _parse(path: Path, start: bytes, file_bytes: int) -> Header:
    if len(start) < _HEADER_BYTES:
        raise ImageError(path, "is truncated: an MRC header has 1,024 bytes", "Copy it again")
    order = _byte_order(start)
    words = struct.unpack(f"{order}256i", start[:_HEADER_BYTES])
    numbers = struct.unpack(f"{order}256f", start[:_HEADER_BYTES])
    width, height, planes, mode = words[:4]
    if mode in _COMPLEX_MODES:
        raise ImageError(
            path,
            "holds a Fourier transform (complex numbers), not a micrograph",
            "Export the image",
        )
    if mode not in _DTYPES:
        what = f"has MRC mode {mode}, which is not known here"
        raise ImageError(path, what, "Known are 0, 1, 2, 6 and 12")
    dtype = np.dtype("u1" if mode == 0 and _is_unsigned(words) else f"{order}{_DTYPES[mode]}")
    extended = max(0, words[23])
    pixel_start = _HEADER_BYTES + extended
    if pixel_start > file_bytes:
        raise ImageError(path, "is truncated inside its extended header", "Copy it again")
    size = (planes, height, width)
    refuse_false_promise(path, size, dtype.itemsize, "none", file_bytes - pixel_start)
    pixel_nm, notes = _pixel_nm(words, numbers, start)
    return Header(
        size_ZYX=size,
        dtype=dtype,
        start=pixel_start,
        pixel_nm=pixel_nm,
        is_volume=planes > 1 and words[22] > 0,
        notes=notes,
    )


def _is_unsigned(words: tuple[int, ...]) -> bool:
    """Tell whether bytes of mode 0 count from 0, as IMOD's do unless their flag says otherwise.

    Source: IMOD's MRC format page: word 39 is the stamp, the first bit of word 40 "signed bytes".
    """
    return words[38] == _IMOD_STAMP and not words[39] & 1


def _byte_order(start: bytes) -> str:
    stamp = start[212:214]
    if stamp[:1] == b"\x11":
        return ">"
    if stamp[:1] == b"\x44":
        return "<"
    # Older files have no stamp: the mode is a small number in the right order only.
    return "<" if struct.unpack("<i", start[12:16])[0] in range(128) else ">"


def _pixel_nm(
    words: tuple[int, ...], numbers: tuple[float, ...], start: bytes
) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Return (y, x), and what is to be said of it.

    FEI's own header has it, too, which programs keep as it is when they bin an image: where the two
    are not the same none is used.
    """
    by_cell, by_fei = _of_cell(words, numbers), _of_fei(start)
    if by_cell is None or by_fei is None or by_cell == _UNSET_NM:
        return by_fei or by_cell, ()
    if all(math.isclose(a, b, rel_tol=0.02) for a, b in zip(by_cell, by_fei, strict=True)):
        return by_fei, ()
    told = f"{sides_words(by_fei)} and {sides_words(by_cell)} nm"
    return None, (f"two pixel sizes disagree ({told}): none is used",)


def _of_fei(start: bytes) -> tuple[float, float] | None:
    if start[104:108] not in (b"FEI1", b"FEI2") or len(start) < 1024 + _FEI_PIXEL_AT + 16:
        return None
    across, down = struct.unpack_from(f"{_byte_order(start)}2d", start, 1024 + _FEI_PIXEL_AT)
    return square_nm(down, across, "m") if across > 0 and down > 0 else None


def _of_cell(words: tuple[int, ...], numbers: tuple[float, ...]) -> tuple[float, float] | None:
    """Return (y, x) from the cell's size in ångström; columns may run along any of its axes."""
    counts, cell, axes = words[7:10], numbers[10:13], words[16:19]
    if sorted(axes) != [1, 2, 3]:
        axes = (1, 2, 3)
    sides: list[float] = []
    for axis in (axes[1] - 1, axes[0] - 1):
        if counts[axis] <= 0 or not cell[axis] > 0:
            return None
        sides.append(cell[axis] / counts[axis])
    return square_nm(sides[0], sides[1], "A")
