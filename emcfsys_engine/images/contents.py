"""Which content images have: digests of all their bytes, read again only where a file changed.

What the file system says of a file (size, times of change, inode) stands beside its digest: while
that is the same, the digest holds. A copy of the same content is read once more, and then known.
"""

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from emcfsys_engine.images.own_files import digest_of, digest_of_output
from emcfsys_engine.images.walk import is_zarr

# A change this soon after a look may leave the times as they are: some disks count in 2 seconds.
_COARSEST_NS = 2_000_000_000


class Contents:
    """Digests of images by their files' stamps; several threads may ask."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}  # image -> stamp, digest
        self._lasting: dict[str, tuple[str, str]] = {}  # of those that may be noted
        self._new: dict[str, tuple[str, str]] = {}
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)

    def of(self, image: Path, is_ended: Callable[[], bool] = lambda: False) -> str:
        """Return the digest by which an image is known again; "" for what cannot be read.

        It is "", too, once `is_ended`.
        """
        with self._locks[str(image)]:  # the planes of a stack ask together
            try:
                return self._of(image, is_ended)
            except OSError:
                return ""

    def _of(self, image: Path, is_ended: Callable[[], bool]) -> str:
        stamp, changed_ns = _stamp_of(image)
        known = self._known.get(str(image))
        if known is not None and known[0] == stamp:
            return known[1]
        digest = _digest_of(image, is_ended)
        if digest and _stamp_of(image)[0] == stamp:
            self._known[str(image)] = (stamp, digest)
            if time.time_ns() - changed_ns > _COARSEST_NS:
                self._lasting[str(image)] = self._new[str(image)] = (stamp, digest)
        return digest

    def learn(self, line: Mapping[str, Any]) -> None:
        """Take a fact that was noted before. Raises: KeyError."""
        fact = (str(line["stamp"]), str(line["content"]))
        self._known[str(line["seen"])] = self._lasting[str(line["seen"])] = fact

    def take_new(self) -> list[dict[str, str]]:
        """Return what is to be noted, once."""
        new, self._new = self._new, {}
        return _lines(new)

    def lines(self) -> list[dict[str, str]]:
        """Return everything that may be noted."""
        return _lines(self._lasting)


def _lines(facts: Mapping[str, tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"seen": image, "stamp": stamp, "content": digest}
        for image, (stamp, digest) in facts.items()
    ]


def _digest_of(image: Path, is_ended: Callable[[], bool]) -> str:
    if image.is_dir():
        return digest_of_output(image.resolve()).partition(":")[0] if is_zarr(image) else ""
    return digest_of(image, image.stat().st_size, is_ended)


def _stamp_of(image: Path) -> tuple[str, int]:
    """Return what changes with a file, or with any file of a folder, and its last change in ns."""
    status = os.stat(image)
    if not image.is_dir():
        return stamp_of_status(status), status.st_ctime_ns
    digest, changed_ns = hashlib.blake2b(digest_size=16), status.st_ctime_ns
    for file in sorted(path for path in image.rglob("*") if path.is_file()):
        status = os.stat(file)
        changed_ns = max(changed_ns, status.st_ctime_ns)
        digest.update(
            os.fsencode(file.relative_to(image)) + f"\0{stamp_of_status(status)}\0".encode()
        )
    return digest.hexdigest(), changed_ns


def stamp_of_status(status: os.stat_result) -> str:
    """Return what changes with a file, from what the file system says of it."""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"
