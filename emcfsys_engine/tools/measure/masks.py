"""Masks to numbers: objects and area fractions of a folder of masks, as tables and histograms."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from emcfsys_engine.errors import InputError
from emcfsys_engine.files import remedy_of
from emcfsys_engine.hotfolder.review import note_of
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
from emcfsys_engine.tools.measure.standards.study import Study, calibrate, need_one_scale
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
    if settings.table != "csv":
        need_parquet()
    fields = open_fields(masks, out, settings, images=images, base=base)
    study = _study(settings, fields)
    calibration = None
    if study is not None and settings.calibrate is not None:
        calibration = calibrate(study, *settings.calibrate, out, base)
    if settings.table == "parts":
        return _measure_in_parts(fields, settings, study, calibration, out, on_mask)
    measured: list[MaskMeasured] = []
    _measure_all(fields, settings, study, measured.append, on_mask)
    seen = {share.value for one in measured for share in one.shares if share.area_px}
    if settings.classes is None:  # of 255 possible values only those that occur have a row
        measured = [_with_shares(one, seen) for one in measured]
    names = [
        pair for pair in fields.labels.names if settings.classes is not None or pair[0] in seen
    ]
    _note_what_masks_are(fields)
    try:
        written = write_measurement(
            measured, names, fields.unit, out, settings,
            failed=fields.items.failed, notes=fields.items.notes,
        )  # fmt: skip
        return _with_standard(written, study, calibration, out)
    except OSError as error:
        raise _unwritable(out, error) from None


def _measure_in_parts(
    fields: Fields,
    settings: MeasureSettings,
    study: Study | None,
    calibration: Calibration | None,
    out: Path,
    on_mask: Callable[[int, int], None] | None,
) -> Measurement:
    """Write tables in parts as they come: of any number of masks, memory stays flat."""
    need_duckdb()
    try:
        writer = PartsWriter(out, fields.unit, fields.labels.names)

        def take(one: MaskMeasured) -> None:
            occurring = {share.value for share in one.shares if share.area_px}
            writer.take(one if settings.classes is not None else _with_shares(one, occurring))

        try:
            _measure_all(fields, settings, study, take, on_mask)
            _note_what_masks_are(fields)
            written = finish_parts(
                writer, out, settings, failed=fields.items.failed, notes=fields.items.notes
            )
        except BaseException:
            writer.give_up()
            raise
        return _with_standard(written, study, calibration, out)
    except OSError as error:
        raise _unwritable(out, error) from None


def _note_what_masks_are(fields: Fields) -> None:
    fields.items.say_without_numbers()
    if note := note_of([mask.path for mask in fields.items.masks]):
        fields.items.notes.append(note)


def _with_standard(
    written: Measurement, study: Study | None, calibration: Calibration | None, out: Path
) -> Measurement:
    if study is None or not written.num_masks:
        return written
    return msgspec.structs.replace(written, standard=study.report(OutputBook(out), calibration))


def _unwritable(out: Path, error: OSError) -> InputError:
    return InputError(out, f"cannot be written: {error.strerror}", remedy_of(error))


def _study(settings: MeasureSettings, fields: Fields) -> Study | None:
    if settings.standard is None:
        return None
    need_one_scale(fields)
    return Study(settings, settings.standard)


def _measure_all(
    fields: Fields,
    settings: MeasureSettings,
    study: Study | None,
    take: Callable[[MaskMeasured], object],
    on_mask: Callable[[int, int], None] | None,
) -> None:
    open_masks = tuple(fields.items.masks)
    for number, mask in enumerate(open_masks, start=1):
        try:
            field = fields.read(mask)
            measured = _measure(field, fields.labels, settings)
            take(measured)
            if field.numbered is not None:
                said = told_of_numbers(field.numbered, field.ids.shape[1])
                fields.items.notes += [f"{field.name}: {words}" for words in said]
            if study is not None:
                study.take(field, fields.labels, measured)
        except InputError as fault:
            fields.items.fail(mask, fault)
        if on_mask is not None:
            on_mask(number, len(open_masks))


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


def _with_shares(one: MaskMeasured, seen: set[int]) -> MaskMeasured:
    return MaskMeasured(
        mask=one.mask,
        image=one.image,
        pixel=one.pixel,
        size_HW=one.size_HW,
        labelled_px=one.labelled_px,
        shares=tuple(share for share in one.shares if share.value in seen),
        objects=one.objects,
    )
