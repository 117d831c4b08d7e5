"""What a command brings to the road of shards: its items, how one is done, what comes last.

By their sizes items are dealt; the last step gets what all tasks told and kept, in order.
"""

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from emcfsys_engine.errors import EmcfError, RunFolderError
from emcfsys_engine.files import open_own
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.reader import probe
from emcfsys_engine.run.events import Event
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.shard_lines import AnyTold, TaskTold
from emcfsys_engine.run.shards import Header, ShardItem, Shards, refuse_other_models

_MOST_OPEN = 64  # files of results


class Tally(NamedTuple):
    """How many items were done, and how many could not be."""

    done: int
    failed: int


class ItemBecame(NamedTuple):
    """An item, what became of it, and what its task kept of it."""

    item: ShardItem
    event: AnyTold | None
    result: bytes


@dataclass(frozen=True)
class Ended:
    """All shards, once they are finished. `tell`: passes on what became of an item, once."""

    shards: Shards
    header: Header
    told: Sequence[TaskTold]
    tell: Callable[[AnyTold], None]
    emit: Callable[[Event], None]
    asked: Callable[[], str | None]

    def in_order(self) -> Iterator[ItemBecame]:
        """Yield all items in the order of their numbers, with what became of each.

        Raises: RunFolderError where what was kept is gone.
        """
        numbers, shards, places = array("Q"), array("L"), array("Q")
        for shard, share in enumerate(self.header.shards):
            for place, item in self.shards.places(share):
                numbers.append(item.number)
                shards.append(shard)
                places.append(place)
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        items = self.shards.items_at(places[n] for n in order)
        with _Results(self.shards) as results:
            for n, item in zip(order, items, strict=True):
                told = self.told[shards[n]]
                place = told.results.get(item.number)
                result = results.read(shards[n], *place) if place is not None else b""
                yield ItemBecame(item, told.became.get(item.number), result)


class _Results:
    """Reads what tasks kept; so many files are open that the order may leap between them."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._open: dict[int, int] = {}
        # The same command would go on with this run, and meet the same again.
        self._remedy = f"Bring it back, or remove {shards.folder.parent} and begin anew"

    def __enter__(self) -> "_Results":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as closing:
            for descriptor in self._open.values():
                closing.callback(os.close, descriptor)

    def read(self, shard: int, place: int, length: int) -> bytes:
        """Return what was kept there. Raises: RunFolderError where it is gone."""
        file = self._shards.results_file(shard)
        try:
            if shard not in self._open:
                if len(self._open) == _MOST_OPEN:
                    os.close(self._open.pop(next(iter(self._open))))
                self._open[shard] = open_own(file, os.O_RDONLY)
            content = os.pread(self._open[shard], length, place)
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            raise RunFolderError(file, what, self._remedy) from None
        if len(content) != length:
            raise RunFolderError(file, "was cut short", self._remedy)
        return content


Emit = Callable[[Event], None]
Asked = Callable[[], str | None]  # how we were asked to end; None: we were not
_WORKS = {
    "predict": "emcfsys_engine.learn.inference.shards",
    "evaluate": "emcfsys_engine.learn.evaluate_shards",
    "measure": "emcfsys_engine.tools.measure.in_shards",
    "convert": "emcfsys_engine.tools.convert.in_shards",
}


class Done(NamedTuple):
    """What is told of an item that its command settled; `result` is kept for the last step."""

    event: AnyTold
    result: bytes = b""


class Doing(Protocol):
    """The items of one shard under way in one task."""

    @property
    def book(self) -> OutputBook | None:
        """What the task writes into the output folder; None where items write no files."""
        ...

    def run(self, items: Iterator[ShardItem]) -> Iterator[tuple[ShardItem, Done | Exception]]:
        """Yield each item with what became of it; it may read ahead."""
        ...

    def close(self) -> None:
        """Put on the disk what is not there yet."""
        ...


class Work(ABC):
    """One command in shards, as each of its processes sees it."""

    called = "images"  # what its items are to a person

    def __init__(self, run: Run) -> None:
        self.run = run
        self.shards = Shards(run)
        self.request: Any = run.record().request  # of the command's own kind
        self.beside = 1  # so many tasks share this machine

    @abstractmethod
    def write_list(self, emit: Emit, asked: Asked) -> Header:
        """Find all items and write the list; only one process at a time does.

        Raises: InputError where there is nothing to do.
        """

    @abstractmethod
    def begun(self, header: Header) -> Sequence[Event]:
        """Return what is told first: that the run began, then warnings."""

    @abstractmethod
    def begin(self, header: Header, shard: int, asked: Asked) -> Doing:
        """Begin with one shard; what all shards of a task need is made once."""

    @abstractmethod
    def put_together(self, end: Ended) -> Tally:
        """Write what concerns all items together, once all are told of; only one process does.

        Killed at any point it is called again.
        """

    def refuse_changed(self, header: Header) -> None:
        """Check what all items are done with.

        Raises: InputError if it is not as it was when the list was written.
        """
        refuse_other_models(header, self.request)

    def is_outdated(self, header: Header) -> bool:
        """Tell whether there is more, or something else, than the list says: then begin anew."""
        return False

    @property
    def at_once(self) -> int:
        """How many tasks this machine runs at a time."""
        return tasks_at_once(self.request)

    def environments(self, number: int) -> Sequence[Mapping[str, str]]:
        """Return what each of several tasks gets as its environment."""
        return [os.environ]


def tasks_at_once(request: Any) -> int:
    """Return how many tasks of a request this machine runs at a time: one a processor."""
    return request.shards_at_once or len(os.sched_getaffinity(0))


def work_of(run: Run) -> Work:
    """Return what the command of a run brings.

    Raises: RunFolderError for a run that is of no command in shards.
    """
    does = run.record().request.__struct_config__.tag
    if does not in _WORKS:
        raise RunFolderError(run.record_file, f"a {does} run has no shards", "Start it anew")
    work: Work = import_module(_WORKS[str(does)]).work_of(run)
    return work


def ref_of(item: ShardItem) -> ImageRef:
    """Return the image of an item."""
    return ImageRef(path=Path(item.image), plane=item.plane)


_MOST_PROBED = 20_000  # of more images the pixels are reckoned from the sizes of the files


def file_bytes(place: Path | str) -> int:
    """Return the bytes of a file that is read; -1 for a folder, or where there is none."""
    try:
        return _size(os.stat(place))
    except OSError:
        return -1


def state_of(place: Path | str) -> str:
    """Return what changes with a file, or with any file of a folder; empty where there is none.

    Neither inode nor time of the last change of its rights: nodes may differ in those.
    """
    try:
        status = os.stat(place)
        if not stat.S_ISDIR(status.st_mode):
            return f"{status.st_size}:{status.st_mtime_ns}"
        digest = hashlib.blake2b(digest_size=16)
        for file in sorted(path for path in Path(place).rglob("*") if path.is_file()):
            inner = os.stat(file)
            words = f"\0{inner.st_size}:{inner.st_mtime_ns}\0"
            digest.update(os.fsencode(file.relative_to(place)) + words.encode())
        return digest.hexdigest()
    except OSError:
        return ""


def states_of(files: Iterable[Path | str]) -> tuple[tuple[str, str], ...]:
    """Return files with their states, as an item has them."""
    return tuple((str(file), state_of(file)) for file in files)


def why_changed(
    item: ShardItem, states: Iterable[tuple[str, str]] | None = None, called: str = ""
) -> str:
    """Return which file of an item is not as the list says, as words; empty where all are.

    `states`: where the item keeps them elsewhere; `called`: what its other files are.
    """
    for file, before in item.states if states is None else states:
        if (now := state_of(file)) != before:
            whose = "" if file == item.image else f"{called}{file} "
            return f"{whose}{'changed' if now else 'vanished'} since the list of shards was written"
    return ""


def _size(status: os.stat_result) -> int:
    return -1 if stat.S_ISDIR(status.st_mode) else status.st_size


class ImageSizes:
    """Bytes and pixels of images: the first are looked at, of the rest the bytes tell."""

    def __init__(self) -> None:
        self._last: tuple[Path | str, tuple[int, int]] = ("", (0, 0))
        self._num_probed = 0
        self._seen: dict[str, tuple[int, int]] = {}  # by suffix: bytes and pixels

    def of(self, path: Path | str, planes: int, *, is_wanted: bool) -> tuple[int, int]:
        """Return a file's bytes, -1 for a folder, and the pixels of one of its planes."""
        if self._last[0] != path:
            self._last = path, self._look(path, planes, is_wanted=is_wanted)
        return self._last[1]

    def _look(self, path: Path | str, planes: int, *, is_wanted: bool) -> tuple[int, int]:
        try:
            status = os.stat(path)
        except OSError:
            return -1, 0
        size = _size(status)
        suffix = os.path.splitext(path)[1]  # noqa: PTH122 - of a million names
        known_bytes, known_pixels = self._seen.get(suffix, (0, 0))
        if is_wanted and (size < 0 or not known_bytes or self._num_probed < _MOST_PROBED):
            self._num_probed += 1
            with suppress(EmcfError):
                height, width = probe(Path(path)).shape[:2]
                seen = (known_bytes + size, known_pixels + height * width * planes)
                self._seen[suffix] = seen
                return size, height * width
        return size, max(0, size) * known_pixels // max(1, known_bytes) // planes
