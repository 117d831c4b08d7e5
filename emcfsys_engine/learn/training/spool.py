"""Arrays that are too many for the memory, in a file without a name: it goes with the process.

The system keeps in memory what of it is read often, and lets go of it when others need the room.
"""

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import IO

import numpy as np

_PART_BYTES = 4 << 30  # of a file, mapped at once: few files are open, however many arrays
_LEAVE_BYTES = 2 << 30  # of the disk to others
_ALIGN = 64


class Spool:
    """Takes arrays one after the other; those that are given back read from the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._mapped = np.empty(0, np.uint8)
        self._used = 0
        self._is_full = False

    def keep(self, array: np.ndarray) -> np.ndarray | None:
        """Return the same array, in the file; None: there is no room for it on the disk.

        It may be written into, which nobody else sees.
        Shapes: any, dtype kept.
        """
        if self._is_full:
            return None
        try:
            place = self._written(np.ascontiguousarray(array))
        except OSError:  # a full disk, a folder that is not ours
            self._is_full = True
            return None
        return place.view(array.dtype).reshape(array.shape)

    def _written(self, array: np.ndarray) -> np.ndarray:
        size = array.nbytes
        if self._file is None or self._used + size > len(self._mapped):
            self._begin(max(_PART_BYTES, size))
        assert self._file is not None
        if shutil.disk_usage(self._folder).free < size + _LEAVE_BYTES:
            raise OSError("little room is left on the disk")
        # Written, not copied into the map: a disk that is full tells so, and does not kill.
        self._file.seek(self._used)
        self._file.write(array.reshape(-1).view(np.uint8).data)
        self._file.flush()
        place = self._mapped[self._used : self._used + size]
        self._used += -(-size // _ALIGN) * _ALIGN
        return place

    def _begin(self, size: int) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - as long as we are
        weakref.finalize(self, self._file.close)  # its map keeps the content
        os.truncate(self._file.fileno(), size)
        self._mapped = np.memmap(self._file, np.uint8, "r+", shape=(size,))
        self._used = 0
