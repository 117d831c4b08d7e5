"""A measurement in shards: what `measure` brings to the road that all commands in shards take.

A task measures its share of the masks and keeps what each gave. The last step takes all of it in
the order of the masks, as one process would have: tables, histograms and a standard's numbers are
the same, whatever the cuts.
"""

import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import InputError, RunFolderError
from emcfsys_engine.files import write_whole
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import instances_there
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.images.reader import find_images
from emcfsys_engine.run.events import Event, ImageFailed, ItemDone, RunStarted, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import MeasureRequest
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
    state_of,
    states_of,
    tasks_at_once,
    why_changed,
)
from emcfsys_engine.tools.measure.fields import (
    Fields,
    Items,
    Labels,
    open_fields,
    shown,
    why_not_measured,
)
from emcfsys_engine.tools.measure.kept_masks import keep, kept
from emcfsys_engine.tools.measure.masks import (
    Gathering,
    OneMask,
    calibration_for,
    measure_one,
    need_libraries,
    with_shares,
)
from emcfsys_engine.tools.measure.results import Measurement, MeasureSettings, NotMeasured
from emcfsys_engine.tools.measure.standards.results import Calibration
from emcfsys_engine.tools.measure.standards.study import Study
from emcfsys_engine.tools.measure.tables import Unit, images_table, objects_table, write_table

_BASE = Path("/")  # all paths of a request are absolute
_STAMP_BYTES = 4
_AGAIN = "Measure again"
_TABLES = "tables.digest"  # in the run's folder: as it left its tables


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for all masks, as the list of shards has it."""

    labels: Labels
    unit: Unit
    root: str  # names of masks are relative to it
    reads_numbers: bool
    notes: tuple[str, ...]
    failed: tuple[NotMeasured, ...]  # found to be none that can be measured
    calibration: Calibration | None
    inputs: str  # digest of names, sizes and times of all files


class OfMask(msgspec.Struct, frozen=True, array_like=True):
    """What the list has of one mask, beside its file and its image's."""

    image_plane: int | None
    pixel: tuple[float, float]


def settings_of(request: MeasureRequest) -> MeasureSettings:
    """Return how masks are measured.

    Raises: InputError for settings of another version.
    """
    try:
        return msgspec.convert(request.settings, MeasureSettings, str_keys=True)
    except msgspec.ValidationError as error:
        what = f"does not say how to measure: {error}"
        raise InputError("run.json", what, "Measure anew") from None


def work_of(run: Run) -> Work:
    """Return what a measurement brings.

    Raises: RunFolderError for another run.
    """
    if not isinstance(run.record().request, MeasureRequest):
        raise RunFolderError(run.record_file, "is no measurement", "Measure anew")
    return MeasureWork(run)


class MeasureWork(Work):
    """A measurement in shards."""

    called = "masks"

    @cached_property
    def settings(self) -> MeasureSettings:
        """How masks are measured."""
        return settings_of(self.request)

    def write_list(self, emit: Emit, asked: Asked) -> Header:
        """Find all masks and what holds for them together, and write the list."""
        fields = fields_of(self.request, self.settings)
        out = Path(self.request.out)
        inputs = digest_of_inputs(self.request)
        common = Common(
            labels=fields.labels,
            unit=fields.unit,
            root=str(fields.items.root),
            reads_numbers=fields.reads_numbers,
            notes=tuple(fields.items.notes),
            failed=tuple(fields.items.failed),
            calibration=calibration_for(fields, self.settings, out, _BASE),
            inputs=inputs,
        )
        items = items_of(fields)
        own = msgspec.to_builtins(common, str_keys=True)
        return self.shards.write(items, self.request.shards, called=self.called, own=own)

    def begun(self, header: Header) -> Sequence[Event]:
        """Return what is told first."""
        common = common_of(self, header)
        began = RunStarted(
            run=self.run.id,
            does="measure",
            project=Path(self.request.masks).name,
            classes=tuple(name for _, name in common.labels.names),
            num_images=header.num_images,
            called=self.called,
        )
        return [began, *map(_failed, common.failed)]

    def _kept(self, became: ItemBecame, fields: Fields) -> OneMask:
        try:
            return _kept(became.item, became.result, fields)
        except InputError as fault:
            # The same command would go on with this run, and meet the same again.
            remedy = f"Remove {self.run.folder}, then measure anew"
            raise InputError(fault.where, fault.what, remedy) from None

    def is_outdated(self, header: Header) -> bool:
        """Tell whether a mask or an image came, went or is another one by now."""
        return common_of(self, header).inputs != digest_of_inputs(self.request)

    def begin(self, header: Header, shard: int, asked: Asked) -> "_Measuring":
        """Begin with one shard."""
        return _Measuring(common_of(self, header), self.settings)

    def put_together(self, end: Ended) -> Tally:
        """Write tables, histograms and a standard's numbers, then what the command says of them.

        Raises: InputError when they cannot be written.
        """
        common, out = common_of(self, end.header), Path(self.request.out)
        stamp = hashlib.blake2b(os.fsencode(self.run.folder), digest_size=_STAMP_BYTES).hexdigest()
        items = Items(masks=[], image_of={}, root=Path(common.root))
        items.failed, items.notes = list(common.failed), list(common.notes)
        fields = _fields(common, items)
        with Gathering(fields, self.settings, out, common.calibration, stamp) as gathering:
            for became in end.in_order():
                mask = ref_of(became.item)
                if isinstance(became.event, ItemDone) and (why := why_changed(became.item)):
                    items.failed.append(NotMeasured(file=str(mask), why=f"{why}. {_AGAIN}"))
                    end.tell(_failed(items.failed[-1]))
                elif isinstance(became.event, ItemDone):
                    items.masks.append(mask)
                    gathering.take(self._kept(became, fields))
                elif isinstance(became.event, ImageFailed):
                    why = became.event.reason.removeprefix(f"{mask}: ")
                    items.failed.append(NotMeasured(file=str(mask), why=why))
            found = gathering.finish()
        write_whole(self.run.folder / _TABLES, digest_of_tables(found).encode())
        write_whole(self.run.result_file, any_names.encode(found, indent=2))
        for note in found.all_notes:
            end.emit(WarningGiven(message=note))
        return Tally(found.num_masks, len(found.failed))


class _Measuring:
    """One shard's masks under way in this task."""

    book = None  # no mask has files of its own

    def __init__(self, common: Common, settings: MeasureSettings) -> None:
        self._common, self._settings = common, settings
        # Of each shard its own: the first fields of all are among the first of their shards.
        self._study = Study(settings, settings.standard) if settings.standard is not None else None

    def run(self, items: Iterator[ShardItem]) -> Iterator[tuple[ShardItem, Done | Exception]]:
        """Yield masks with what they gave."""
        for item in items:
            yield item, self._measured(item)

    def close(self) -> None:
        """Nothing is open."""

    def _measured(self, item: ShardItem) -> Done:
        mask, own = ref_of(item), msgspec.convert(item.own, OfMask)
        image = _image_of(item, own)
        fields = Items(masks=[mask], image_of={}, root=Path(self._common.root))
        if image is not None:
            fields.image_of[mask] = image
        try:
            one = measure_one(
                _fields(self._common, fields, {mask: own.pixel}),
                mask, self._settings, self._study, item.number,
            )  # fmt: skip
        except InputError as fault:
            why = f"{mask}: {why_not_measured(mask, fault)}"
            return Done(ImageFailed(image=str(mask), reason=why))
        return Done(ItemDone(image=str(mask)), keep(one))


def _fields(
    common: Common, items: Items, pixel_of: dict[ImageRef, tuple[float, float]] | None = None
) -> Fields:
    return Fields(
        items=items,
        labels=common.labels,
        pixel_of=pixel_of or {},
        unit=common.unit,
        without_size=(),
        reads_numbers=common.reads_numbers,
    )


def _kept(item: ShardItem, content: bytes, fields: Fields) -> OneMask:
    image = _image_of(item, msgspec.convert(item.own, OfMask))
    return kept(
        content,
        fields.labels.names,
        mask=shown(ref_of(item), fields.items.root),
        image="" if image is None else str(image),
        file_name=Path(item.image).name,
    )


def _image_of(item: ShardItem, own: OfMask) -> ImageRef | None:
    return ImageRef(path=Path(item.also[0][0]), plane=own.image_plane) if item.also else None


def _failed(one: NotMeasured) -> ImageFailed:
    return ImageFailed(image=one.file, reason=f"{one.file}: {one.why}")


def common_of(work: MeasureWork, header: Header) -> Common:
    """Return what holds for all masks.

    Raises: RunFolderError for a list that does not say it.
    """
    try:
        return msgspec.convert(header.own, Common, str_keys=True)
    except msgspec.ValidationError as error:
        what = f"is no list of masks: {error}"
        raise RunFolderError(work.shards.file, what, "Measure anew") from None


def fields_of(request: MeasureRequest, settings: MeasureSettings) -> Fields:
    """Find the masks of a request.

    Raises: InputError when there are none.
    """
    need_libraries(settings)
    out = Path(request.out)
    return open_fields(request.masks, out, settings, images=request.images or None, base=_BASE)


def items_of(fields: Fields) -> Iterator[ShardItem]:
    """Yield the masks as the list has them."""
    sizes = ImageSizes()
    planes = Counter(mask.path for mask in fields.items.masks)
    for number, mask in enumerate(fields.items.masks):
        size, pixels = sizes.of(mask.path, planes[mask.path], is_wanted=True)
        image = fields.items.image_of.get(mask)
        also = () if image is None else ((str(image.path), file_bytes(image.path)),)
        own = OfMask(None if image is None else image.plane, fields.pixel_of[mask])
        beside = instances_there(mask.path)
        read = [mask.path, *([image.path] if image else []), *([beside] if beside else [])]
        yield ShardItem(
            number, str(mask.path), mask.plane, "", size, pixels, also=also,
            own=msgspec.to_builtins(own), states=states_of(read),
        )  # fmt: skip


def digest_of_inputs(request: MeasureRequest) -> str:
    """Return what changes as soon as a mask or an image is another one, comes or goes."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(set(_inputs(request))):
        state = state_of(file).replace(":", " ")  # as older versions wrote it
        if state:
            digest.update(os.fsencode(file) + f"\0{state}\0".encode())
    return digest.hexdigest()


def _inputs(request: MeasureRequest) -> Iterable[Path]:
    out = Path(request.out)
    places = [request.masks, request.images, *(request.settings.get("calibrate") or ())]
    for place in filter(None, places):
        for ref in find_images(place, _BASE):
            if ref.path.parent != out:  # pictures of ours lie there
                yield ref.path
                if (beside := instances_there(ref.path)) is not None:
                    yield beside


def what_was_found(run: Run) -> Measurement | None:
    """Return what a finished run found; None where a mask, an image or a table changed since."""
    found, request = result_of(run), run.record().request
    assert isinstance(request, MeasureRequest)
    work = MeasureWork(run)
    header = work.shards.header()
    if found is None or header is None:
        return None
    if not all(Path(file).is_file() for file in found.histograms):
        return None
    try:
        is_same = (run.folder / _TABLES).read_bytes() == digest_of_tables(found).encode()
    except OSError:
        return None  # of an older version: what lies there may be another measurement's
    is_same = is_same and common_of(work, header).inputs == digest_of_inputs(request)
    return found if is_same else None


def digest_of_tables(found: Measurement) -> str:
    """Return what changes as soon as another measurement, or a person, writes into its tables."""
    digest = hashlib.blake2b(digest_size=16)
    for file in (found.objects_file, found.images_file):
        digest.update(digest_of_output(Path(file)).encode() if file else b"")
    return digest.hexdigest()


def result_of(run: Run) -> Measurement | None:
    """Return what a measurement in shards found; None before its end."""
    try:
        found: Measurement | None = any_names.read(run.result_file, Measurement)
    except OSError:
        return None
    return found


def forecast(request: MeasureRequest) -> ShardForecast:
    """Measure a few masks, and reckon what all of them take.

    Raises: InputError without masks, or where none of those tried can be measured.
    """
    settings = settings_of(request)
    fields = fields_of(request, settings)
    items = list(items_of(fields))
    pixels = [item.pixels for item in items]
    seconds, tried = _tried(fields, items, settings, to_try(pixels))
    if not tried:
        what = "none of the masks that were tried can be measured"
        raise InputError(request.masks, what, "Look at one with inspect")
    of_tried = max(1, sum(pixels[n] for n in tried))
    written = _table_bytes(fields, list(tried.values()), settings)
    return reckoned(
        items,
        request.shards,
        tasks_at_once(request),
        rate=of_tried / max(1e-6, seconds),
        written_bytes=math.ceil(written * sum(pixels) / of_tried),
        tried=len(tried),
        called="masks",
    )


def _tried(
    fields: Fields, items: list[ShardItem], settings: MeasureSettings, places: list[int]
) -> tuple[float, dict[int, OneMask]]:
    """Return the seconds of those that can be measured, and what each gave, by its place."""
    study = Study(settings, settings.standard) if settings.standard is not None else None
    seconds, found = 0.0, dict[int, OneMask]()
    for number in places:
        began = time.monotonic()
        try:
            one = measure_one(fields, ref_of(items[number]), settings, study, number)
        except InputError:
            continue
        seconds += time.monotonic() - began
        found[number] = one
    return seconds, found


def _table_bytes(fields: Fields, made: list[OneMask], settings: MeasureSettings) -> int:
    """Return the bytes of the tables of a few masks."""
    kind = "csv" if settings.table == "csv" else "parquet"
    measured, names = [one.measured for one in made], fields.labels.names
    if settings.classes is None:
        seen = {share.value for one in measured for share in one.shares if share.area_px}
        measured = [with_shares(one, seen) for one in measured]
    with TemporaryDirectory() as name:
        book = OutputBook(Path(name))
        for stem, table in (
            ("objects", objects_table(measured, names, fields.unit)),
            ("images", images_table(measured, fields.unit)),
        ):
            write_table(book, stem, table, kind)
        return sum(file.stat().st_size for file in Path(name).glob(f"*.{kind}"))
