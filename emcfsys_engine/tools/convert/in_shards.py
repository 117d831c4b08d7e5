"""A conversion in shards: what `convert` brings to the road that all commands in shards take.

What holds for all files (classes, names, where each goes) is found once, with the list. A task
converts its share as one process would, each file by itself; the last step says what became of all
in their order, and writes COCO's one file.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.annotations.files import read_with
from emcfsys_engine.errors import InputError, OutputError, RunFolderError
from emcfsys_engine.files import write_whole
from emcfsys_engine.images.output_book import FOLDER, OutputBook
from emcfsys_engine.images.output_names import instances_there
from emcfsys_engine.images.own_outputs import PartBook, take_in
from emcfsys_engine.run.events import Event, ImageFailed, ItemDone, RunStarted, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import ConvertRequest
from emcfsys_engine.run.shards import Header, ShardItem
from emcfsys_engine.shards.forecast import ShardForecast, reckoned, to_try
from emcfsys_engine.shards.work import (
    Asked,
    Done,
    Emit,
    Ended,
    ImageSizes,
    ItemBecame,
    Tally,
    Work,
    file_bytes,
    ref_of,
    states_of,
    tasks_at_once,
    why_changed,
)
from emcfsys_engine.tools.convert.conversion import Plan, options_of, plan_images, plan_labels
from emcfsys_engine.tools.convert.items import Skipped, ToConvert
from emcfsys_engine.tools.convert.writing import Conversion, Converter, ItemOutcome, OfAll, gathered

_BASE = Path("/")  # all paths of a request are absolute


def work_of(run: Run) -> Work:
    """Return what a conversion brings.

    Raises: RunFolderError for another run.
    """
    if not isinstance(run.record().request, ConvertRequest):
        raise RunFolderError(run.record_file, "is no conversion", "Convert anew")
    return ConvertWork(run)


class ConvertWork(Work):
    """A conversion in shards."""

    called = "files"

    def write_list(self, emit: Emit, asked: Asked) -> Header:
        """Find all files and what holds for them together, and write the list."""
        plan = plan_of(self.request)
        own = msgspec.to_builtins(plan.of_all, str_keys=True)
        number = self.request.shards
        return self.shards.write(items_of(plan), number, called=self.called, own=own)

    def begun(self, header: Header) -> Sequence[Event]:
        """Return what is told first."""
        of_all = of_all_in(self, header)
        began = RunStarted(
            run=self.run.id,
            does="convert",
            project=Path(self.request.source).name,
            classes=tuple(of_all.reading.classes),
            num_images=header.num_items,
            called=self.called,
        )
        return [began, *(_failed(one.file, one) for one in of_all.skipped)]

    def begin(self, header: Header, shard: int, asked: Asked) -> "_Converting":
        """Begin with one shard."""
        out = Path(self.request.out)
        book = PartBook(out, self.shards.book_file(shard))
        return _Converting(book, Converter(of_all_in(self, header), out, book), self)

    def put_together(self, end: Ended) -> Tally:
        """Take all books into the folder's, write COCO's one file and what the command says.

        Raises: InputError when they cannot be written.
        """
        out, of_all = Path(self.request.out), of_all_in(self, end.header)
        take_in(out, [self.shards.book_file(shard) for shard in range(len(end.header.shards))])
        became = ((self.to_convert(one.item), self._became(one, end)) for one in end.in_order())
        found = gathered(of_all, became, out, OutputBook(out))
        write_whole(self.run.result_file, any_names.encode(found, indent=2))
        for note in found.notes:
            end.emit(WarningGiven(message=note))
        return Tally(len(found.written), len(found.skipped))

    def to_convert(self, item: ShardItem) -> ToConvert:
        """Return what the list has of one file.

        Raises: RunFolderError for a list that does not say it, or leads out of its folder.
        """
        try:
            own = msgspec.convert(item.own, ToConvert)
        except msgspec.ValidationError as error:
            what = f"is no list of what is converted: {error}"
            raise RunFolderError(self.shards.file, what, "Convert anew") from None
        if os.sep in own.view:
            what = f"names {own.view} as a picture beside {item.mask}"
            raise RunFolderError(self.shards.file, what, "Convert anew")
        return msgspec.structs.replace(own, file=item.mask)

    def _became(self, one: ItemBecame, end: Ended) -> ItemOutcome:
        """Return what became of a file; one that is not there is none that was written."""
        ref = str(ref_of(one.item))
        if isinstance(one.event, ImageFailed) and not one.result:
            why = one.event.reason.removeprefix(f"{ref}: ")
            return ItemOutcome(skipped=Skipped(file=ref, why=why))
        try:
            outcome: ItemOutcome = any_names.decode(one.result, ItemOutcome)
        except msgspec.MsgspecError:
            outcome = ItemOutcome(written=ref, coco=None)
            lost = Skipped(file=ref, why="what its task kept of it is damaged. Convert again")
        else:
            lost = Skipped(file=ref, why=f"{outcome.written} is gone. Convert again")
            if not outcome.written:
                return outcome
            if why := why_changed(one.item):
                lost = Skipped(file=ref, why=f"{why}. Convert again, with --overwrite")
            elif outcome.coco or os.path.lexists(outcome.written):
                return outcome
        end.tell(_failed(ref, lost))
        return ItemOutcome(skipped=lost, notes=outcome.notes)


class _Converting:
    """One shard's files under way in this task."""

    def __init__(self, book: PartBook, converter: Converter, work: ConvertWork) -> None:
        self.book = book
        self._converter, self._work = converter, work

    def run(self, items: Iterator[ShardItem]) -> Iterator[tuple[ShardItem, Done | Exception]]:
        """Yield files with what became of them."""
        for item in items:
            try:
                yield item, self._done(self._work.to_convert(item))
            except OutputError as error:
                yield item, error

    def close(self) -> None:
        """Put the names of what was written on the disk."""
        self.book.sync()

    def _done(self, one: ToConvert) -> Done:
        outcome = self._converter.one(one)
        name = str(one.ref) if one.kind == "picture" else one.name
        lost = outcome.skipped
        event = ItemDone(image=name) if lost is None else _failed(name, lost)
        return Done(event, any_names.encode(outcome))


def _failed(name: str, one: Skipped) -> ImageFailed:
    return ImageFailed(image=name, reason=f"{one.file}: {one.why}")


def of_all_in(work: ConvertWork, header: Header) -> OfAll:
    """Return what holds for all files.

    Raises: RunFolderError for a list that does not say it, or leads out of its folder.
    """
    try:
        found = msgspec.convert(header.own, OfAll, str_keys=True)
    except msgspec.ValidationError as error:
        what = f"is no list of what is converted: {error}"
        raise RunFolderError(work.shards.file, what, "Convert anew") from None
    if found.whole and Path(found.whole).parent != Path(work.request.out):
        what = f"names {found.whole}, which is not in {work.request.out}"
        raise RunFolderError(work.shards.file, what, "Convert anew")
    return found


def plan_of(request: ConvertRequest) -> Plan:
    """Find what a request names, and where each file goes.

    Raises: InputError when there is nothing.
    """
    out = Path(request.out)
    if request.to == "png":
        return plan_images(request.source, out, overwrite=request.overwrite, base=_BASE)
    return plan_labels(request.source, out, base=_BASE, **options_of(request))


def items_of(plan: Plan) -> Iterator[ShardItem]:
    """Yield files as the list has them."""
    sizes, planes = ImageSizes(), Counter(one.path for one in plan.items)
    for number, one in enumerate(plan.items):
        known = one.why_not or one.kind == "shapes"
        size, pixels = sizes.of(one.path, planes[one.path], is_wanted=not known)
        if known:
            pixels = 0 if one.why_not else one.size_HW[0] * one.size_HW[1]
        own = msgspec.to_builtins(msgspec.structs.replace(one, file=""))
        also = _read_with(one)
        states = states_of((one.path, *(file for file, _ in also)))
        yield ShardItem(
            number, one.path, one.plane, one.file, size, pixels, also=also, own=own, states=states
        )


def _read_with(one: ToConvert) -> tuple[tuple[str, int], ...]:
    """Return the files that are read beside an item's own, with their bytes."""
    read = [mask for _, mask in one.parts[1:]]
    if one.view:
        read.append(one.image)
    if one.kind == "mask" and (beside := instances_there(Path(one.path))) is not None:
        read.append(str(beside))
    if one.kind == "shapes":
        read += [str(file) for file in read_with(Path(one.path)) if file.is_file()]
    return tuple((file, file_bytes(file)) for file in read)


def result_of(run: Run) -> Conversion | None:
    """Return what a conversion in shards did; None before its end."""
    try:
        found: Conversion | None = any_names.read(run.result_file, Conversion)
    except OSError:
        return None
    return found


def forecast(request: ConvertRequest) -> ShardForecast:
    """Convert a few files, and reckon what all of them take; what is there already takes nothing.

    Raises: InputError without files, or where none of those tried can be converted.
    """
    plan = plan_of(request)
    listed = zip(plan.items, items_of(plan), strict=True)
    todo = [(one, item) for one, item in listed if not one.why_not]
    if not todo:
        what = "nothing of it is left to convert"
        raise InputError(request.source, what, "Look at --out, or give --overwrite")
    items = [item for _, item in todo]
    pixels = [item.pixels for item in items]
    seconds, written, tried = _tried(plan, [todo[place][0] for place in to_try(pixels)])
    of_tried = sum(item.pixels for one, item in todo if one in tried)
    if not tried:
        what = "none of the files that were tried can be converted"
        raise InputError(request.source, what, "Look at one with inspect")
    return reckoned(
        items,
        request.shards,
        tasks_at_once(request),
        rate=max(1, of_tried) / max(1e-6, seconds),
        written_bytes=math.ceil(written * len(items) / len(tried)),
        tried=len(tried),
        called="files",
    )


def _tried(plan: Plan, some: list[ToConvert]) -> tuple[float, int, list[ToConvert]]:
    """Return the seconds and bytes of those that can be converted, and which these are."""
    seconds, kept_bytes, tried = 0.0, 0, list[ToConvert]()
    with TemporaryDirectory() as name:
        out = Path(name)
        converter = Converter(plan.of_all, out, OutputBook(out))
        for number, one in enumerate(some):
            file = str(out / str(number) / Path(one.file).name) if one.file else ""
            began = time.monotonic()
            made = converter.one(msgspec.structs.replace(one, file=file))
            if made.skipped is None:
                seconds += time.monotonic() - began
                tried.append(one)
                kept_bytes += len(any_names.encode(made.coco.objects)) if made.coco else 0
        folders = (os.walk(out / one) for one in os.listdir(out) if one != FOLDER)
        files = (Path(folder, one) for each in folders for folder, _, few in each for one in few)
        return seconds, kept_bytes + sum(file.stat().st_size for file in files), tried
