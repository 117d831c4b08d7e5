"""Gatan DigitalMicrograph DM3 and DM4: the tag tree is walked, pixels are mapped, not loaded."""

import math
import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph, nm_per, square_nm
from emcfsys_engine.images.rows import PlaneRows, StoredRows, rows_from, whole

# Tag value types: number -> (struct letter, bytes).
_SIMPLE = {
    2: ("h", 2), 3: ("i", 4), 4: ("H", 2), 5: ("I", 4), 6: ("f", 4), 7: ("d", 8),
    8: ("b", 1), 9: ("b", 1), 10: ("b", 1), 11: ("q", 8), 12: ("Q", 8),
}  # fmt: skip
_STRUCT, _STRING, _ARRAY = 15, 18, 20
# ImageData.DataType -> numpy; the missing ones are complex numbers or packed transforms.
_DTYPES = {1: "i2", 2: "f4", 6: "u1", 7: "i4", 9: "i1", 10: "u2", 11: "u4", 12: "f8", 14: "u1"}
_COLOUR = (8, 23)  # four bytes a pixel: blue, green, red, unused
_COMPLEX = (3, 5, 13, 27, 28)
_MOST_TAGS = 500_000
_DEEPEST = 64
_SHORT_ARRAY = 4096

Path_ = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Array:
    """An array too large to be a word: where it lies in the file."""

    start: int
    count: int
    letter: str


@dataclass(frozen=True, kw_only=True)
class _Signal:
    """One entry of ImageList that is no thumbnail."""

    name: str
    sizes: tuple[int, ...]  # x first
    data_type: int
    start: int
    num_bytes: int
    scales: tuple[float, ...]
    units: tuple[str, ...]

    @property
    def kind(self) -> str:
        if self.data_type in _COMPLEX:
            return "a Fourier transform (complex numbers)"
        if any("eV" in unit for unit in self.units):
            return "a spectrum" if len(self.sizes) < 3 else "a spectrum image"
        if len(self.sizes) < 2 or min(self.sizes[:2]) < 2:
            return "a profile or spectrum"
        return "an image"


def probe(path: Path) -> ImageFacts:
    """Return the facts of a DM file from its tags."""
    order, version, signals = _signals(path)
    return _facts(path, version, order, *_only_image(path, signals))


def read(path: Path, plane: int) -> Micrograph:
    """Return one plane; of a large stack only this plane is read."""
    return whole(open_rows(path, plane))


def open_rows(path: Path, plane: int) -> PlaneRows:
    """Return one plane row by row."""
    order, version, signals = _signals(path)
    signal, rest = _only_image(path, signals)
    facts = _facts(path, version, order, signal, rest)
    dtype = _dtype(path, signal, order)
    width, height = signal.sizes[:2]
    in_colour = signal.data_type in _COLOUR
    shape = (height, width, 4) if in_colour else (height, width)
    start = signal.start + plane * math.prod(shape) * dtype.itemsize
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        stored = StoredRows(path, file, start, shape, dtype)
        read = _without_unused(stored) if in_colour else stored
        rows = rows_from(facts, plane, read, read_part=None if in_colour else stored.part)
        rows.resources = stack.pop_all()
        return rows


def _without_unused(
    stored: Callable[[int, int], np.ndarray],
) -> Callable[[int, int], np.ndarray]:
    """Stored are blue, green, red and a byte that is not used."""
    return lambda first, last: np.ascontiguousarray(stored(first, last)[..., 2::-1])


def _facts(
    path: Path, version: int, order: str, signal: _Signal, rest: list[_Signal]
) -> ImageFacts:
    dtype = _dtype(path, signal, order)
    width, height, *more = signal.sizes
    colour = signal.data_type in _COLOUR
    planes = int(np.prod(more)) if more else 1
    refuse_false_promise(
        path,
        (planes, height, width),
        dtype.itemsize * (4 if colour else 1),
        "none",
        min(signal.num_bytes, path.stat().st_size - signal.start),
    )
    notes: list[str] = []
    if rest:
        notes.append(f"also holds {', '.join(one.kind for one in rest[:5])}: not used")
    across, down = (nm_per(unit) for unit in (*signal.units, "", "")[:2])
    pixel_nm = None
    if across is not None and down is not None and len(signal.scales) > 1:
        pixel_nm = square_nm(signal.scales[1] * down, signal.scales[0] * across, "nm")
    elif any("1/" in unit or "rad" in unit for unit in signal.units[:2]):
        notes.append(
            f"a diffraction pattern (its axes are in {signal.units[0]}): no pixel size in nm"
        )
    return ImageFacts(
        path=path,
        format=f"DM{version}",
        shape=(height, width, 3) if colour else (height, width),
        dtype=dtype.newbyteorder("=").name,
        planes=planes,
        pixel_nm=pixel_nm,
        bit_depth=dtype.itemsize * 8,
        notes=tuple(notes),
    )


def _dtype(path: Path, signal: _Signal, order: str) -> np.dtype[Any]:
    if signal.data_type in _COLOUR:
        return np.dtype("u1")
    if signal.data_type not in _DTYPES:
        raise ImageError(path, f"has data type {signal.data_type}, which is not known here")
    return np.dtype(order + _DTYPES[signal.data_type])


def _only_image(path: Path, signals: list[_Signal]) -> tuple[_Signal, list[_Signal]]:
    images = [one for one in signals if one.kind == "an image"]
    if len(images) == 1:
        return images[0], [one for one in signals if one is not images[0]]
    if not signals:
        raise ImageError(path, "is a DM file without an image", "Export it again")
    if not images:
        kinds = " and ".join(dict.fromkeys(one.kind for one in signals))
        raise ImageError(path, f"is {kinds}, not a micrograph", "Export the image itself")
    names = ", ".join(
        f"{one.name or 'unnamed'} {'×'.join(map(str, one.sizes))}" for one in images[:5]
    )
    raise ImageError(
        path, f"is a multi-signal file with {len(images)} images ({names})", "Export the one to use"
    )


def _signals(path: Path) -> tuple[str, int, list[_Signal]]:
    """Return byte order, DM version and the signals that are no thumbnails."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walker = _Walker(path, data, size)
        try:
            tags = dict(walker.walk())
        except (struct.error, IndexError, RecursionError, OverflowError):
            raise ImageError(
                path, "is truncated or damaged inside its tags", "Copy it again"
            ) from None
    thumbnails = {
        value for tag, value in tags.items() if tag[0] == "Thumbnails" and tag[-1] == "ImageIndex"
    }
    numbers = sorted({int(tag[1]) for tag in tags if tag[0] == "ImageList" and tag[1].isdigit()})
    signals: list[_Signal] = []
    for number in numbers:
        signal = _signal(tags, number)
        if signal is not None and number not in thumbnails:
            signals.append(signal)
    return walker.order, walker.version, signals


def _signal(tags: dict[Path_, Any], number: int) -> _Signal | None:
    base = ("ImageList", str(number), "ImageData")
    data = tags.get((*base, "Data"))
    data_type = tags.get((*base, "DataType"))
    if not isinstance(data, _Array) or not isinstance(data_type, int):
        return None
    sizes = tuple(_numbered(tags, (*base, "Dimensions"), ()))
    calibrations = (*base, "Calibrations", "Dimension")
    scales = tuple(_numbered(tags, calibrations, ("Scale",)))
    units = tuple(str(unit) for unit in _numbered(tags, calibrations, ("Units",)))
    if not sizes or not all(isinstance(s, int) and s > 0 for s in sizes):
        return None
    return _Signal(
        name=str(tags.get(("ImageList", str(number), "Name"), "")),
        sizes=sizes,
        data_type=data_type,
        start=data.start,
        num_bytes=data.count * struct.calcsize(data.letter),
        scales=tuple(float(scale) for scale in scales),
        units=units,
    )


def _numbered(tags: dict[Path_, Any], base: Path_, tail: Path_) -> Iterator[Any]:
    for number in range(16):
        value = tags.get((*base, str(number), *tail))
        if value is None:
            return
        yield value


class _Walker:
    """Walks the tag tree; arrays are noted, not read."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path = path
        self.data = data
        self.size = size
        self.version = data[3]
        self.wide = self.version == 4
        place = 12 if self.wide else 8
        self.order = "<" if struct.unpack_from(">i", data, place)[0] == 1 else ">"
        self.at = place + 4
        self.tags = 0

    def walk(self) -> Iterator[tuple[Path_, Any]]:
        """Yield every tag's path and value."""
        yield from self._group((), 0)

    def _group(self, base: Path_, depth: int) -> Iterator[tuple[Path_, Any]]:
        if depth > _DEEPEST:
            raise ImageError(self.path, "is damaged: its tags are nested without end")
        self.at += 2  # sorted, open
        count = self._count()
        unnamed = 0
        for _ in range(count):
            self.tags += 1
            kind = self.data[self.at]
            if kind == 0 or self.tags > _MOST_TAGS:
                return
            (length,) = struct.unpack_from(">H", self.data, self.at + 1)
            name = self.data[self.at + 3 : self.at + 3 + length].decode("latin-1")
            self.at += 3 + length + (8 if self.wide else 0)
            if not name:
                name, unnamed = str(unnamed), unnamed + 1
            tag = (*base, name)
            if kind == 20:
                yield from self._group(tag, depth + 1)
            elif kind == 21:
                yield tag, self._value(is_pixels=tag[-2:] == ("ImageData", "Data"))
            else:
                raise ImageError(
                    self.path, "is truncated or damaged inside its tags", "Copy it again"
                )

    def _count(self) -> int:
        code, width = (">q", 8) if self.wide else (">i", 4)
        (count,) = struct.unpack_from(code, self.data, self.at)
        self.at += width
        return count

    def _value(self, *, is_pixels: bool = False) -> Any:
        self.at += 4  # %%%%
        length = self._count()
        if not 0 < length < 1000:
            raise ImageError(self.path, "is truncated or damaged inside its tags", "Copy it again")
        info = [self._count() for _ in range(length)]
        if info[0] in _SIMPLE:
            letter, width = _SIMPLE[info[0]]
            (value,) = struct.unpack_from(self.order + letter, self.data, self.at)
            self.at += width
            return value
        if info[0] == _STRING:
            return self._text(info[1])
        if info[0] == _STRUCT:
            self.at += self._struct_bytes(info)
            return None
        if info[0] == _ARRAY:
            return self._array(info, is_pixels=is_pixels)
        raise ImageError(self.path, "is truncated or damaged inside its tags", "Copy it again")

    def _array(self, info: list[int], *, is_pixels: bool) -> Any:
        """Return a short array of characters as text; the pixels of a tiny image look like one."""
        count = info[-1]
        start = self.at
        if info[1] == _STRUCT:
            width, letter = self._struct_bytes(info[1:]), "B"
        else:
            letter, width = _SIMPLE.get(info[1], ("", 0))
        if not width or not 0 <= count <= self.size:
            raise ImageError(self.path, "is truncated or damaged inside its tags", "Copy it again")
        self.at += count * width
        if info[1] == 4 and not is_pixels and count <= _SHORT_ARRAY and self.at <= self.size:
            return self.data[start : self.at].decode(
                "utf-16-le" if self.order == "<" else "utf-16-be", "replace"
            )
        return _Array(start=start, count=count * (width if letter == "B" else 1), letter=letter)

    def _struct_bytes(self, info: list[int]) -> int:
        fields = info[2]
        kinds = info[4 : 3 + 2 * fields + 1 : 2]
        return sum(_SIMPLE[kind][1] for kind in kinds if kind in _SIMPLE)

    def _text(self, length: int) -> str:
        if not 0 <= length <= self.size:
            raise ImageError(self.path, "is truncated or damaged inside its tags", "Copy it again")
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-16-le", "replace")
