"""What an evaluation in shards will take, before it begins: from a few images, done here."""

import time
from collections.abc import Sequence

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.learn.evaluate import images_asked_for, measure_of
from emcfsys_engine.learn.evaluate_images import Comparer
from emcfsys_engine.learn.evaluate_shards import items_of, sample_of
from emcfsys_engine.learn.inference.shards import at_once
from emcfsys_engine.run.records import EvaluateRequest
from emcfsys_engine.run.shards import Item
from emcfsys_engine.shards.forecast import Forecast, reckoned, to_try


def forecast(request: EvaluateRequest) -> Forecast:
    """Compare a few images and reckon what all of them take; nothing is written.

    Raises: DataFaults, InputError; also where none of those tried can be compared.
    """
    found = images_asked_for(request)
    items = list(items_of(found))
    gpus = None if request.gpus is None else min(1, request.gpus)
    comparer = Comparer(measure_of(request, found.project), gpus)
    pixels = [one.pixels for one in items]
    seconds, kept_bytes, tried = _tried(comparer, [items[place] for place in to_try(pixels)])
    return reckoned(
        items,
        request.shards,
        at_once(request),
        rate=sum(one.pixels for one in tried) / max(1e-6, seconds),
        written_bytes=kept_bytes * len(items) // len(tried),
        tried=len(tried),
    )


def _tried(comparer: Comparer, items: Sequence[Item]) -> tuple[float, int, list[Item]]:
    """Return the seconds of a few images, the bytes that are kept of them, and those that worked.

    The first is done twice: first kernels take longer.
    """
    seconds, kept_bytes, tried = 0.0, 0, list[Item]()
    for number, item in enumerate([items[0], *items]):
        began = time.monotonic()
        try:
            content = any_names.encode(comparer.one(sample_of(item)))
        except EmcfError:
            continue
        if number:
            seconds += time.monotonic() - began
            kept_bytes += len(content)
            tried.append(item)
    if not tried:
        what = f"none of {len(items)} images that were tried can be compared"
        raise InputError(items[0].image, what, "Look at it with inspect, at its label with check")
    return seconds, kept_bytes, tried
