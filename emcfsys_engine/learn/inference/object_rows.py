"""Objects of an image that comes in bands: kept on the disk until all are known.

H and W pixels, h rows.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from emcfsys_engine.annotations.numbered import MaskDigest
from emcfsys_engine.learn.inference.objects import ObjectFinder, values_of
from emcfsys_engine.model_card import ModelCard

_BLOCK_ROWS = 256


class ObjectRows:
    """Takes the bands of an image from top to bottom; then gives its rows with their objects.

    What waits lies in files without a name, in the folder of the output: they vanish with the
    process. Memory holds a band, and a few numbers for each object.
    Raises: OSError when the disk is full.
    """

    def __init__(self, folder: Path, size_HW: tuple[int, int], card: ModelCard) -> None:
        self._height, self._width = size_HW
        self._settings = card.objects
        self._finder = ObjectFinder(self._width, values_of(card))
        self._marks: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - see close
        self._mask: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._digest = MaskDigest()
        self._object_of: np.ndarray | None = None

    def add(self, mask: np.ndarray, planes: np.ndarray) -> None:
        """Take the next rows. Shapes: mask h×W class values, planes 2×h×W; both uint8."""
        self._digest.add(mask)
        self._mask.write(np.ascontiguousarray(mask).data)
        self._marks.write(np.ascontiguousarray(self._finder.add(mask, planes)).data)

    @property
    def of_mask(self) -> str:
        """What the objects' file says of the mask that it belongs to, when all rows are known."""
        return self._digest.words()

    def rows(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield first row, mask and objects, and once more of the rows around them.

        Shapes: mask h×W uint8; objects (h + 2)×W uint32, 0 where none is, with the row above the
        first and the one below the last, or copies of these where the image ends.
        """
        self._end()
        for first in range(0, self._height, _BLOCK_ROWS):
            last = min(self._height, first + _BLOCK_ROWS)
            above, below = max(0, first - 1), min(self._height, last + 1)
            numbers = self._numbers(above, below)
            pads = (1 - (first - above), 1 - (below - last))
            yield first, self._read_mask(first, last), np.pad(numbers, (pads, (0, 0)), mode="edge")

    def whole(self) -> np.ndarray:
        """Return the objects of all pixels. Shapes: uint32 H×W."""
        self._end()
        return self._numbers(0, self._height)

    def close(self) -> None:
        """Let go of what waits."""
        self._marks.close()
        self._mask.close()

    def _end(self) -> None:
        if self._object_of is None:
            marks, basins = self._finder.end()
            self._marks.write(np.ascontiguousarray(marks).data)
            self._object_of = basins.joined(self._settings)

    def _numbers(self, first: int, last: int) -> np.ndarray:
        assert self._object_of is not None
        marks = self._read(self._marks, first, last, np.dtype(np.int32))
        return self._object_of[marks]

    def _read_mask(self, first: int, last: int) -> np.ndarray:
        return self._read(self._mask, first, last, np.dtype(np.uint8))

    def _read(self, file: IO[bytes], first: int, last: int, kind: np.dtype) -> np.ndarray:
        file.seek(first * self._width * kind.itemsize)
        content = file.read((last - first) * self._width * kind.itemsize)
        return np.frombuffer(content, kind).reshape(last - first, self._width)


def outlines(numbers: np.ndarray) -> np.ndarray:
    """Return where an object's pixels touch what is not of it, above, below or at a side.

    Shapes: (h + 2)×W uint32 in, as `rows` gives them; bool h×W out.
    """
    own = numbers[1:-1]
    found = (own != numbers[:-2]) | (own != numbers[2:])
    found[:, 1:] |= own[:, 1:] != own[:, :-1]
    found[:, :-1] |= own[:, :-1] != own[:, 1:]
    return found & (own > 0)
