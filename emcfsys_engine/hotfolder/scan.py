"""Which files of a watched folder are ready: new or changed, settled, and whole.

Events only hint where to look first; every few seconds a scan of the whole folder finds what they
missed. Waiting is measured on our own monotonic clock: the files' times are only compared for
equality, so that a microscope whose clock is wrong does no harm.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from emcfsys_engine.hotfolder.ledger import Entry
from emcfsys_engine.hotfolder.structure import look

_PICTURES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
_MICROSCOPES = (".mrc", ".mrcs", ".map", ".rec", ".st", ".dm3", ".dm4", ".ser", ".emi", ".emd")
_CONTAINERS = (".h5", ".hdf5", ".czi", ".elid", ".gz", ".bz2")
SUFFIXES = frozenset((*_PICTURES, *_MICROSCOPES, *_CONTAINERS))
_UNFINISHED = (".tmp", ".part", ".partial", ".filepart", ".crdownload", ".swp")
_BACK_OFF_S = (0.0, 5.0, 30.0)  # before the first, second and third try
MAX_ATTEMPTS = 3
_SCAN_SHARE = 250  # a scan that takes long is done the less often: 0.4 % of one core

State = Literal["watching", "polling", "offline"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What counts as an image, and when it is ready."""

    root: Path
    output: Path
    settle_s: float  # unchanged for so long
    closed_settle_s: float  # … or so long after its writer closed it or renamed it in
    min_bytes: int = 64
    ignore: tuple[str, ...] = ()
    newest_first: bool = False


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One file as a scan found it."""

    path: str  # below the root
    size: int
    mtime_ns: int
    since: float = 0.0  # monotonic: unchanged since then
    closed: bool = False  # an event said that its writer has finished

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time of change."""
        return self.size, self.mtime_ns


class Scanner:
    """Knows what is settling, and gives out what is ready; holds no file open."""

    def __init__(
        self,
        rules: Rules,
        known: dict[str, Entry],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self.known = known
        self.settling: dict[str, Seen] = {}
        self.offline = False
        self.scan_s = 0.0
        self._clock = clock
        self._retry_at: dict[str, float] = {}

    def scan(self) -> None:
        """Look at the whole folder; a root that is gone means offline, never "all deleted"."""
        started = self._clock()
        found: set[str] = set()
        try:
            root = os.scandir(self.rules.root)
        except OSError:
            self.offline = True
            return
        self.offline = False
        with root:
            for path, status in self._walk(root, ""):
                found.add(path)
                self._note(path, status, closed=False)
        for path in self.settling.keys() - found:
            del self.settling[path]
        self.scan_s = self._clock() - started

    def hint(self, path: str, *, closed: bool) -> None:
        """Look at one file that an event named."""
        if not self._is_wanted(path):
            return
        try:
            status = os.stat(self.rules.root / path)
        except OSError:
            self.settling.pop(path, None)
            return
        self._note(path, status, closed=closed)

    def ready(self, most: int) -> list[Seen]:
        """Return files that are ready, in the order asked for; they go on settling until `done`."""
        now = self._clock()
        waiting = [seen for seen in self.settling.values() if self._wait_s(seen, now) <= 0]
        waiting.sort(key=lambda seen: (seen.mtime_ns, seen.path), reverse=self.rules.newest_first)
        # Only as many are opened as are asked for: thousands may wait.
        return list(itertools.islice(filter(self._is_whole, waiting), most))

    def done(self, entry: Entry) -> None:
        """Take note of what became of a file; one that failed is tried again after a while."""
        self.known[entry.path] = entry
        seen = self.settling.get(entry.path)
        if entry.state == "trying":
            self._retry_at[entry.path] = self._clock() + _BACK_OFF_S[entry.attempts]
        elif seen is not None and seen.stamp == entry.stamp:
            del self.settling[entry.path]
            self._retry_at.pop(entry.path, None)

    def forget_failed(self) -> None:
        """Let images that failed be found anew by the next scan."""
        for path in [path for path, entry in self.known.items() if entry.state == "failed"]:
            del self.known[path]

    def next_in_s(self, base_s: float) -> float:
        """Return in how many seconds to look again: settling files soon, else now and then."""
        now = self._clock()
        waits = [self._wait_s(seen, now) for seen in self.settling.values()]
        positive = [wait for wait in waits if wait > 0]
        # A file that is settled and yet not whole is looked at again with the next scan.
        return max(0.005, min([self.interval_s(base_s), *positive]))

    def interval_s(self, base_s: float) -> float:
        """Return the time between whole scans: the base, longer for folders that take long."""
        return max(base_s, _SCAN_SHARE * self.scan_s)

    def is_settling(self) -> bool:
        """Tell whether anything may still become ready."""
        return bool(self.settling)

    def _note(self, path: str, status: os.stat_result, *, closed: bool) -> None:
        known = self.known.get(path)
        stamp = (status.st_size, status.st_mtime_ns)
        if known is not None and known.stamp == stamp and known.state != "trying":
            self.settling.pop(path, None)
            return
        before = self.settling.get(path)
        if before is None or before.stamp != stamp:
            self.settling[path] = Seen(
                path=path,
                size=stamp[0],
                mtime_ns=stamp[1],
                since=self._clock(),
                closed=closed,
            )
            self._retry_at.pop(path, None)
        elif closed and not before.closed:
            self.settling[path] = replace(before, closed=True)

    def _wait_s(self, seen: Seen, now: float) -> float:
        settle_s = self.rules.closed_settle_s if seen.closed else self.rules.settle_s
        return max(seen.since + settle_s, self._retry_at.get(seen.path, 0.0)) - now

    def _is_whole(self, seen: Seen) -> bool:
        if seen.size < self.rules.min_bytes:
            return False
        try:
            status = os.stat(self.rules.root / seen.path)
            verdict = look(self.rules.root / seen.path)
        except FileNotFoundError:
            self.settling.pop(seen.path, None)
            return False
        except OSError:
            return True  # it may not be read: the attempt will say so to the person
        if (status.st_size, status.st_mtime_ns) != seen.stamp:
            self._note(seen.path, status, closed=seen.closed)
            return False
        if verdict == "growing":
            # A file that never becomes whole is handed on in the end, so that it can be reported.
            return self._clock() - seen.since > max(30.0, 10 * self.rules.settle_s)
        return verdict == "whole" or not seen.closed or self._settled_long(seen)

    def _settled_long(self, seen: Seen) -> bool:
        """A format that does not tell its end waits the full time even after a close."""
        return self._clock() - seen.since >= self.rules.settle_s

    def _walk(
        self, folder: Iterator["os.DirEntry[str]"], below: str
    ) -> Iterator[tuple[str, os.stat_result]]:
        for item in folder:
            path = f"{below}{item.name}"
            try:
                if item.is_dir(follow_symlinks=False):
                    if not self._is_folder_wanted(path, item.path):
                        continue
                    with os.scandir(item.path) as inner:
                        yield from self._walk(inner, f"{path}/")
                elif self._is_wanted(path) and item.is_file():
                    yield path, item.stat()
            except OSError:
                continue  # it vanished, or may not be entered: the next scan looks again

    def _is_folder_wanted(self, path: str, full: str) -> bool:
        name = path.rpartition("/")[2]
        return not name.startswith(".") and Path(full) != self.rules.output

    def _is_wanted(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        lower = name.lower()
        if name.startswith((".", "~")) or lower.endswith(("~", *_UNFINISHED)):
            return False
        if os.path.splitext(lower)[1] not in SUFFIXES:  # noqa: PTH122 - 100,000 times a scan
            return False
        if any(part.startswith(".") for part in path.split("/")[:-1]):
            return False
        if (self.rules.root / path).is_relative_to(self.rules.output):
            return False
        return not any(
            fnmatchcase(path, pattern) or fnmatchcase(name, pattern)
            for pattern in self.rules.ignore
        )
