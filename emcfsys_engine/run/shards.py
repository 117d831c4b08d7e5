"""A run dealt to many tasks: the list of their shares, and the files that each of them writes.

`shards/` in the run's folder. `list.jsonl` is written once and never changed: a first line with
where each shard's lines lie, then one line an image. Task N alone writes `N.jsonl` (what became of
its images, in the order in which it happened), `N.results` (what it keeps for the last step) and
`N.book` (what it wrote into the output folder), while it holds the lock `N.lock`. So nothing is
shared between nodes but files that only grow.
"""

import errno
import fcntl
import hashlib
import heapq
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NoReturn

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import InputError, RunFolderError
from emcfsys_engine.files import is_locked, open_own, reading_own, write_whole
from emcfsys_engine.regions import Mosaic, Region
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.models_used import SameModels, digests_of_models

FORMAT = 2  # 1 where no image is cut into regions: older versions know that
FOLDER = "shards"
RESULTS = ".results"
BOOK = ".book"
LOCK = ".lock"
MOST = 10_000  # more is no help: Slurm's own limit of an array is mostly 1,001
SHARDS_A_TASK = 8  # that runs at a time: who is fast takes more
MOST_TRIES = 5  # of one image alone that ends its task, or its watch, each time; so do kills
_HEAD_PX = 1 << 16  # what an image costs however small it is, in pixels
_HEADER_BYTES = 1 << 24
_BLOCK_BYTES = 1 << 20


class ShardItem(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One image of the list, or a region of one; `mask` is where its mask goes.

    Of a measurement it is a mask. Paths are of any bytes.
    """

    number: int  # its place among all images, in the order of their names; regions follow those
    image: str
    plane: int | None
    mask: str
    size: int  # of the file, in bytes
    pixels: int
    is_there: bool = False  # its mask was there before
    mosaic: int = -1  # of a region: its image's place in `Header.mosaics`
    region: Region | None = None
    also: tuple[tuple[str, int], ...] = ()  # files that are read with it, and their bytes
    own: Any = None  # what else its command needs to do it
    states: tuple[tuple[str, str], ...] = ()  # files that are read for it, and what they were then


class Share(msgspec.Struct, frozen=True, array_like=True):
    """Where a shard's lines lie after the first line, in bytes."""

    offset: int
    length: int
    images: int
    pixels: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of the list."""

    format: int = 1
    request: str  # digest of what was asked for
    shards: tuple[Share, ...]
    there: Share  # images that need nothing
    left_out: str = ""  # what is said of pictures that nobody reads
    models: tuple[str, ...] = ()  # digests of what the model files said; empty in older lists
    mosaics: tuple[Mosaic, ...] = ()  # images that are cut into regions
    is_fresh: bool = False  # nothing of ours lay in the output folder; older lists do not tell
    called: str = "images"  # what the items are to a person
    own: Any = None  # what else the command needs of all items together

    @property
    def num_items(self) -> int:
        """How many images, or regions of images, were asked for."""
        return self.there.images + sum(one.images for one in self.shards)

    @property
    def num_images(self) -> int:
        """How many images were asked for. Numbers of items from here on are of regions."""
        return self.num_items - sum(len(one.regions) - 1 for one in self.mosaics)


def deal(pixels: Sequence[int], number: int) -> list[list[int]]:
    """Deal images to shards so that each has about as many pixels; return their places in line.

    The largest first, each to the shard that has least: none has more than 4/3 of the fairest
    dealing's. The shard with most is the first, and the first to be begun.
    """
    number = max(1, min(number, len(pixels)))
    heap = [(0, shard) for shard in range(number)]
    dealt: list[list[int]] = [[] for _ in range(number)]
    sums = [0] * number
    for place in sorted(range(len(pixels)), key=lambda n: -pixels[n]):
        total, shard = heap[0]
        dealt[shard].append(place)
        sums[shard] = total + pixels[place] + _HEAD_PX
        heapq.heapreplace(heap, (sums[shard], shard))
    order = sorted(range(number), key=lambda shard: (-sums[shard], shard))
    return [sorted(dealt[shard]) for shard in order]


def digest_of(request: msgspec.Struct) -> str:
    """Return what tells two requests apart; what a later version adds and nobody set is nothing."""
    content = any_names.encode(sorted(_asked(request).items()))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _asked(value: Any) -> Any:
    """Return what was set in a struct, in those within it, too."""
    if isinstance(value, tuple | list):
        return [_asked(one) for one in value]
    if not isinstance(value, msgspec.Struct):
        return value
    asked: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        own, factory = getattr(value, field.name), field.default_factory
        default = field.default if factory is msgspec.NODEFAULT else factory()
        if own != default:
            asked[field.name] = _asked(own)
    return asked


def models_of(request: Any, header: "Header | None" = None) -> SameModels:
    """Return the models of a request as they are now, or as they were when a list was written.

    Raises: ModelFileError.
    """
    files = tuple(map(Path, request.models))
    digests = digests_of_models(files) if header is None else header.models
    return SameModels(files=files, digests=digests)


def refuse_other_models(header: Header, request: Any) -> None:
    """Raises: InputError if a model file is another one than when the list was written."""
    remedy = "Bring it back, or give the command again: what is there is kept"
    models_of(request, header).refuse_others("the list of shards was written", remedy)


def verb_of(request: msgspec.Struct) -> str:
    """Return what a command in shards does, as its name says it: Predict, Measure …"""
    return str(request.__struct_config__.tag).capitalize()


def unfinished(parent: Path, request: Any) -> Run | None:
    """Return the run below a folder that was asked for the same and is not at its end.

    Raises: InputError while a run in shards is under way there.
    """
    found: Run | None = None
    for place in sorted(parent.glob(f"*/{FOLDER}")):
        run = Run(place.parent)
        with suppress(RunFolderError):
            theirs = run.record().request
            is_same = theirs == request
            if run.is_alive() or Shards(run).is_worked_on():
                what = f"{run.id} {verb_of(theirs).lower()}s into it, in shards, now"
                if not is_same:
                    what += f", and was asked for something else (list {digest_of(theirs)})"
                remedy = "Wait for its end or cancel it, or choose another folder with --out"
                raise InputError(parent.parent, what, remedy)
            if is_same and run.finished() is not None:
                found = None  # it did what those before it had begun
            elif is_same:
                header = Shards(run).header()
                if header is None or not models_of(request, header).are_others:
                    found = run
    return found


def finished(parent: Path, request: Any) -> Iterator[Run]:
    """Yield the runs below a folder that did what is asked for, the newest first."""
    for place in sorted(parent.glob(f"*/{FOLDER}"), reverse=True):
        run = Run(place.parent)
        with suppress(RunFolderError):
            if run.record().request == request and not run.is_alive() and run.finished():
                yield run


class Shards:
    """The list of a run's shards, and the files of its tasks."""

    def __init__(self, run: Run) -> None:
        self.folder = run.folder / FOLDER
        self.file = self.folder / "list.jsonl"
        self._request: Any = run.record().request
        verb = verb_of(self._request)
        masks = ": masks that are there are kept" if verb == "Predict" else ""
        self._anew = f"{verb} anew{masks}"

    def write(
        self,
        items: Iterable[ShardItem],
        number: int,
        left_out: str = "",
        models: tuple[str, ...] = (),
        mosaics: Sequence[Mosaic] = (),
        *,
        is_fresh: bool = False,
        called: str = "images",
        own: Any = None,
    ) -> Header:
        """Deal images to tasks and write the list, once for all.

        `mosaics`: looked at when all items were taken.
        Raises: RunFolderError if there is one, OSError.
        """
        if self.file.exists():
            remedy = f"It is never changed: {verb_of(self._request).lower()} anew for other files"
            raise RunFolderError(self.file, "is there already", remedy)
        self.folder.mkdir(exist_ok=True)
        with ExitStack() as opened:
            found = opened.enter_context(TemporaryFile(dir=self.folder))
            kept = opened.enter_context(TemporaryFile(dir=self.folder))
            body = opened.enter_context(TemporaryFile(dir=self.folder))
            todo, there = _Written(found), _Written(kept)
            for item in items:
                (there if item.is_there else todo).write(item)
            shares: list[Share] = []
            parts = [(todo, one) for one in deal(todo.pixels, number)] if todo.pixels else []
            for lines, numbers in [*parts, (there, range(len(there.pixels)))]:
                offset = body.tell()
                body.writelines(map(lines.line, numbers))
                pixels = sum(lines.pixels[number] for number in numbers)
                shares.append(Share(offset, body.tell() - offset, len(numbers), pixels))
            header = Header(
                request=digest_of(self._request),
                shards=tuple(shares[:-1]),
                there=shares[-1],
                left_out=left_out,
                models=models,
                mosaics=tuple(mosaics),
                format=FORMAT if mosaics else 1,
                is_fresh=is_fresh,
                called=called,
                own=own,
            )
            body.seek(0)
            pieces = iter(lambda: body.read(_BLOCK_BYTES), b"")
            write_whole(self.file, chain([any_names.encode(header) + b"\n"], pieces))
        return header

    def header(self) -> Header | None:
        """Read the list's first line; None where none was written yet.

        Raises: RunFolderError for a list of a newer version, of another request or a damaged one.
        """
        try:
            with reading_own(self.file) as stream:
                line = stream.readline(_HEADER_BYTES)
                size = os.fstat(stream.fileno()).st_size
        except FileNotFoundError:
            if os.path.lexists(self.file):  # a folder, or a link: no list that we wrote
                raise RunFolderError(self.file, "is no file of ours", self._anew) from None
            return None
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            raise RunFolderError(self.file, what, "Check its disk") from None
        try:
            version = int(any_names.decode(line, dict)["format"])
            header: Header | None = any_names.decode(line, Header) if version <= FORMAT else None
        except (msgspec.MsgspecError, KeyError, ValueError, TypeError):
            what = "is no list of shards, or damaged"
            raise RunFolderError(self.file, what, self._anew) from None
        if header is None:
            what = f"has format {version}, this version knows {FORMAT}"
            raise RunFolderError(self.file, what, "Update emcfsys-tui on all nodes")
        if header.request != digest_of(self._request):
            what = "was made for another request than its run.json has now"
            raise RunFolderError(self.file, what, self._anew)
        if size != len(line) + header.there.offset + header.there.length:
            raise RunFolderError(self.file, "was cut short or changed", self._anew)
        for mosaic in header.mosaics:
            self._refuse_elsewhere(mosaic.mask)
        return header

    def items(self, share: Share) -> Iterator[ShardItem]:
        """Yield the images of one shard.

        Raises: RunFolderError where the list was cut short, or names a mask elsewhere.
        """
        with reading_own(self.file) as stream:
            stream.seek(len(stream.readline(_HEADER_BYTES)) + share.offset)
            left = share.length
            while left > 0:
                lines = stream.read(min(left, _BLOCK_BYTES))
                lines += stream.readline() if len(lines) < left else b""
                left -= len(lines)
                if not lines:
                    self._refuse_damaged(lines)
                for item in any_names.decode_lines(lines, ShardItem, self._refuse_damaged):
                    self._refuse_elsewhere(item.mask)
                    yield item

    def places(self, share: Share) -> Iterator[tuple[int, ShardItem]]:
        """Yield the images of one shard, each with where its line begins, in bytes.

        Raises: RunFolderError as `items`.
        """
        with reading_own(self.file) as stream:
            place = len(stream.readline(_HEADER_BYTES)) + share.offset
            stream.seek(place)
            left = share.length
            while left > 0:
                line = stream.readline()
                yield place, self._item(line)
                left -= len(line)
                place += len(line)

    def items_at(self, places: Iterable[int]) -> Iterator[ShardItem]:
        """Yield the images whose lines begin there.

        Raises: RunFolderError as `items`.
        """
        with reading_own(self.file) as stream:
            for place in places:
                stream.seek(place)
                yield self._item(stream.readline())

    def _item(self, line: bytes) -> ShardItem:
        for item in any_names.decode_lines(line, ShardItem, self._refuse_damaged):
            self._refuse_elsewhere(item.mask)
            return item
        return self._refuse_damaged(line)

    def _refuse_damaged(self, line: bytes) -> NoReturn:
        what, run = "is damaged", self.folder.parent
        remedy = f"Remove {run}, then {self._anew[0].lower()}{self._anew[1:]}"
        raise RunFolderError(self.file, what, remedy)

    def _refuse_elsewhere(self, mask: str) -> None:
        out = self._request.out
        if not mask and self._request.writes_nothing_each:
            return
        if not mask.startswith(f"{out}{os.sep}") or f"{os.sep}..{os.sep}" in mask:
            what = f"names {mask} as a mask, which is not below {out}"
            raise RunFolderError(self.file, what, self._anew)

    def lines_file(self, shard: int) -> Path:
        """What became of a shard's images."""
        return self.folder / f"{shard:05d}.jsonl"

    def results_file(self, shard: int) -> Path:
        """What a shard's task keeps of its images for the last step."""
        return self.lines_file(shard).with_suffix(RESULTS)

    def book_file(self, shard: int) -> Path:
        """What a shard's task wrote into the output folder."""
        return self.lines_file(shard).with_suffix(BOOK)

    def log_file(self, shard: int) -> Path:
        """What a shard's task said."""
        return self.folder / f"{shard:05d}.log"

    def claim(self, shard: int, patience_s: float = 0.0) -> int | None:
        """Lock a shard; return the lock, or None while another task has it.

        A task that was started again elsewhere may find the one before still ending: it waits.
        """
        return locked(self.lines_file(shard).with_suffix(LOCK), patience_s)

    def is_worked_on(self) -> bool:
        """Tell whether a task has a shard, as far as this disk's locks tell."""
        for file in self.folder.glob(f"*{LOCK}"):
            with suppress(OSError):
                descriptor = open_own(file, os.O_RDWR, is_shared=True)
                if is_locked(descriptor):
                    return True
        return False

    def claim_list(self, patience_s: float) -> int:
        """Lock the writing of the list: whoever is first writes it, the others wait.

        Raises: RunFolderError when it is locked for longer.
        """
        self.folder.mkdir(exist_ok=True)
        descriptor = locked(self.folder / "list.lock", patience_s)
        if descriptor is None:
            what = f"is written by another task for more than {patience_s:g} s"
            raise RunFolderError(self.file, what, "See whether that task lives; then start again")
        return descriptor


class _Written:
    """Lines of a list in the order in which images are found: of each is kept where it ends."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._ends = array("Q", [0])
        self.pixels = array("Q")

    def write(self, item: ShardItem) -> None:
        line = any_names.encode(item) + b"\n"
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))
        self.pixels.append(item.pixels)

    def line(self, place: int) -> bytes:
        self._file.seek(self._ends[place])
        return self._file.read(self._ends[place + 1] - self._ends[place])


# A disk without locks: there the task's number in the array is its claim.
_NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP))


def locked(file: Path, patience_s: float) -> int | None:
    """Lock a file for this process; return the lock, or None while another has it for so long."""
    descriptor = open_own(file, os.O_RDWR | os.O_CREAT, is_shared=True)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            return descriptor
        else:
            return descriptor
