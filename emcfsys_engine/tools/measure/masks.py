"""Masks to numbers: objects and area fractions of a folder of masks, as tables and histograms."""

import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from emcfsys_engine.errors import InputError
from emcfsys_engine.files import remedy_of
from emcfsys_engine.hotfolder.review import note_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.tools.measure.fields import Field, Fields, Labels, open_fields
from emcfsys_engine.tools.measure.objects import measure_objects
from emcfsys_engine.tools.measure.parts import PartsWriter
from emcfsys_engine.tools.measure.results import (
    Measurement,
    MeasureSettings,
    finish_parts,
    write_measurement,
)
from emcfsys_engine.tools.measure.runs import told_of_numbers
from emcfsys_engine.tools.measure.standards.results import Calibration
from emcfsys_engine.tools.measure.standards.study import Looked, Study, calibrate, need_one_scale
from emcfsys_engine.tools.measure.summary import need_duckdb
from emcfsys_engine.tools.measure.tables import ClassShare, MaskMeasured, need_parquet

_BAND_ROWS = 512


def measure_masks(
    masks: str,
    out: Path,
    settings: MeasureSettings,
    *,
    images: str | None = None,
    base: Path | None = None,
    on_mask: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure every mask of a file, folder or glob; write objects, images and histograms to out.

    One unit holds for all: nm when the pixel size of every mask is known, else px. A mask that
    cannot be measured is reported and the others are done. on_mask hears how many masks are done,
    and of how many.
    With a standard, its table stands beside the others.
    Raises: InputError when there are no masks, the output cannot be written, or a standard lacks
    the scale.
    """
    base = base or Path.cwd()
    need_libraries(settings)
    fields = open_fields(masks, out, settings, images=images, base=base)
    open_masks = tuple(fields.items.masks)
    with Gathering(
        fields, settings, out, calibration_for(fields, settings, out, base)
    ) as gathering:
        for number, mask in enumerate(open_masks):
            try:
                one = measure_one(fields, mask, settings, gathering.study, number)
            except InputError as fault:
                fields.items.fail(mask, fault)
            else:
                gathering.take(one)
            if on_mask is not None:
                on_mask(number + 1, len(open_masks))
        return gathering.finish()


def need_libraries(settings: MeasureSettings) -> None:
    """Check that the tables can be written. Raises: InputError if not."""
    if settings.table != "csv":
        need_parquet()
    if settings.table == "parts":
        need_duckdb()


def calibration_for(
    fields: Fields, settings: MeasureSettings, out: Path, base: Path
) -> Calibration | None:
    """Return what validation images say of the model's errors; None where nobody asked.

    Raises: InputError when a standard lacks the scale, or the validation images do not pair.
    """
    if settings.standard is None:
        return None
    need_one_scale(fields)
    if settings.calibrate is None:
        return None
    return calibrate(Study(settings, settings.standard), *settings.calibrate, out, base)


@dataclass(frozen=True, kw_only=True)
class OneMask:
    """All that one mask gives to a measurement."""

    measured: MaskMeasured
    looked: Looked | None = None  # by a standard
    notes: tuple[str, ...] = ()  # of the numbers of its objects
    without_numbers: tuple[str, ...] = ()  # its name, where the file of them is not used


def measure_one(
    fields: Fields, mask: ImageRef, settings: MeasureSettings, study: Study | None, number: int
) -> OneMask:
    """Measure one mask; `number` is its place among all.

    Raises: InputError when it cannot be.
    """
    without = fields.items.without_numbers
    try:
        one = fields.read(mask)
        made = OneMask(
            measured=_measure(one, fields.labels, settings),
            looked=study.look(one, fields.labels, number) if study is not None else None,
            without_numbers=tuple(without),
        )
    finally:
        without.clear()
    if one.numbered is None:
        return made
    return replace(made, notes=tuple(told_of_numbers(one.numbered, one.ids.shape[1])))


class Gathering:
    """Makes one measurement of what masks gave, taken in their order.

    Tables in parts are written as they come: of any number of masks, memory stays flat.
    """

    def __init__(
        self,
        fields: Fields,
        settings: MeasureSettings,
        out: Path,
        calibration: Calibration | None,
        stamp: str = "",
    ) -> None:
        self.study = Study(settings, settings.standard) if settings.standard is not None else None
        self._fields, self._settings, self._out = fields, settings, out
        self._calibration = calibration
        self._measured: list[MaskMeasured] = []
        self._without: list[str] = []
        self._parts: PartsWriter | None = None
        if settings.table == "parts":
            with _written_to(out):
                self._parts = PartsWriter(out, fields.unit, fields.labels.names, stamp)

    def __enter__(self) -> "Gathering":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._parts is not None:
            self._parts.give_up()

    def take(self, one: OneMask) -> None:
        """Add the next mask. Raises: InputError when a part cannot be written."""
        if self._parts is None:
            self._measured.append(one.measured)
        else:
            occurring = {share.value for share in one.measured.shares if share.area_px}
            is_named = self._settings.classes is not None
            with _written_to(self._out):
                self._parts.take(one.measured if is_named else with_shares(one.measured, occurring))
        items = self._fields.items
        items.notes += [f"{one.measured.mask}: {words}" for words in one.notes]
        self._without += one.without_numbers
        if self.study is not None and one.looked is not None:
            self.study.take(one.looked, one.measured.objects)

    def finish(self) -> Measurement:
        """Write tables, histograms and the standard's numbers.

        Raises: InputError when they cannot be written.
        """
        items = self._fields.items
        items.without_numbers += self._without
        items.say_without_numbers()
        if note := note_of([mask.path for mask in items.masks]):
            items.notes.append(note)
        with _written_to(self._out), self._alone():
            made = self._of_parts(self._parts) if self._parts is not None else self._of_tables()
            if self.study is None or not made.num_masks:
                return made
            report = self.study.report(OutputBook(self._out), self._calibration)
            return msgspec.structs.replace(made, standard=report)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Let no other measurement write into the folder meanwhile: tables stand there together."""
        if not self._measured and self._parts is None:
            yield  # nothing will be written
            return
        self._out.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # some networks have no locks
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _of_parts(self, parts: PartsWriter) -> Measurement:
        items = self._fields.items
        return finish_parts(
            parts, self._out, self._settings, failed=items.failed, notes=items.notes
        )

    def _of_tables(self) -> Measurement:
        measured, settings, items = self._measured, self._settings, self._fields.items
        seen = {share.value for one in measured for share in one.shares if share.area_px}
        if settings.classes is None:  # of 255 possible values only those that occur have a row
            measured = [with_shares(one, seen) for one in measured]
        names = [
            pair
            for pair in self._fields.labels.names
            if settings.classes is not None or pair[0] in seen
        ]
        return write_measurement(
            measured, names, self._fields.unit, self._out, settings,
            failed=items.failed, notes=items.notes,
        )  # fmt: skip


@contextmanager
def _written_to(out: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise InputError(out, what, remedy_of(error)) from None


def _measure(field: Field, labels: Labels, settings: MeasureSettings) -> MaskMeasured:
    objects = measure_objects(
        field.ids,
        labels.objects,
        pixel=field.pixel,
        grey=field.grey,
        split=settings.split,
        neck=settings.neck,
        min_px=settings.min_px,
        exclude_border=settings.exclude_border,
        numbered=field.numbered,
    )
    counts = _counts(field.ids)
    return MaskMeasured(
        mask=field.name,
        image=field.image,
        pixel=field.pixel,
        size_HW=field.size_HW,
        labelled_px=int(counts[:UNLABELLED].sum()),
        shares=tuple(
            ClassShare(name=name, value=value, area_px=int(counts[value]))
            for value, name in labels.names
        ),
        objects=objects,
    )


def _counts(ids: np.ndarray) -> np.ndarray:
    """Return how often each value occurs, a band of rows at a time: bincount widens its input."""
    counts = np.zeros(UNLABELLED + 1, np.int64)
    for top in range(0, ids.shape[0], _BAND_ROWS):
        band = ids[top : top + _BAND_ROWS]
        counts += np.bincount(band.ravel(), minlength=len(counts))
    return counts


def with_shares(one: MaskMeasured, seen: set[int]) -> MaskMeasured:
    """Return a mask without the classes that are not among those seen."""
    return MaskMeasured(
        mask=one.mask,
        image=one.image,
        pixel=one.pixel,
        size_HW=one.size_HW,
        labelled_px=one.labelled_px,
        shares=tuple(share for share in one.shares if share.value in seen),
        objects=one.objects,
    )
