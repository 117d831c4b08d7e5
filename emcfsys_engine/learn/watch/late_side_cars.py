"""Text files with an image's scale that come after it: its mask and numbers are made anew.

Their order is no contract: Hitachi's microscopes write the picture first. What was predicted before
has no pixel size, or an older one.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.scan import Scanner
from emcfsys_engine.images.reader import probe
from emcfsys_engine.images.side_cars import pictures_of
from emcfsys_engine.text import few, how_many

_WRITTEN_S = 30.0  # a text file that has not changed for so long is not looked at again
_SAME = 1e-5  # of two pixel sizes that were written as numbers


class LateSideCars:
    """Finds images whose pixel size is another one than that they were predicted with."""

    def __init__(
        self, root: Path, ledger: Ledger, scanner: Scanner, tell: Callable[[str], None]
    ) -> None:
        self._root, self._ledger, self._scanner, self._tell = root, ledger, scanner, tell
        self._young: dict[str, tuple[tuple[int, int], float]] = {}  # stamp, and when it was met
        self._old: set[str] = set()

    def forget(self, patience_s: float) -> set[str]:
        """Let images of another scale get their masks anew, by the next scan; return them.

        What a person said of an image stays, and so does its mask: that is told.
        """
        until = time.monotonic() + patience_s
        new = self._scanner.side_cars - self._old - self._young.keys()
        found: list[str] = []
        for side_car in (*new, *self._young):
            if time.monotonic() > until:
                break
            if self._is_news(side_car):
                found += filter(self._is_rescaled, pictures_of(side_car))
        if not found:
            return set()
        images = how_many(len(found), "image")
        self._tell(f"{images} got another pixel size since, made anew: {few(found, 3)}")
        return self._scanner.forget_masks(found)

    def _is_news(self, side_car: str) -> bool:
        """Tell whether a text file is new or was written to."""
        now = time.monotonic()
        try:
            status = os.stat(self._root / side_car)
        except OSError:
            return False  # the next scan meets it again
        stamp = status.st_size, status.st_mtime_ns
        before, since = self._young.get(side_car, (None, now))
        if before != stamp:
            self._young[side_car] = stamp, now
            return True
        if now - since > _WRITTEN_S:
            del self._young[side_car]
            self._old.add(side_car)
        return False

    def _is_rescaled(self, image: str) -> bool:
        entry = self._scanner.known.get(image)
        if entry is None or entry.state != "done":
            return False
        try:
            size = probe(self._root / image).pixel_nm
        except (EmcfError, OSError):
            return False
        judged = self._ledger.judged([image])
        if size is None or not judged:
            return False
        side_nm = math.sqrt(math.prod(size))
        sides = [numbers.get("pixel_nm", 0.0) for numbers in judged[0].numbers.values()]
        if all(math.isclose(one, side_nm, rel_tol=_SAME) for one in sides):
            return False
        if judged[0].word:
            what = f"its pixel size is {side_nm:.6g} nm by now, and it was predicted with another"
            self._tell(f"{image}: {what}: kept, since a person spoke of it")
            return False
        return True
