"""What becomes of one image of a hot folder: mask, companions, measurements, a judgement."""

import itertools
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine.errors import OutputError
from emcfsys_engine.hotfolder.journal import Act, act_of
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Entry
from emcfsys_engine.hotfolder.review import files_of_mask
from emcfsys_engine.hotfolder.scan import MAX_ATTEMPTS, FoundFile
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.outages import is_of_disk
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import WantedName, stem_of
from emcfsys_engine.images.own_files import digest_of_output, is_content, is_other_file, resolved
from emcfsys_engine.images.own_outputs import OutputsBelow
from emcfsys_engine.images.reader import probe
from emcfsys_engine.learn.inference.image import EndAskedFor, Order
from emcfsys_engine.learn.inference.outputs import among_originals, maker_of
from emcfsys_engine.learn.inference.pipeline import Failure
from emcfsys_engine.learn.inference.pipes import PlaneMade
from emcfsys_engine.learn.inference.placing import Placed, Placing
from emcfsys_engine.learn.watch.measurements import Line
from emcfsys_engine.learn.watch.planes import CAUGHT, Computes, Plane
from emcfsys_engine.project import Project
from emcfsys_engine.verdicts import verdict_of_planes


@dataclass(frozen=True, kw_only=True)
class Handled:
    """What became of one file."""

    entry: Entry
    mask: Path | None = None
    written: tuple[Path, ...] = ()  # every mask: one a plane
    tally: PlaneMade | None = None  # of the last plane that was predicted
    measured: tuple[Line, ...] = ()  # one a plane, where the project asks for it
    seconds: float = 0.0
    unlike: str = ""
    judged: Judged | None = None  # where it was predicted
    adopted: bool = False  # its masks were there already, and are kept as they are
    told: str = ""  # what a person should hear of it
    waits_for: OutputError | None = None  # its place cannot be written: nothing to note
    placed: Placed | None = None


@dataclass(frozen=True, kw_only=True)
class ImageToDo:
    """One file that needs a mask."""

    seen: FoundFile
    digest: str
    version: int  # of the mask: a rewritten file may keep its older masks
    attempts: int
    is_new: bool = False  # the ledger knows no mask of it: those that are there are adopted
    by_recipe: bool = False  # its masks are of another recipe: none of its planes is done


@dataclass(frozen=True, kw_only=True)
class _Plane(Plane):
    """One plane of a task."""

    task: ImageToDo
    masks: tuple[Path, ...] = ()  # of all planes
    placed: Placed | None = None
    is_last: bool = True
    told: str = ""


@dataclass(kw_only=True)
class _Gathered:
    """What the planes of one file came to."""

    started: float = 0.0
    tally: PlaneMade | None = None
    unlike: str = ""
    measured: list[Line] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    numbers: dict[str, dict[str, float]] = field(default_factory=dict)  # by plane


class ImageStages:
    """Handles one file after the other, a stack plane by plane; `by` computes."""

    def __init__(
        self,
        project: Project,
        by: Computes,
        root: Path,
        book: OutputBook,
    ) -> None:
        self._project = project
        self._root = root
        self._book = book
        self._placing = Placing(book, ".png", [root])
        self._outputs_below = OutputsBelow(root)
        self._gave_up: set[str] = set()
        self.max_attempts = MAX_ATTEMPTS
        self.use(by)

    def use(self, by: Computes) -> None:
        """Go on with another model."""
        self._by, self._maker = by, maker_of([by.card], self._project.inference)
        by.open(self._book)

    def handle(self, tasks: Sequence[ImageToDo], go_on: Callable[[], bool]) -> Iterator[Handled]:
        """Predict files and write their masks; a file's error is in its result, not raised.

        Files are read ahead and masks written behind, as `predict` does.
        Raises: DiskFullError when masks cannot be written, GpuLostError when this process can
        compute no more: neither is a file's fault.
        """
        self._gave_up.clear()
        self._book.refresh()  # several processes may write into it
        planes = itertools.takewhile(lambda _: go_on(), self._planes(tasks))
        gathered: dict[str, _Gathered] = {}
        told: set[str] = set()
        try:
            for plane, result in self._by.run(planes):
                path = plane.path
                if isinstance(result, Failure):
                    self._gave_up.add(path)
                    if path not in told:
                        yield self._failure(plane.task, result.error)
                    told.add(path)
                    continue
                one = gathered.setdefault(path, _Gathered(started=time.monotonic()))
                if result is not None:
                    self._gather(one, plane, result)
                if plane.is_last and path not in told:
                    yield self._done(plane, gathered.pop(path))
        except EndAskedFor:
            return

    def _planes(self, tasks: Sequence[ImageToDo]) -> Iterator[_Plane]:
        """Yield the planes of files one by one: a stack never lies in memory as a whole."""
        known = self._names_of(tasks)
        for task, planes in known:
            if isinstance(planes, Exception):
                yield _Plane(path=task.seen.path, task=task, error=planes)
                continue
            try:
                yield from self._orders(task, planes)
            except OSError as error:  # of the output's side: names could not be noted
                fault = OutputError(
                    self._book.out, f"cannot be written: {error.strerror}", errno=error.errno or 0
                )
                yield _Plane(path=task.seen.path, task=task, error=fault)

    def _names_of(
        self, tasks: Sequence[ImageToDo]
    ) -> list[tuple[ImageToDo, tuple[int | None, ...] | Exception]]:
        """Return the planes of files; names of new ones are given out together."""
        found: list[tuple[ImageToDo, tuple[int | None, ...] | Exception]] = []
        for task in tasks:
            try:
                number = probe(self._root / task.seen.path).planes
            except CAUGHT as error:
                found.append((task, error))
            else:
                found.append((task, (None,) if number <= 1 else tuple(range(number))))
        wanted = [self._wanted(task, planes) for task, planes in found if isinstance(planes, tuple)]
        with suppress(OSError):  # told by the first file that is to be placed
            self._placing.newest(wanted)
        return found

    def _wanted(self, task: ImageToDo, planes: tuple[int | None, ...]) -> WantedName:
        folder = os.path.dirname(task.seen.path)  # noqa: PTH120 - of any bytes
        image = str(resolved(self._root / task.seen.path))
        return WantedName(
            image=image,
            folder=folder,
            planes=planes,
            version=task.version,
            content=task.digest,
        )

    def _orders(self, task: ImageToDo, planes: tuple[int | None, ...]) -> Iterator[_Plane]:
        refs = [ImageRef(path=self._root / task.seen.path, plane=plane) for plane in planes]
        (placed,) = self._placing.newest([self._wanted(task, planes)])
        if self._placing.is_among_originals(placed):
            fault = among_originals(placed.masks[0])
            yield _Plane(path=task.seen.path, task=task, error=fault)
            return
        there = self._placing.newest_there(placed) if task.is_new else placed
        if task.is_new and self._is_adopted(task, there):
            task = replace(task, version=there.wanted.version)
            yield _Plane(path=task.seen.path, task=task, masks=there.masks, told="adopted")
            return
        placed = self._placing.writable(placed, lambda mask: self._by.files(refs[0], mask))
        task = replace(task, version=placed.wanted.version)
        todo = [
            (ref, mask)
            for ref, mask in zip(refs, placed.masks, strict=True)
            if len(refs) == 1 or task.by_recipe or not self._is_made(task, mask)
        ] or [(refs[-1], placed.masks[-1])]
        for ref, mask in todo:
            if task.seen.path in self._gave_up:
                return
            yield _Plane(
                path=task.seen.path,
                task=task,
                masks=placed.masks,
                placed=placed,
                order=Order(ref=ref, mask_file=mask, content=task.digest),
                is_last=ref == todo[-1][0],
                told=placed.told,
            )

    def _is_adopted(self, task: ImageToDo, placed: Placed) -> bool:
        """Tell whether the masks of an image that the ledger does not know are there already.

        Ours are made anew if the image is another one, their values mean other classes, or its
        measurements are wanted: nothing is lost by that. A person's are kept, and ours whose
        outlines or objects' numbers a person changed, unless they are known to be of another image.
        """
        image = self._root / task.seen.path
        if not all(os.path.lexists(mask) for mask in placed.masks):
            return False
        if not all(is_other_file(mask, image) for mask in placed.masks):
            return False  # somebody's link to the image: no mask was ever made
        if any(self._placing.is_of_another(mask, placed.wanted) for mask in placed.masks):
            return False
        if all(self._book.has(mask) for mask in placed.masks):
            if not all(self._book.has(mask, task.digest) for mask in placed.masks):
                return False
            makers = map(self._book.maker_of, placed.masks)
            if any(one and one.classes != self._maker.classes for one in makers):
                return False  # its values mean other classes
            beside = (file for mask in placed.masks for file in files_of_mask(mask))
            return not (self._needs_numbers and all(map(self._book.has, beside)))
        return all(
            not self._book.is_known(mask) or self._book.is_made_of(mask, image, task.digest)
            for mask in placed.masks
        )

    def _is_made(self, task: ImageToDo, mask: Path) -> bool:
        """Tell whether a plane was done, by this model, when the watch was ended in its stack."""
        if self._needs_numbers or not self._book.has(mask, task.digest):
            return False
        return self._book.maker_of(mask) in (None, self._maker)

    @property
    def _needs_numbers(self) -> bool:
        """Tell whether masks that are there are not enough: something is measured or judged."""
        return self._project.hotfolder.measure or bool(self._project.limits)

    def _gather(self, one: _Gathered, plane: _Plane, result: PlaneMade) -> None:
        number = None if plane.order is None else plane.order.ref.plane
        one.numbers["" if number is None else str(number)] = result.numbers
        one.started = min(one.started, result.started)
        one.tally = result
        one.unlike = one.unlike or result.unlike
        one.written.append(Path(result.mask))
        if result.line:
            found = verdict_of_planes({"": result.numbers}, self._project.limits)
            one.measured.append({**result.line, "verdict": found.state if found else ""})

    def _judged(self, plane: _Plane, one: _Gathered) -> Judged:
        """Judge a file by all its planes; those that were made by an earlier start are unknown."""
        numbers = one.numbers
        if "" not in numbers:
            numbers = {str(n): numbers.get(str(n), {}) for n in range(len(plane.masks))}
        found = verdict_of_planes(numbers, self._project.limits)
        return Judged(
            path=plane.path,
            digest=plane.task.digest,
            numbers=numbers,
            state=found.state if found else "",
            reasons=found.reasons if found else (),
        )

    def _done(self, plane: _Plane, one: _Gathered) -> Handled:
        below = str(plane.masks[-1].relative_to(self._book.out))
        adopted = plane.order is None
        return Handled(
            entry=self._entry(plane.task, "done", mask=below),
            mask=plane.masks[-1],
            written=tuple(one.written),
            measured=tuple(one.measured),
            tally=one.tally,
            seconds=0.0 if adopted else time.monotonic() - one.started,
            unlike=one.unlike,
            judged=None if adopted or one.tally is None else self._judged(plane, one),
            adopted=adopted,
            told="" if adopted else plane.told,
            placed=plane.placed,
        )

    def act(self, one: Handled, before: Entry | None, run: str, recipe: str = "") -> Act:
        """Return what the journal is to say of an image; its masks are told by their digests."""
        is_redone = before is not None and (before.state == "done" or bool(before.mask))
        masks = one.written or ((one.mask,) if one.mask else ())
        return act_of(
            "adopted" if one.adopted else "redone" if is_redone else "predicted",
            image=one.entry.path,
            content=one.entry.digest,
            masks={str(mask.relative_to(self._book.out)): digest_of_output(mask) for mask in masks},
            model="" if one.adopted else one.entry.model,
            run=run,
            recipe=recipe,
            verdict=one.judged.state if one.judged else "",
            reasons=one.judged.reasons if one.judged else (),
        )

    def _failure(self, task: ImageToDo, error: Exception) -> Handled:
        if isinstance(error, OutputError) and is_of_disk(error):
            return Handled(entry=self._entry(task, "trying"), waits_for=error)
        state = "failed" if task.attempts >= self.max_attempts else "trying"
        return Handled(entry=self._entry(task, state, reason=str(error) or type(error).__name__))

    def retire(self, one: Handled) -> str:
        """Remove what is of a file as it was before; return what to say.

        A rewritten file's older masks stay only where the project wants versions: under others'
        names.
        """
        self._book.refresh()
        return "" if one.placed is None else self._placing.retire(one.placed)

    def are_masks_of(self, path: str, digest: str) -> bool:
        """Tell whether the masks of a file are of it as it is.

        It may be what it was when it was done, and have been another between: that one's masks got
        their names, and then it had changed, or the watch was killed.
        """
        image = self._root / path
        last = self._book.predicted_last(str(resolved(image)))
        try:
            return not last or is_content(last, image, digest)
        except OSError:
            return True  # it went: the next scan tells

    def unchanged(self, seen: FoundFile, before: Entry, digest: str) -> Handled:
        """A file that was only touched: note its new time."""
        entry = msgspec.structs.replace(
            before, size=seen.size, mtime_ns=seen.mtime_ns, ctime_ns=seen.ctime_ns, digest=digest
        )
        return Handled(entry=entry)

    def skipped(self, seen: FoundFile, before: Entry, digest: str) -> Handled:
        """A rewritten file that the project wants left alone."""
        entry = msgspec.structs.replace(
            before, size=seen.size, mtime_ns=seen.mtime_ns, digest=digest, state="skipped"
        )
        return Handled(entry=entry)

    def why_no_image(self, seen: FoundFile) -> str:
        """Say why a file gets no mask: it is one of our own, here or of another output."""
        if self._book.is_copy_of_output(self._root / seen.path, seen.size):
            return "is a copy of one of this folder's outputs"
        other = self._outputs_below.whose(seen.path)
        return "" if other is None else f"was written as an output into {other}"

    def own_output(self, seen: FoundFile, digest: str, why: str) -> Handled:
        """One of our masks, or a copy of one: it gets no mask of its own."""
        task = ImageToDo(seen=seen, digest=digest, version=1, attempts=1)
        return Handled(entry=self._entry(task, "skipped", reason=why))

    def unreadable(self, seen: FoundFile, attempts: int, error: OSError) -> Handled:
        """A file that cannot even be opened."""
        return self._failure(ImageToDo(seen=seen, digest="", version=1, attempts=attempts), error)

    def know(self, entries: dict[str, Entry]) -> None:
        """Remember which file owns which mask from earlier starts."""
        self._book.adopt(
            _recorded(self._root, path, entry) for path, entry in entries.items() if entry.mask
        )

    def _entry(
        self,
        task: ImageToDo,
        state: Literal["done", "trying", "failed", "skipped"],
        *,
        mask: str = "",
        reason: str = "",
    ) -> Entry:
        card = self._by.card
        return Entry(
            path=task.seen.path,
            size=task.seen.size,
            mtime_ns=task.seen.mtime_ns,
            ctime_ns=task.seen.ctime_ns,
            digest=task.digest,
            state=state,
            mask=mask,
            version=task.version,
            attempts=task.attempts,
            reason=reason,
            model=f"{card.run} step {card.step}".strip(),
        )


def _recorded(root: Path, path: str, entry: Entry) -> tuple[WantedName, list[str]]:
    """Return the names that a ledger from before the book recorded: of all planes of a stack."""
    folder, _, name = entry.mask.rpartition("/")
    stem = stem_of(Path(name))
    tail = f".v{entry.version}" if entry.version > 1 else ""
    base = stem.removesuffix(tail)
    planes: tuple[int | None, ...] = (None,)
    stack = re.fullmatch(r"(.+)\.(\d{4,})", base, re.DOTALL)
    if stack and stack[1] in (Path(path).stem, Path(path).name) and int(stack[2]):
        planes = tuple(range(int(stack[2]) + 1))
        stems = [f"{stack[1]}.{plane:04d}{tail}" for plane in range(len(planes))]
    else:
        stems = [stem]
    wanted = WantedName(
        image=str(resolved(root / path)), folder=folder, planes=planes, version=entry.version
    )
    return wanted, [f"{folder}/{one}" if folder else one for one in stems]


def sync(files: Collection[Path]) -> None:
    """Wait until files and their names are on the disk; one that somebody took away is theirs."""
    for place in (*files, *{file.parent for file in files}):
        try:
            descriptor = os.open(place, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
