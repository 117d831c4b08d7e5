"""One plane of a TIFF row by row, by its strips or tiles."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

_JPEG = (6, 7, 34892, 33007)
_MOST_STRIP_BYTES = 256 << 20  # a file in one larger strip is better read whole, once


def segmented(
    path: Path, tiff: tifffile.TiffFile, page: Any, shape: tuple[int, ...]
) -> tuple[Callable[[int, int], np.ndarray], int] | None:
    """Return a reader of rows and the rows of a segment; None if there is but one large strip."""
    key = page.keyframe
    high = int(key.tilelength if key.is_tiled else key.rowsperstrip)
    dtype = np.dtype(key.dtype).newbyteorder("=")
    if high >= shape[0] and math.prod(shape) * dtype.itemsize > _MOST_STRIP_BYTES:
        return None
    across = -(-shape[1] // int(key.tilewidth)) if key.is_tiled else 1
    options: dict[str, Any] = {}
    if key.compression in _JPEG:
        options = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}

    def read(first: int, last: int) -> np.ndarray:
        rows = np.zeros((last - first, *shape[1:]), dtype)
        numbers = range(first // high * across, -(-last // high) * across)
        offsets = [page.dataoffsets[n] for n in numbers]
        counts = [page.databytecounts[n] for n in numbers]
        found: Any
        for found in tiff.filehandle.read_segments(offsets, counts, flat=True):
            data, index = found
            made, place, size = key.decode(data, numbers[index], **options, _fullsize=False)
            if made is None:  # a segment that was left out: nothing but 0
                continue
            top, left = place[2] - first, place[3]
            block = made[0] if len(shape) == 3 else made[0, ..., 0]
            below = min(size[1], rows.shape[0] - top)
            wide = min(size[2], shape[1] - left)
            rows[top : top + below, left : left + wide] = block[:below, :wide]
        return rows

    return read, high
