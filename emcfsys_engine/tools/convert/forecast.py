"""What a conversion will take, before anything is begun: a few of its files are converted here."""

import math
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.output_book import FOLDER, OutputBook
from emcfsys_engine.run.records import ConvertRequest
from emcfsys_engine.shards.forecast import Forecast, reckoned, to_try
from emcfsys_engine.shards.work import tasks_at_once
from emcfsys_engine.tools.convert.conversion import Plan
from emcfsys_engine.tools.convert.in_shards import items_of, plan_of
from emcfsys_engine.tools.convert.items import ToConvert
from emcfsys_engine.tools.convert.writing import Converter


def forecast(request: ConvertRequest) -> Forecast:
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
