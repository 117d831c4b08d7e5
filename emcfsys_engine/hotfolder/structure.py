"""Is a file whole? Told by its format's own structure, without decoding; standard library only."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

Verdict = Literal["whole", "growing", "unknown"]
_MAX_DIRECTORIES = 100_000  # of a TIFF: a loop in its chain must end
_MRC_BYTES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2}  # a pixel, by mode
_TIFF_TYPES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8}  # bytes of the types that hold offsets and counts


def look(file: Path) -> Verdict:
    """Tell whether a file is whole; "unknown" where its format does not say.

    Raises: OSError if it cannot be opened.
    """
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(256)
        for is_this, judge in _FORMATS:
            if is_this(start, file.suffix.lower()):
                try:
                    return "whole" if judge(stream, size) else "growing"
                except (struct.error, IndexError, ValueError, OverflowError):
                    return "growing"  # a structure that cannot be followed yet
    return "unknown"


def _png(stream: BinaryIO, size: int) -> bool:
    stream.seek(max(0, size - 12))
    return stream.read(12)[4:8] == b"IEND"


def _jpeg(stream: BinaryIO, size: int) -> bool:
    stream.seek(max(0, size - 64))
    return b"\xff\xd9" in stream.read(64)  # some writers pad the end


def _bmp(stream: BinaryIO, size: int) -> bool:
    stream.seek(2)
    return struct.unpack("<I", stream.read(4))[0] <= size


def _mrc(stream: BinaryIO, size: int) -> bool:
    stream.seek(0)
    header = stream.read(1024)
    for order in ("<", ">"):
        columns, rows, sections, mode = struct.unpack(f"{order}4i", header[:16])
        extended = struct.unpack(f"{order}i", header[92:96])[0]
        if mode in _MRC_BYTES and min(columns, rows, sections) > 0 and extended >= 0:
            return 1024 + extended + columns * rows * sections * _MRC_BYTES[mode] <= size
    return False


def _hdf5(stream: BinaryIO, size: int) -> bool:
    """Compare with the end-of-file address in the superblock.

    Source: HDF5 File Format Specification 3.0, II.A.
    """
    stream.seek(8)
    version = stream.read(1)[0]
    stream.seek(40 if version < 2 else 28)
    return struct.unpack("<Q", stream.read(8))[0] <= size


def _tiff(stream: BinaryIO, size: int) -> bool:
    """Follow the directories: every strip or tile must lie inside the file.

    Source: TIFF 6.0, section 2; BigTIFF by the same rules with wider fields.
    """
    stream.seek(0)
    start = stream.read(16)
    order = "<" if start[:2] == b"II" else ">"
    is_big = struct.unpack(f"{order}H", start[2:4])[0] == 43
    place = struct.unpack(f"{order}Q", start[8:16])[0] if is_big else 0
    if not is_big:
        place = struct.unpack(f"{order}I", start[4:8])[0]
    if not place:
        return False
    seen: set[int] = set()
    while place and place not in seen and len(seen) < _MAX_DIRECTORIES:
        seen.add(place)
        place = _directory(stream, size, place, order, is_big)
        if place < 0:
            return False
    return True


def _directory(stream: BinaryIO, size: int, place: int, order: str, is_big: bool) -> int:
    """Return the next directory's place (0: none), or -1 if something lies outside the file."""
    count_code, entry_code, next_code = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I")
    if place >= size:
        return -1
    stream.seek(place)
    number = struct.unpack(f"{order}{count_code}", _exactly(stream, 8 if is_big else 2))[0]
    if number > 65_535:
        return -1
    entry_size = 20 if is_big else 12
    entries = _exactly(stream, number * entry_size)
    following = struct.unpack(f"{order}{next_code}", _exactly(stream, 8 if is_big else 4))[0]
    tags: dict[int, tuple[int, int, bytes]] = {}
    for index in range(number):
        entry = entries[index * entry_size : (index + 1) * entry_size]
        tag, kind, count, value = struct.unpack(f"{order}{entry_code}", entry)
        tags[tag] = (kind, count, value)
    for offsets, counts in ((273, 279), (324, 325)):
        if offsets in tags and counts in tags:
            starts = _numbers(stream, order, is_big, *tags[offsets])
            lengths = _numbers(stream, order, is_big, *tags[counts])
            if any(a + b > size for a, b in zip(starts, lengths, strict=False)):
                return -1
    return int(following)


def _numbers(
    stream: BinaryIO, order: str, is_big: bool, kind: int, count: int, value: bytes
) -> tuple[int, ...]:
    width = _TIFF_TYPES.get(kind)
    if width is None or count > 10_000_000:
        raise ValueError(f"TIFF type {kind}, count {count}")
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
    if count * width > len(value):
        place = struct.unpack(f"{order}{'Q' if is_big else 'I'}", value)[0]
        stream.seek(min(place, os.fstat(stream.fileno()).st_size))
        value = _exactly(stream, count * width)
    return struct.unpack(f"{order}{count}{code}", value[: count * width])


def _exactly(stream: BinaryIO, number: int) -> bytes:
    found = stream.read(number)
    if len(found) < number:
        raise ValueError("the file ends too early")
    return found


def _is_tiff(start: bytes, suffix: str) -> bool:
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


_FORMATS: tuple[tuple[Callable[[bytes, str], bool], Callable[[BinaryIO, int], bool]], ...] = (
    (lambda start, suffix: start[:8] == b"\x89PNG\r\n\x1a\n", _png),
    (lambda start, suffix: start[:3] == b"\xff\xd8\xff", _jpeg),
    (_is_tiff, _tiff),
    (lambda start, suffix: start[:8] == b"\x89HDF\r\n\x1a\n", _hdf5),
    (lambda start, suffix: start[:2] == b"BM" and suffix == ".bmp", _bmp),
    (lambda start, suffix: start[208:212] == b"MAP " or suffix in (".mrc", ".map"), _mrc),
)
