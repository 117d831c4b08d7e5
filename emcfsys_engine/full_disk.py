"""A full disk is no image's fault: the watch waits, and gives none up for it."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

LEAST_FREE_BYTES = 32 << 20  # below this nothing new is begun
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DiskFullError(OSError):
    """No space is left where masks, the ledger or events are written."""

    def __init__(self, place: Path | str) -> None:
        super().__init__(
            errno.ENOSPC, "no space left: free some, and the watch goes on", str(place)
        )

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def is_full(error: BaseException) -> bool:
    """Tell whether an error only says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def refuse_full(places: Iterable[Path]) -> None:
    """Check that every place has room for some masks more.

    Raises: DiskFullError naming the first that has not; a place that cannot be asked is not full.
    """
    for place in places:
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        # Of a small disk a quarter will do: it may be a quota of its own.
        needed = min(LEAST_FREE_BYTES, found.f_blocks * found.f_frsize // 4)
        if found.f_bavail * found.f_frsize < needed:
            raise DiskFullError(place)
