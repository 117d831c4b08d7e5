"""What a measurement will take, before anything is begun: a few of its masks are measured here."""

import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.run.records import MeasureRequest
from emcfsys_engine.run.shards import Item
from emcfsys_engine.shards.forecast import Forecast, reckoned, to_try
from emcfsys_engine.shards.work import ref_of, tasks_at_once
from emcfsys_engine.tools.measure.fields import Fields
from emcfsys_engine.tools.measure.in_shards import fields_of, items_of, settings_of
from emcfsys_engine.tools.measure.masks import OneMask, measure_one, with_shares
from emcfsys_engine.tools.measure.results import MeasureSettings
from emcfsys_engine.tools.measure.standards.study import Study
from emcfsys_engine.tools.measure.tables import images_table, objects_table, write_table


def forecast(request: MeasureRequest) -> Forecast:
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
    fields: Fields, items: list[Item], settings: MeasureSettings, places: list[int]
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
