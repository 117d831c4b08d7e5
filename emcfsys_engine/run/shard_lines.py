"""What tasks tell of their shards: what became of each image, in the order in which it happened.

Task N alone writes `shards/N.jsonl` in the run's folder, and into `N.results` what it keeps of its
items for the last step, while it holds the shard's lock.
"""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.files import next_lines, open_own, reading_own
from emcfsys_engine.regions import Mosaic, Region
from emcfsys_engine.run.events import EventReader, ImageDone, ImageFailed, ItemDone, RegionDone
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.shards import RESULTS, Header, Shards
from emcfsys_engine.text import how_many

AnyTold = ImageDone | ImageFailed | RegionDone | ItemDone


class Trying(msgspec.Struct, frozen=True, kw_only=True, tag="trying", gc=False):
    """A task that was ended before takes up one image alone."""

    number: int


class PutBack(msgspec.Struct, frozen=True, kw_only=True, tag="put_back", gc=False):
    """A task that was asked to end leaves the image that it took up; older readers skip this."""

    number: int


class ShardBecame(msgspec.Struct, frozen=True, kw_only=True, tag="became", gc=False):
    """What became of one image."""

    number: int
    event: AnyTold
    result: tuple[int, int] | None = None  # where it lies in the file of results, and its length


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished", gc=False):
    """All images of the shard have been tried."""


class Again(msgspec.Struct, frozen=True, kw_only=True, tag="again", gc=False):
    """The run was started again after its end: what failed is tried once more."""


Line = Trying | PutBack | ShardBecame | Finished | Again


class TaskTold:
    """What one task left behind so far; `refresh` reads what came since."""

    def __init__(self, file: Path) -> None:
        self.became: dict[int, AnyTold] = {}
        self.results: dict[int, tuple[int, int]] = {}
        self.tries: dict[int, int] = {}
        self.is_finished = False
        self.was_begun = False
        self._file, self._read_to = file, 0
        self.refresh()

    def refresh(self) -> None:
        """Read on."""
        with suppress(FileNotFoundError), reading_own(self._file) as stream:
            self.was_begun = True
            stream.seek(self._read_to)
            while lines := next_lines(stream):
                self._read_to = stream.tell()
                # One that was torn by a kill: its image counts as not done.
                for line in any_names.decode_lines(lines, Line):
                    self._learn(line)

    def _learn(self, line: Line) -> None:
        match line:
            case Trying():
                self.tries[line.number] = self.tries.get(line.number, 0) + 1
            case PutBack():
                self.tries[line.number] = max(0, self.tries.get(line.number, 0) - 1)
            case ShardBecame():
                self.became[line.number] = line.event
                if line.result is not None:
                    self.results[line.number] = line.result
            case Finished():
                self.is_finished = True
            case Again():
                self.is_finished = False
                self.tries.clear()
                every = list(self.became.items())
                self.became = {n: event for n, event in every if not isinstance(event, ImageFailed)}


class ShardProgress:
    """Counts of how many images something is told; what was counted is not read again."""

    def __init__(self, run: Run) -> None:
        self._shards = Shards(run)
        self._header: Header | None = None
        self._read_to: dict[int, int] = {}
        self._num_told = self._num_failed = 0
        self._finished: set[int] = set()

    def text(self) -> str:
        """Return the progress of all tasks: 3 of 64 tasks done, 310 of 2,000 images, 2 failed.

        It is empty before there is any.

        Raises: RunFolderError, OSError.
        """
        self._header = self._header or self._shards.header()
        if self._header is None:
            return ""
        for shard in range(len(self._header.shards)):
            with suppress(FileNotFoundError), reading_own(self._shards.lines_file(shard)) as stream:
                stream.seek(self._read_to.get(shard, 0))
                while lines := next_lines(stream):
                    self._count(shard, lines)
                self._read_to[shard] = stream.tell()
        done = self._header.there.images + self._num_told
        tasks = f"{len(self._finished):,} of {how_many(len(self._header.shards), 'task')} done"
        what = "images and regions" if self._header.mosaics else self._header.called
        told = f"{tasks}, {done:,} of {self._header.num_items:,} {what}"
        return f"{told}, {self._num_failed:,} failed" if self._num_failed else told

    def _count(self, shard: int, lines: bytes) -> None:
        told = lines.count(_TOLD)
        self._num_told += told
        if _FAILED in lines:
            self._num_failed += sum(_TOLD in one and _FAILED in one for one in lines.splitlines())
        if _FINISHED in lines:
            self._finished.add(shard)


# Text that holds these has its quotes escaped: only a line's own words are met.
_TOLD = b'"type":"became"'
_FAILED = b'"kind":"image_failed"'
_FINISHED = b'"type":"finished"'


class Lines:
    """Writes what becomes of one shard's images; only its claimant may."""

    def __init__(self, file: Path) -> None:
        self._results_file = file.with_suffix(RESULTS)
        self._results: int | None = None
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        self._descriptor = open_own(file, flags, is_shared=True)
        end = os.fstat(self._descriptor).st_size
        if end and os.pread(self._descriptor, 1, end - 1) != b"\n":
            os.write(self._descriptor, b"\n")  # a kill tore the last line

    def write(self, line: Line) -> None:
        """Append one line. Raises: OSError."""
        _append(self._descriptor, any_names.encode(line) + b"\n")

    def keep(self, result: bytes) -> tuple[int, int] | None:
        """Keep what one item gave for the last step, and return its place: it is told next.

        Raises: OSError.
        """
        if not result:
            return None
        if self._results is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
            self._results = open_own(self._results_file, flags, is_shared=True)
        place = os.fstat(self._results).st_size
        _append(self._results, result)
        return place, len(result)

    def close(self) -> None:
        """Wait until all is on the disk."""
        for descriptor in (self._results, self._descriptor):
            if descriptor is not None:
                os.fsync(descriptor)
                os.close(descriptor)


def _append(descriptor: int, content: bytes) -> None:
    """Append all of it: a disk that fills up takes a part without a word."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


_IMAGE, _REGION = b'"kind":"image_done"', b'"kind":"region_done"'


class DoneSoFar:
    """Follows a prediction; `look` reads what is new, and nothing twice.

    What tasks of a prediction in shards tell is read from their own files: on a cluster its run
    says nothing before they have ended.
    """

    def __init__(self, run: Run) -> None:
        self.mosaics: tuple[Mosaic, ...] = ()
        self.newest: ImageDone | None = None
        self.num_images = 0
        self._regions: dict[str, dict[Region, None]] = {}  # by image, in the order they were done
        self._shards = Shards(run)
        self._events = EventReader(run.events_file)
        self._read_to: dict[str, int] = {}
        self._has_list = False

    def regions(self, image: str) -> tuple[Region, ...]:
        """Return the regions of a large image that are done."""
        return tuple(self._regions.get(image, ()))

    def look(self) -> bool:
        """Read on; tell whether anything is new.

        Raises: RunFolderError for a damaged list of shards, OSError.
        """
        if not self._has_list and (header := self._shards.header()) is not None:
            self.mosaics, self._has_list = header.mosaics, True
        if self._has_list:
            return sum(map(self._read, self._grown())) > 0
        done = [event for event in self._events.read_new() if isinstance(event, ImageDone)]
        for event in done:
            self._take(event)
        return bool(done)

    def _grown(self) -> list[Path]:
        with os.scandir(self._shards.folder) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.name.endswith(".jsonl")
                and entry.name != self._shards.file.name
                and entry.stat().st_size > self._read_to.get(entry.name, 0)
            ]

    def _read(self, file: Path) -> bool:
        is_new = False
        with suppress(FileNotFoundError), reading_own(file) as stream:
            stream.seek(self._read_to.get(file.name, 0))
            while block := next_lines(stream):
                images = [line for line in block.splitlines() if _IMAGE in line]
                wanted = [line for line in block.splitlines() if _REGION in line] + images[-1:]
                self.num_images += max(0, len(images) - 1)  # the last of them is looked into
                for line in wanted:
                    with suppress(msgspec.MsgspecError):  # torn by a kill
                        told = any_names.decode(line, Line)
                        if isinstance(told, ShardBecame):
                            self._take(told.event)
                is_new |= bool(wanted)
            self._read_to[file.name] = stream.tell()
        return is_new

    def _take(self, event: object) -> None:
        if isinstance(event, RegionDone):
            self._regions.setdefault(event.image, {})[Region(*event.region)] = None
        elif isinstance(event, ImageDone):
            self.num_images += 1
            if self.newest is None or event.time >= self.newest.time:
                self.newest = event
