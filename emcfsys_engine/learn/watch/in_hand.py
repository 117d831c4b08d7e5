"""Which images a watch has in hand: one that ends the watch itself, for want of memory, is found.

Nothing can be said any more when the kernel ends a process: what is taken is noted before.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.files import open_own
from emcfsys_engine.hotfolder.scan import FoundFile
from emcfsys_engine.run.shards import MOST_TRIES
from emcfsys_engine.text import how_many

FILE = "in-hand.json"


class _Noted(msgspec.Struct, frozen=True, kw_only=True):
    paths: tuple[str, ...] = ()  # below the watched folder
    ends: dict[str, int] = {}  # of those that were in hand at an end: how often it was alone


class InHand:
    """Deals images that are ready; after a sudden end those that were in hand come one by one."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._ends: dict[str, int] = {}
        with suppress(OSError):
            noted = any_names.read(self._file, _Noted) or _Noted()
            is_alone = len(noted.paths) == 1
            self._ends = noted.ends | {
                path: noted.ends.get(path, 0) + is_alone for path in noted.paths
            }

    @property
    def told(self) -> str:
        """What is to be said after a sudden end; empty: there was none."""
        if not self._ends:
            return ""
        images = how_many(len(self._ends), "image")
        return f"The watch was ended suddenly: {images} it had in hand come last, one by one"

    @contextmanager
    def some_of(self, ready: Sequence[FoundFile]) -> Generator[list[FoundFile]]:
        """Give out the images to take now, and note that they are in hand while it lasts."""
        others = [seen for seen in ready if seen.path not in self._ends]
        taken = others or list(ready[:1])
        if not taken:
            yield taken
            return
        paths = tuple(seen.path for seen in taken)
        self._note(_Noted(paths=paths, ends=self._ends))
        try:
            yield taken
        finally:  # not where the kernel ends the process
            for path in paths:
                self._ends.pop(path, None)
            self._note(_Noted(ends=self._ends))

    def blames(self, path: str) -> str:
        """Say why an image is not tried again; empty: it is."""
        if self._ends.get(path, 0) < MOST_TRIES:
            return ""
        why = f"the watch was ended {MOST_TRIES} times with this image alone in hand"
        return f"{why}: the memory may not suffice. Look at it with inspect"

    def _note(self, noted: _Noted) -> None:
        """Write it without waiting for the disk: it has to outlive this process only."""
        with suppress(OSError):  # what cannot be noted is not found
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            descriptor = open_own(self._file, flags, is_shared=True)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(any_names.encode(noted))
