"""Which files of a watched folder are ready: new or changed, settled, and whole.

Events only hint where to look first; every few seconds a scan of the whole folder finds what they
missed. Waiting is measured on our own monotonic clock: the files' times are only compared for
equality, so that a microscope whose clock is wrong does no harm.
"""

import itertools
import math
import os
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from emcfsys_engine.files import identity_of, kept_ns, reading
from emcfsys_engine.hotfolder.ledger import Entry
from emcfsys_engine.hotfolder.places import is_inside
from emcfsys_engine.images.own_files import digest_of, is_content
from emcfsys_engine.project import Project
from emcfsys_engine.run.records import WatchRequest
from emcfsys_engine.suffixes import (
    MICROGRAPH_SUFFIXES,
    OTHER_PICTURE_SUFFIXES,
    PACKED_SUFFIXES,
    SIDE_CAR_SUFFIXES,
    is_left_alone,
)

Verdict = Literal["whole", "growing", "unknown"]
_MAX_DIRECTORIES = 100_000  # of a TIFF: a loop in its chain must end
_MRC_BYTES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2}  # a pixel, by mode
_TIFF_TYPES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8}  # bytes of the types that hold offsets and counts


def look(file: Path) -> Verdict:
    """Tell whether a file is whole; "unknown" where its format does not say.

    Raises: OSError if it cannot be opened.
    """
    with reading(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(256)
        for is_this, judge in _FORMATS:
            if is_this(start, file.suffix.lower()):
                try:
                    return "whole" if judge(stream, size) else "growing"
                except (struct.error, IndexError, ValueError, OverflowError):
                    return "growing"  # a structure that cannot be followed yet
    return "unknown"


def _png(stream: BinaryIO, size: int) -> bool:
    stream.seek(max(0, size - 12))
    return stream.read(12)[4:8] == b"IEND"


def _jpeg(stream: BinaryIO, size: int) -> bool:
    stream.seek(max(0, size - 64))
    return b"\xff\xd9" in stream.read(64)  # some writers pad the end


def _bmp(stream: BinaryIO, size: int) -> bool:
    stream.seek(2)
    return struct.unpack("<I", stream.read(4))[0] <= size


def _mrc(stream: BinaryIO, size: int) -> bool:
    stream.seek(0)
    header = stream.read(1024)
    for order in ("<", ">"):
        columns, rows, sections, mode = struct.unpack(f"{order}4i", header[:16])
        extended = struct.unpack(f"{order}i", header[92:96])[0]
        if mode in _MRC_BYTES and min(columns, rows, sections) > 0 and extended >= 0:
            return 1024 + extended + columns * rows * sections * _MRC_BYTES[mode] <= size
    return False


def _hdf5(stream: BinaryIO, size: int) -> bool:
    """Compare with the end-of-file address in the superblock.

    Source: HDF5 File Format Specification 3.0, II.A.
    """
    stream.seek(8)
    version = stream.read(1)[0]
    stream.seek(40 if version < 2 else 28)
    return struct.unpack("<Q", stream.read(8))[0] <= size


def _tiff(stream: BinaryIO, size: int) -> bool:
    """Follow the directories: every strip or tile must lie inside the file.

    Source: TIFF 6.0, section 2; BigTIFF by the same rules with wider fields.
    """
    stream.seek(0)
    start = stream.read(16)
    order = "<" if start[:2] == b"II" else ">"
    is_big = struct.unpack(f"{order}H", start[2:4])[0] == 43
    place = struct.unpack(f"{order}Q", start[8:16])[0] if is_big else 0
    if not is_big:
        place = struct.unpack(f"{order}I", start[4:8])[0]
    if not place:
        return False
    seen: set[int] = set()
    while place and place not in seen and len(seen) < _MAX_DIRECTORIES:
        seen.add(place)
        place = _directory(stream, size, place, order, is_big)
        if place < 0:
            return False
    return True


def _directory(stream: BinaryIO, size: int, place: int, order: str, is_big: bool) -> int:
    """Return the next directory's place (0: none), or -1 if something lies outside the file."""
    count_code, entry_code, next_code = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I")
    if place >= size:
        return -1
    stream.seek(place)
    number = struct.unpack(f"{order}{count_code}", _exactly(stream, 8 if is_big else 2))[0]
    if number > 65_535:
        return -1
    entry_size = 20 if is_big else 12
    entries = _exactly(stream, number * entry_size)
    following = struct.unpack(f"{order}{next_code}", _exactly(stream, 8 if is_big else 4))[0]
    tags: dict[int, tuple[int, int, bytes]] = {}
    for index in range(number):
        entry = entries[index * entry_size : (index + 1) * entry_size]
        tag, kind, count, value = struct.unpack(f"{order}{entry_code}", entry)
        tags[tag] = (kind, count, value)
    for offsets, counts in ((273, 279), (324, 325)):
        if offsets in tags and counts in tags:
            starts = _numbers(stream, order, is_big, *tags[offsets])
            lengths = _numbers(stream, order, is_big, *tags[counts])
            if any(a + b > size for a, b in zip(starts, lengths, strict=False)):
                return -1
    return int(following)


def _numbers(
    stream: BinaryIO, order: str, is_big: bool, kind: int, count: int, value: bytes
) -> tuple[int, ...]:
    width = _TIFF_TYPES.get(kind)
    if width is None or count > 10_000_000:
        raise ValueError(f"TIFF type {kind}, count {count}")
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
    if count * width > len(value):
        place = struct.unpack(f"{order}{'Q' if is_big else 'I'}", value)[0]
        stream.seek(min(place, os.fstat(stream.fileno()).st_size))
        value = _exactly(stream, count * width)
    return struct.unpack(f"{order}{count}{code}", value[: count * width])


def _exactly(stream: BinaryIO, number: int) -> bytes:
    found = stream.read(number)
    if len(found) < number:
        raise ValueError("the file ends too early")
    return found


def _is_tiff(start: bytes, suffix: str) -> bool:
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


_FORMATS: tuple[tuple[Callable[[bytes, str], bool], Callable[[BinaryIO, int], bool]], ...] = (
    (lambda start, suffix: start[:8] == b"\x89PNG\r\n\x1a\n", _png),
    (lambda start, suffix: start[:3] == b"\xff\xd8\xff", _jpeg),
    (_is_tiff, _tiff),
    (lambda start, suffix: start[:8] == b"\x89HDF\r\n\x1a\n", _hdf5),
    (lambda start, suffix: start[:2] == b"BM" and suffix == ".bmp", _bmp),
    (lambda start, suffix: start[208:212] == b"MAP " or suffix in (".mrc", ".map"), _mrc),
)


_SUFFIXES = MICROGRAPH_SUFFIXES | PACKED_SUFFIXES
_UNFINISHED = (".tmp", ".part", ".partial", ".filepart", ".crdownload", ".swp")
# Before the first try, the second, and so on: an image is given up after nearly four hours.
_BACK_OFF_S = (0.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0)
MAX_ATTEMPTS = len(_BACK_OFF_S)
MAX_ATTEMPTS_ONCE = 3  # by a watch that is to end
_HOPELESS_S = 5.0  # a file too small to be an image is not waited for so long
_SETTLE_S = {"events": 2.0, "polling": 30.0}
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


def rules_of(project: Project, request: WatchRequest, backend: str) -> Rules:
    """Return the rules of a project's hot folder, watched by "events" or by "polling"."""
    settings = project.hotfolder
    settle_s = settings.settle_s if settings.settle_s is not None else _SETTLE_S[backend]
    return Rules(
        root=Path(request.watch),
        output=Path(request.output),
        settle_s=settle_s,
        closed_settle_s=0.0 if backend == "events" else settle_s,
        min_bytes=settings.min_bytes,
        ignore=settings.ignore,
        newest_first=settings.order == "newest",
    )


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """One file as a scan found it."""

    path: str  # below the root
    size: int
    mtime_ns: int
    ctime_ns: int = 0  # changes with permissions, too
    since: float = 0.0  # monotonic: unchanged since then
    closed: bool = False  # an event said that its writer has finished

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time of change."""
        return self.size, self.mtime_ns


def stamp_of(status: os.stat_result) -> tuple[int, int]:
    """Return size and time of change of a file, as the ledger keeps them."""
    return status.st_size, kept_ns(status.st_mtime_ns)


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
        self.settling: dict[str, FoundFile] = {}
        self.offline = False
        self.left_out: set[str] = set()  # kinds of pictures that were met and nobody reads
        self.unseen: dict[str, str] = {}  # below the root, of the last scan, and why
        self.side_cars: set[str] = set()  # text files that may say the scale of an image
        self.scan_s = 0.0
        self._clock = clock
        self._retry_at: dict[str, float] = {}
        self._doubtful: dict[str, os.stat_result] = {}

    def scan(self) -> None:
        """Look at the whole folder; a root that is gone means offline, never "all deleted"."""
        started = self._clock()
        found: set[str] = set()
        self.offline, self.unseen = False, {}
        try:
            with os.scandir(self.rules.root) as root:
                for path, status in self._walk(root, ""):
                    found.add(path)
                    self._note(path, status, closed=False)
        except OSError:  # also in the midst of the listing: what was not listed is not gone
            self.offline = True
            return
        for path in self.settling.keys() - found:
            del self.settling[path]
        for path in self._doubtful.keys() - found:
            del self._doubtful[path]
        self.scan_s = self._clock() - started

    def hint(self, path: str, *, closed: bool) -> None:
        """Look at one file that an event named."""
        if not self._is_wanted(path):
            return
        full = self.rules.root / path
        try:
            status = os.stat(full)
            if not stat.S_ISREG(status.st_mode) or self._leads_to_output(full):
                return
        except OSError:
            self.settling.pop(path, None)
            return
        self._note(path, status, closed=closed)

    def ready(self, most: int) -> list[FoundFile]:
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
            wait_s = _BACK_OFF_S[min(entry.attempts, MAX_ATTEMPTS - 1)]
            self._retry_at[entry.path] = self._clock() + wait_s
        elif seen is not None and seen.stamp == entry.stamp:
            del self.settling[entry.path]
            self._retry_at.pop(entry.path, None)

    def look_closer(
        self, patience_s: float, is_ended: Callable[[], bool] = lambda: False
    ) -> list[Entry]:
        """Compare by content what only the system's own time of change tells to be another file.

        A copy that keeps times may replace an image by another one; most often a file was only
        linked or its rights were changed: of those it returns what to note, others settle.
        """
        until = self._clock() + patience_s
        same: list[Entry] = []
        while self._doubtful and self._clock() < until:
            path, status = self._doubtful.popitem()
            known, file = self.known[path], self.rules.root / path
            try:
                digest = digest_of(file, status.st_size, is_ended)
                is_same = is_content(known.digest, file, digest)
            except OSError:
                continue  # the next scan finds it again, if it is there
            if is_same or not known.digest:
                entry = msgspec.structs.replace(
                    known, ctime_ns=kept_ns(status.st_ctime_ns), digest=digest
                )
                self.known[path] = entry
                same.append(entry)
            else:
                self.known[path] = msgspec.structs.replace(known, mtime_ns=-1)
                self._note(path, status, closed=False)
        return same

    def put_off(self, path: str, wait_s: float | None) -> None:
        """Leave a file for later, without a try that counts; None: for the next watch."""
        self._retry_at[path] = math.inf if wait_s is None else self._clock() + wait_s

    def left(self) -> list[str]:
        """Return what settles still, without what is left for the next watch."""
        return sorted(path for path in self.settling if self._retry_at.get(path) != math.inf)

    def forget_failed(self) -> None:
        """Let images that failed be found anew by the next scan."""
        for path in [path for path, entry in self.known.items() if entry.state == "failed"]:
            del self.known[path]

    def forget_masks(self, paths: Iterable[str]) -> set[str]:
        """Let images get their masks anew, by the next scan; return those that are known."""
        done = {path for path in paths if path in self.known and self.known[path].state == "done"}
        for path in done:
            self._take_anew(self.known[path], self.known[path].ctime_ns)
        return done

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
        """Tell whether anything may still become ready: a file that stays empty does not."""
        now = self._clock()
        patience_s = max(_HOPELESS_S, 10 * self.rules.settle_s)
        return bool(self._doubtful) or any(
            seen.size >= self.rules.min_bytes or now - seen.since < patience_s
            for seen in map(self.settling.__getitem__, self.left())
        )

    def _note(self, path: str, status: os.stat_result, *, closed: bool) -> None:
        known = self.known.get(path)
        stamp, ctime_ns = stamp_of(status), kept_ns(status.st_ctime_ns)
        if known is not None and known.stamp == stamp:
            is_changed = bool(known.ctime_ns) and ctime_ns != known.ctime_ns
            if known.state in ("done", "skipped") or (known.state == "failed" and not is_changed):
                self.settling.pop(path, None)
                if is_changed and known.state == "done":
                    self._doubtful[path] = status
                return
            if is_changed:
                self._take_anew(known, ctime_ns)
        before = self.settling.get(path)
        if before is None or before.stamp != stamp:
            self.settling[path] = FoundFile(
                path=path,
                size=stamp[0],
                mtime_ns=stamp[1],
                ctime_ns=ctime_ns,
                since=self._clock(),
                closed=closed,
            )
            self._retry_at.pop(path, None)
        elif closed and not before.closed:
            self.settling[path] = replace(before, closed=True)

    def _take_anew(self, known: Entry, ctime_ns: int) -> None:
        """Its permissions may have changed: an image that could not be read is tried at once."""
        self.known[known.path] = msgspec.structs.replace(
            known, state="trying", attempts=0, ctime_ns=ctime_ns
        )
        self.settling.pop(known.path, None)
        self._retry_at.pop(known.path, None)

    def _wait_s(self, seen: FoundFile, now: float) -> float:
        settle_s = self.rules.closed_settle_s if seen.closed else self.rules.settle_s
        return max(seen.since + settle_s, self._retry_at.get(seen.path, 0.0)) - now

    def _is_whole(self, seen: FoundFile) -> bool:
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
        if stamp_of(status) != seen.stamp:
            self._note(seen.path, status, closed=seen.closed)
            return False
        if verdict == "growing":
            # A file that never becomes whole is handed on in the end, so that it can be reported.
            return self._clock() - seen.since > max(30.0, 10 * self.rules.settle_s)
        return verdict == "whole" or not seen.closed or self._settled_long(seen)

    def _settled_long(self, seen: FoundFile) -> bool:
        """A format that does not tell its end waits the full time even after a close."""
        return self._clock() - seen.since >= self.rules.settle_s

    def _walk(
        self, folder: Iterator["os.DirEntry[str]"], below: str
    ) -> Iterator[tuple[str, os.stat_result]]:
        for item in folder:
            path = f"{below}{item.name}"
            try:
                if item.is_dir(follow_symlinks=False):
                    if self._is_folder_wanted(path, item.path):
                        with os.scandir(item.path) as inner:
                            yield from self._walk(inner, f"{path}/")
                elif self._is_wanted(path) and item.is_file() and not self._is_link_to_output(item):
                    yield path, item.stat()
            except OSError as error:  # the next scan looks again
                if not isinstance(error, FileNotFoundError):  # else it vanished
                    self.unseen[path] = error.strerror or str(error)

    def _is_folder_wanted(self, path: str, full: str) -> bool:
        name = path.rpartition("/")[2]
        if is_left_alone(name) or Path(full) == self.rules.output:
            return False
        # By whatever links and mounts the output lies here; a folder without an answer is told.
        status = os.stat(full)
        return (status.st_dev, status.st_ino) != identity_of(self.rules.output)

    def _leads_to_output(self, full: Path) -> bool:
        if full.is_symlink() and is_inside(full, self.rules.output):
            return True
        output = identity_of(self.rules.output)
        below = (folder for folder in full.parents if folder.is_relative_to(self.rules.root))
        return output is not None and any(identity_of(folder) == output for folder in below)

    def _is_link_to_output(self, item: "os.DirEntry[str]") -> bool:
        return item.is_symlink() and is_inside(item.path, self.rules.output)

    def _is_wanted(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        lower = name.lower()
        if name.startswith((".", "~")) or lower.endswith(("~", *_UNFINISHED)):
            return False
        suffix = os.path.splitext(lower)[1]  # noqa: PTH122 - 100,000 times a scan
        if suffix not in _SUFFIXES:
            if suffix in OTHER_PICTURE_SUFFIXES:
                self.left_out.add(suffix)
            elif suffix in SIDE_CAR_SUFFIXES:
                self.side_cars.add(path)
            return False
        if any(is_left_alone(part) for part in path.split("/")[:-1]):
            return False
        if (self.rules.root / path).is_relative_to(self.rules.output):
            return False
        return not any(
            fnmatchcase(path, pattern) or fnmatchcase(name, pattern)
            for pattern in self.rules.ignore
        )
