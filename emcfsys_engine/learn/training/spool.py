"""Arrays that are too many for the memory, in a file without a name: it goes with the process.

The system keeps in memory what of it is read often, and lets go of it when others need the room.
"""

import errno
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import IO

import numpy as np

from emcfsys_engine.files import file_system_of, is_network
from emcfsys_engine.settings import cache_home

_PART_BYTES = 4 << 30  # of a file, mapped at once: few files are open, however many arrays
_LEAVE_BYTES = 2 << 30  # of the disk to others
_ALIGN = 64


def spool_folder() -> Path:
    """Return where such files lie: in the user's cache, where that is on a disk of this machine."""
    cache = cache_home()
    if is_network(file_system_of(cache)):
        return Path(tempfile.gettempdir()) / f"emcfsys-{os.getuid()}" / "images"
    return cache / "images"


def make_spool_folder(folder: Path) -> None:
    """Make the folder, for us alone.

    Raises: OSError; PermissionError where somebody else made it, or the one above it, before us:
    whoever owns a folder in the common one for temporary files changes what we read back.
    """
    for place in (folder.parent, folder):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.stat().st_uid not in (os.geteuid(), place.parent.stat().st_uid):
            raise PermissionError(errno.EPERM, "belongs to another user", str(place))


class ArrayFile:
    """Writes arrays one after the other into an open file."""

    def __init__(self, stream: IO[bytes], folder: Path) -> None:
        self._stream, self._folder = stream, folder
        self.used = 0  # bytes

    def write(self, array: np.ndarray) -> int:
        """Write an array in C order; return its first byte.

        Written, not copied into a map: a disk that is full tells so, and does not kill.
        Shapes: any.
        Raises: OSError; also where little room would be left on the disk.
        """
        if shutil.disk_usage(self._folder).free < array.nbytes + _LEAVE_BYTES:
            raise OSError("little room is left on the disk")
        first = self.used
        self._stream.seek(first)
        self._stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._stream.flush()
        self.used += -(-array.nbytes // _ALIGN) * _ALIGN
        return first


class Spool:
    """Takes arrays one after the other; those that are given back read from the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: ArrayFile | None = None
        self._mapped = np.empty(0, np.uint8)
        self._is_full = False

    def keep(self, array: np.ndarray) -> np.ndarray | None:
        """Return the same array, in the file; None: there is no room for it on the disk.

        It may be written into, which nobody else sees.
        Shapes: any, dtype kept.
        """
        if self._is_full:
            return None
        try:
            place = self._written(array)
        except OSError:  # a full disk, a folder that is not ours
            self._is_full = True
            return None
        return place.view(array.dtype).reshape(array.shape)

    def _written(self, array: np.ndarray) -> np.ndarray:
        size = array.nbytes
        if self._file is None or self._file.used + size > len(self._mapped):
            self._file = self._begun(max(_PART_BYTES, size))
        first = self._file.write(array)
        return self._mapped[first : first + size]

    def _begun(self, size: int) -> ArrayFile:
        make_spool_folder(self._folder)
        stream = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - as long as we are
        weakref.finalize(self, stream.close)  # its map keeps the content
        os.truncate(stream.fileno(), size)
        self._mapped = np.memmap(stream, np.uint8, "r+", shape=(size,))
        return ArrayFile(stream, self._folder)
