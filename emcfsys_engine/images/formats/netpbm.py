"""Netpbm (PBM, PGM, PPM) and PFM: a few numbers as text, then the pixels as they are.

Source: pbm(5), pgm(5) and ppm(5) of Netpbm; PFM by Paul Debevec's description.
"""

import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph
from emcfsys_engine.images.rows import PlaneRows, StoredRows, rows_from, whole

_HEADER_BYTES = 64 << 10  # with comments
_COLOURED = (b"P3", b"P6", b"PF")
_AS_TEXT = (b"P1", b"P2", b"P3")
_BITS = (b"P1", b"P4")
_FLOATS = (b"Pf", b"PF")
_LONGEST_WORD = 12  # 65535, with zeros before it


@dataclass(frozen=True, kw_only=True)
class _Header:
    kind: bytes
    shape: tuple[int, ...]
    largest: float  # maxval of Netpbm; PFM's scale, below 0 for little-endian
    start: int  # of the pixels

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """How a value is stored; text and bits become what this says."""
        if self.kind in _FLOATS:
            return np.dtype("<f4" if self.largest < 0 else ">f4")
        return np.dtype(">u2" if self.largest > 255 else "u1")

    @property
    def stored_bytes(self) -> int:
        """The bytes of the pixels; of text the fewest there can be."""
        height, width = self.shape[:2]
        if self.kind == b"P4":
            return height * (-(-width // 8))
        numbers = math.prod(self.shape)
        if self.kind in _AS_TEXT:
            return numbers if self.kind == b"P1" else 2 * numbers - 1
        return numbers * self.dtype.itemsize


def probe(path: Path) -> ImageFacts:
    """Return the facts of the file's first image."""
    header = _header(path)
    floats = header.kind in _FLOATS
    names = {b"1": "PBM", b"2": "PGM", b"3": "PPM", b"4": "PBM", b"5": "PGM", b"6": "PPM"}
    return ImageFacts(
        path=path,
        format=names.get(header.kind[1:], "PFM"),
        shape=header.shape,
        dtype=header.dtype.newbyteorder("=").name,
        planes=1,
        pixel_nm=None,
        bit_depth=32 if floats else int(header.largest).bit_length(),
        notes=_notes(path, header),
    )


def read(path: Path, plane: int) -> Micrograph:
    """Return the pixels as stored; the 1 of a PBM is black, as everywhere."""
    return whole(open_rows(path, plane))


def open_rows(path: Path, plane: int) -> PlaneRows:
    """Return the rows; text is read at once, the rest as rows are asked for."""
    header = _header(path)
    facts = probe(path)
    if header.kind in _AS_TEXT:
        pixels = _from_text(path, header)
        return rows_from(facts, plane, lambda first, last: pixels[first:last])
    height, width = header.shape[:2]
    packed = header.kind == b"P4"
    stored = (height, -(-width // 8)) if packed else header.shape
    with ExitStack() as stack:
        stream = stack.enter_context(path.open("rb"))
        read_rows = StoredRows(path, stream, header.start, stored, header.dtype)

        def turned(first: int, last: int) -> np.ndarray:
            if packed:
                return 1 - np.unpackbits(read_rows(first, last), axis=1)[:, :width]
            if header.kind in _FLOATS:  # from the bottom up
                return np.ascontiguousarray(read_rows(height - last, height - first)[::-1])
            return read_rows(first, last)

        rows = rows_from(facts, plane, turned)
        rows.resources = stack.pop_all()
    return rows


def _header(path: Path) -> _Header:
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    kind = start[:2]
    wanted = 2 if kind in _BITS else 3
    words: list[bytes] = []
    at = 2
    while len(words) < wanted:
        # Each number follows blanks and comments; one blank ends the last.
        found = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([-+.\deE]{1,20})").match(start, at)
        if found is None:
            raise ImageError(
                path, f"is truncated inside its {kind.decode()} header", "Copy it again"
            )
        words.append(found[1])
        at = found.end()
    try:
        width, height = int(words[0]), int(words[1])
        largest = float(words[2]) if wanted == 3 else 1.0
    except ValueError:
        raise _damaged(path, "its header holds no numbers") from None
    if kind not in _FLOATS and not (1 <= largest <= 65_535 and largest == int(largest)):
        raise _damaged(path, f"its largest value is {words[-1].decode()}")
    if kind in _FLOATS and (not math.isfinite(largest) or largest == 0):
        raise _damaged(path, f"its scale is {words[-1].decode()}")
    shape = (height, width, 3) if kind in _COLOURED else (height, width)
    header = _Header(kind=kind, shape=shape, largest=largest, start=at + 1)
    left = max(0, path.stat().st_size - header.start)
    refuse_false_promise(path, shape, header.stored_bytes / max(1, math.prod(shape)), "none", left)
    return header


def _notes(path: Path, header: _Header) -> tuple[str, ...]:
    if header.kind in _AS_TEXT:
        return ()
    with path.open("rb") as file:
        file.seek(header.start + header.stored_bytes)
        following = file.read(3).lstrip()
    return ("several images: the first is used",) if following[:2] == header.kind else ()


def _from_text(path: Path, header: _Header) -> np.ndarray:
    """Return the numbers written after the header. Shapes: H×W or H×W×3."""
    with path.open("rb") as file:
        file.seek(header.start - 1)
        text = re.sub(rb"#[^\r\n]*", b" ", file.read())
    if header.kind == b"P1":  # its digits may stand without blanks
        digits = np.frombuffer(text, np.uint8)
        numbers = digits[(digits == ord("0")) | (digits == ord("1"))] - ord("0")
        return _shaped(path, header, 1 - numbers[: math.prod(header.shape)])
    words = text.split(maxsplit=math.prod(header.shape))[: math.prod(header.shape)]
    if max(map(len, words), default=0) > _LONGEST_WORD:
        raise _damaged(path, "it holds words that are no numbers")
    try:
        numbers = np.array(words, dtype=f"S{_LONGEST_WORD}").astype(np.int64)
    except ValueError:
        raise _damaged(path, "it holds words that are no numbers") from None
    if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) <= header.largest:
        raise _damaged(path, f"it holds values outside 0–{header.largest:.0f}")
    return _shaped(path, header, numbers)


def _shaped(path: Path, header: _Header, numbers: np.ndarray) -> np.ndarray:
    missing = math.prod(header.shape) - numbers.size
    if missing:
        raise ImageError(
            path, f"is truncated: {missing:,} of its values are missing", "Copy it again"
        )
    return numbers.reshape(header.shape).astype(header.dtype.newbyteorder("="))


def _damaged(path: Path, why: str) -> ImageError:
    return ImageError(path, f"is damaged: {why}", "Copy or export it again")
