"""A plane of any file, row by row: large images are never in memory as a whole."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.fence import fenced
from emcfsys_engine.images.micrograph import ImageFacts, ImageRef, Micrograph
from emcfsys_engine.images.quiet import quiet_libraries
from emcfsys_engine.images.recognise import reader_for

_BLOCK_BYTES = 32 << 20  # read at a time, at least one chunk of the file high


@dataclass(kw_only=True)
class PlaneRows:
    """One plane of an open file; `read` gives some of its rows.

    Not for several threads at a time. Close it when done.
    Shapes: shape is (H, W) or (H, W, C).
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

        Shapes: (last - first)×W or (last - first)×W×C, in the machine's byte order.
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
        return cast("_RowReader", reader).open_rows(ref.path, ref.plane or 0)


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


def stored_rows(
    path: Path, stream: Stream, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Callable[[int, int], np.ndarray]:
    """Return a reader of rows that lie uncompressed, one after the other, from byte `start` on.

    Read, not mapped: a file that is rewritten while it is mapped would end the process.
    Shapes: shape is that of the plane; dtype is as stored, the rows have the machine's byte order.
    """
    row_items = math.prod(shape[1:])

    def read(first: int, last: int) -> np.ndarray:
        stream.seek(start + first * row_items * dtype.itemsize)
        wanted = (last - first) * row_items * dtype.itemsize
        raw = stream.read(wanted)
        if len(raw) < wanted:
            missing = f"{wanted - len(raw):,} of its bytes are missing"
            raise ImageError(path, f"is truncated: {missing}", "Copy it again")
        rows = np.frombuffer(raw, dtype).reshape(last - first, *shape[1:])
        return rows.astype(dtype.newbyteorder("="), copy=False)

    return read


def rows_from(
    facts: ImageFacts,
    plane: int,
    read_chunk: Callable[[int, int], np.ndarray],
    *,
    chunk_rows: int = 1,
    shape: tuple[int, ...] | None = None,
) -> PlaneRows:
    """Return the rows of a plane by the facts of its file.

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
    )
