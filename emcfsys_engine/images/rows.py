"""A plane of any file, row by row: large images are never in memory as a whole."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import fenced, quiet_libraries
from emcfsys_engine.images.micrograph import ImageFacts, ImageRef, Micrograph
from emcfsys_engine.images.normalise import (
    Normaliser,
    find_info_bar_of_rows,
    has_equal_channels,
    has_no_number,
    luminance,
    sample_stride,
)
from emcfsys_engine.images.reader import reader_for
from emcfsys_engine.images.side_cars import pixel_nm_beside

_BLOCK_BYTES = 32 << 20  # read at a time, at least one chunk of the file high


@dataclass(kw_only=True)
class PlaneRows:
    """One plane of an open file; `read` gives some of its rows.

    Not for several threads at a time. Close it when done.
    Shapes: shape is (H, W) or (H, W, C); dtype is that of the rows, as stored: bool, integers or
            floats.
    Units:  pixel_nm is (y, x).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    pixel_nm: tuple[float, float] | None
    source: str
    bit_depth: int
    info_bar_rows: int  # only what the header knows
    chunk_rows: int  # rows that the file holds together: reading one costs reading all
    read_chunk: Callable[[int, int], np.ndarray]  # (first, last), at multiples of chunk_rows
    # (first, last, left, right): of some columns no more is read than they need
    read_part: Callable[[int, int, int, int], np.ndarray] | None = None
    in_memory: bool = False
    resources: ExitStack = field(default_factory=ExitStack)
    _held: tuple[int, np.ndarray] | None = None

    @property
    def height(self) -> int:
        """Rows of the plane."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Columns of the plane."""
        return self.shape[1]

    def read(self, first: int, last: int) -> np.ndarray:
        """Return the rows from `first` up to, without, `last`.

        Shapes: (last - first)×W or (last - first)×W×C of `dtype`, in the machine's byte order.
        Raises: ImageError when the file is damaged there.
        """
        if self.in_memory:
            return self.read_chunk(first, last)
        step = self.block_rows
        parts: list[np.ndarray] = []
        for block in range(first // step, -(-last // step) if last > first else first // step):
            start = block * step
            pixels = self._block(start, min(self.height, start + step))
            parts.append(pixels[max(first - start, 0) : max(0, last - start)])
        if not parts:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def columns(self, left: int, right: int) -> "PlaneRows":
        """Return the columns from `left` up to, without, `right` as rows of the same open file."""
        if (left, right) == (0, self.width):
            return self
        part, is_cut = self.read_part, self.read_part is None
        return replace(
            self,
            shape=(self.height, right - left, *self.shape[2:]),
            read_chunk=(lambda first, last: self.read(first, last)[:, left:right])
            if part is None
            else (lambda first, last: part(first, last, left, right)),
            read_part=None,
            in_memory=is_cut,  # the whole rows are held
            resources=ExitStack(),
            _held=None,
        )

    @property
    def block_rows(self) -> int:
        """Rows that are read at a time."""
        row_bytes = max(1, int(np.prod(self.shape[1:])) * self.dtype.itemsize)
        chunks = max(1, _BLOCK_BYTES // (row_bytes * self.chunk_rows))
        return chunks * self.chunk_rows

    def _block(self, first: int, last: int) -> np.ndarray:
        if self._held is None or self._held[0] != first:
            self._held = None  # before the next one is made: two would be in memory
            with quiet_libraries(), fenced(Path(self.source)):
                self._held = first, self.read_chunk(first, last)
        return self._held[1]

    def close(self) -> None:
        """Close the file and forget what was read."""
        self._held = None
        self.resources.close()

    def __enter__(self) -> "PlaneRows":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream(Protocol):
    """An open file of bytes."""

    def seek(self, offset: int, /) -> int:
        """Go to a byte."""
        ...

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, fewer at the end."""
        ...


class _RowReader(Protocol):
    def open_rows(self, path: Path, plane: int) -> PlaneRows | None:
        """Return the plane row by row, or None where this file can only be read whole."""
        ...


def open_rows(ref: ImageRef) -> PlaneRows | None:
    """Return a plane that can be read row by row, or None when it can only be read whole.

    Uncompressed files of most kinds can, and chunked or striped ones.
    Raises: ImageError for what is no micrograph, or has no such plane.
    """
    with quiet_libraries(), fenced(ref.path):
        reader = reader_for(ref.path)
        if not hasattr(reader, "open_rows"):
            return None
        rows = cast("_RowReader", reader).open_rows(ref.path, ref.plane or 0)
    if rows is not None and rows.pixel_nm is None:
        rows.pixel_nm = pixel_nm_beside(ref.path, (rows.shape[0], rows.shape[1]))
    return rows


def rows_of(micrograph: Micrograph) -> PlaneRows:
    """Return an image in memory as rows."""
    pixels = micrograph.pixels
    return PlaneRows(
        shape=pixels.shape,
        dtype=pixels.dtype,
        pixel_nm=micrograph.pixel_nm,
        source=micrograph.source,
        bit_depth=micrograph.bit_depth,
        info_bar_rows=micrograph.info_bar_rows,
        chunk_rows=1,
        read_chunk=lambda first, last: pixels[first:last],
        in_memory=True,
    )


def whole(rows: PlaneRows) -> Micrograph:
    """Return all rows of a plane, and close its file."""
    with rows:
        return Micrograph(
            pixels=rows.read_chunk(0, rows.height),
            pixel_nm=rows.pixel_nm,
            source=rows.source,
            bit_depth=rows.bit_depth,
            info_bar_rows=rows.info_bar_rows,
        )


@dataclass(frozen=True)
class StoredRows:
    """Reads rows that lie uncompressed, one after the other, from byte `start` on.

    Read, not mapped: a file that is rewritten while it is mapped would end the process.
    Shapes: shape is that of the plane; dtype is as stored, the rows have the machine's byte order.
    """

    path: Path
    stream: Stream
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __call__(self, first: int, last: int) -> np.ndarray:
        """Return whole rows."""
        size = (last - first, self.shape[1])
        return self._made(self._items(first, 0, *size), size)

    def part(self, first: int, last: int, left: int, right: int) -> np.ndarray:
        """Return some columns of rows: what lies between them is not read.

        Shapes: h×w or h×w×C, dtype as stored.
        """
        if (left, right) == (0, self.shape[1]):
            return self(first, last)
        raw = b"".join(self._items(row, left, 1, right - left) for row in range(first, last))
        return self._made(raw, (last - first, right - left))

    def _items(self, row: int, column: int, rows: int, columns: int) -> bytes:
        pixel_bytes = math.prod(self.shape[2:]) * self.dtype.itemsize
        self.stream.seek(self.start + (row * self.shape[1] + column) * pixel_bytes)
        wanted = rows * columns * pixel_bytes
        raw = self.stream.read(wanted)
        if len(raw) < wanted:
            missing = f"{wanted - len(raw):,} of its bytes are missing"
            raise ImageError(self.path, f"is truncated: {missing}", "Copy it again")
        return raw

    def _made(self, raw: bytes, size_HW: tuple[int, int]) -> np.ndarray:
        made = np.frombuffer(raw, self.dtype).reshape(*size_HW, *self.shape[2:])
        return made.astype(self.dtype.newbyteorder("="), copy=False)


def rows_from(
    facts: ImageFacts,
    plane: int,
    read_chunk: Callable[[int, int], np.ndarray],
    *,
    chunk_rows: int = 1,
    shape: tuple[int, ...] | None = None,
    read_part: Callable[[int, int, int, int], np.ndarray] | None = None,
) -> PlaneRows:
    """Return the rows of a plane by the facts of its file.

    `read_part`: of some columns, where those beside them need not be read.
    Shapes: `read_chunk` gives rows×W, `read_part` rows×w, or with ×C; of the facts' dtype.
    Raises: ImageError if there is no such plane.
    """
    if not 0 <= plane < facts.planes:
        what = f"has {facts.planes} planes, counted from 0, so there is no #{plane}"
        raise ImageError(facts.path, what)
    return PlaneRows(
        shape=shape or facts.shape,
        dtype=np.dtype(facts.dtype),
        pixel_nm=facts.pixel_nm,
        source=str(facts.path) if facts.planes == 1 else f"{facts.path}#{plane}",
        bit_depth=facts.bit_depth,
        info_bar_rows=facts.info_bar_rows,
        chunk_rows=max(1, chunk_rows),
        read_chunk=read_chunk,
        read_part=read_part,
    )


_Four = tuple[float, float, float, float]  # as Normaliser.statistics


@dataclass(frozen=True, kw_only=True)
class Survey:
    """An image's statistics and how it becomes what a network reads."""

    info_bar_rows: int
    statistics: _Four  # of its greys
    is_coloured: bool  # channels differ: their luminance is the grey
    colours: tuple[_Four, ...] = ()  # of red, green and blue, for a network that reads them

    @property
    def per_channel(self) -> tuple[_Four, ...]:
        """The statistics of each channel that the network reads."""
        return self.colours or (self.statistics,)

    def read_as(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as the network reads them.

        Shapes: h×W or h×W×C of any real dtype; h×W or h×W×3 out, float32 where colours became
                grey, else dtype kept.
        """
        if not self.colours:
            return self.grey(rows)
        return rows[..., :3] if self.is_coloured else np.repeat(self.grey(rows)[..., None], 3, 2)

    def grey(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of one channel.

        Shapes: h×W or h×W×C of any real dtype; h×W out, float32 where coloured, else dtype kept.
        """
        if rows.ndim == 2:
            return rows
        return luminance(rows) if self.is_coloured else rows[..., 0]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The specimen without the constant rows and columns around it."""

    top: int
    bottom: int
    left: int
    right: int


def survey(
    rows: PlaneRows,
    normaliser: Normaliser,
    *,
    info_bar_rows: int | None = None,
    channels: int = 1,
) -> Survey:
    """Read an image once, in most cases, and return its statistics.

    A bar that was looked for already is given as `info_bar_rows`; `channels`: 3 for a network that
    reads colours.
    Raises: ImageError when the file is damaged, or holds no finite number.
    """
    bar = rows.info_bar_rows if info_bar_rows is None else info_bar_rows
    if not bar and info_bar_rows is None:
        bar = find_info_bar_of_rows(_first_channel(rows), rows.shape[:2], rows.dtype)
    coloured = len(rows.shape) == 3 and rows.shape[2] >= 3 and not _is_grey(rows)
    found = Survey(info_bar_rows=bar, statistics=(0.0, 0.0, 0.0, 0.0), is_coloured=coloured)
    height = rows.height - bar
    if height <= 0 or rows.width == 0:
        return found
    grey = _Channel(rows, found.grey, height)
    sample = _sample(grey, height, rows.width)
    if has_no_number(sample) and all(has_no_number(band) for _, band in grey.bands(0, height)):
        raise ImageError(rows.source, "holds no finite number", "Leave it out, or write it again")
    greys = normaliser.statistics_of(sample)
    return Survey(
        info_bar_rows=bar,
        statistics=greys,
        is_coloured=coloured,
        colours=_colours(rows, normaliser, height, coloured, greys) if channels > 1 else (),
    )


def _colours(
    rows: PlaneRows, normaliser: Normaliser, height: int, coloured: bool, greys: _Four
) -> tuple[_Four, ...]:
    """Return the statistics of red, green and blue; those of the greys where there is no colour."""
    if not coloured:
        return (greys,) * 3
    picks = (lambda pixels, n=n: pixels[..., n] for n in range(3))
    samples = (_sample(_Channel(rows, pick, height), height, rows.width) for pick in picks)
    return tuple(normaliser.statistics_of(sample) for sample in samples)


class _Channel:
    """The rows of the specimen in one channel."""

    def __init__(
        self, rows: PlaneRows, pick: Callable[[np.ndarray], np.ndarray], height: int
    ) -> None:
        self._rows = rows
        self._pick = pick
        self.height = height

    def read(self, first: int, last: int) -> np.ndarray:
        return self._pick(self._rows.read(first, last))

    def bands(self, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows) along the blocks in which the file is read."""
        step = self._rows.block_rows
        while first < last:
            end = min(last, (first // step + 1) * step)
            yield first, self.read(first, end)
            first = end


def _first_channel(rows: PlaneRows) -> Callable[[int, int], np.ndarray]:
    def read(first: int, last: int) -> np.ndarray:
        pixels = rows.read(first, last)
        return pixels if pixels.ndim == 2 else pixels[..., 0]

    return read


def _is_grey(rows: PlaneRows) -> bool:
    step = rows.block_rows
    return all(
        has_equal_channels(rows.read(first, min(rows.height, first + step)))
        for first in range(0, rows.height, step)
    )


def _sample(grey: _Channel, height: int, width: int) -> np.ndarray:
    top, bottom = _constant_rows(grey, height)
    edge = grey.read(top, top + 1)[0]
    left, right = _run(edge == edge[0]), _run((edge == edge[-1])[::-1])
    if left == 0 and right == 0:  # columns cannot be constant: the usual image, read once
        return _strided(grey, _Frame(top=top, bottom=bottom, left=0, right=width))
    return _strided(grey, _with_columns(grey, top, bottom, width))


def _strided(grey: _Channel, frame: _Frame) -> np.ndarray:
    stride = sample_stride((frame.bottom - frame.top) * (frame.right - frame.left))
    parts: list[np.ndarray] = []
    for first, band in grey.bands(frame.top, frame.bottom):
        skip = -(first - frame.top) % stride
        parts.append(band[skip::stride, frame.left : frame.right : stride].ravel())
    return np.concatenate(parts)


def _constant_rows(grey: _Channel, height: int) -> tuple[int, int]:
    """Return where the specimen begins and ends; an image all constant keeps all its rows."""
    corner = grey.read(0, 1)[0, 0]
    top = 0
    for first, band in grey.bands(0, height):
        run = _run((band == corner).all(axis=1))
        top = first + run
        if run < len(band):
            break
    if top == height:
        return 0, height
    corner = grey.read(height - 1, height)[0, 0]
    bottom = height
    while bottom > top:
        first = max(top, bottom - 64)
        run = _run((grey.read(first, bottom) == corner).all(axis=1)[::-1])
        bottom -= run
        if bottom > first:
            break
    return (top, bottom) if top < bottom else (0, height)


def _with_columns(grey: _Channel, top: int, bottom: int, width: int) -> _Frame:
    edge = grey.read(top, top + 1)[0]
    left, right = width, width  # constant columns at either side
    for _, band in grey.bands(top, bottom):
        left = min(left, _run((band[:, :left] == edge[0]).all(axis=0)))
        right = min(right, _run((band[:, width - right :] == edge[-1]).all(axis=0)[::-1]))
        if left == 0 and right == 0:
            break
    left = min(left, width - 1)
    return _Frame(top=top, bottom=bottom, left=left, right=max(width - right, left + 1))


def _run(flags: np.ndarray) -> int:
    """Return how many values at the beginning are true."""
    return len(flags) if flags.all() else int(np.argmin(flags))
