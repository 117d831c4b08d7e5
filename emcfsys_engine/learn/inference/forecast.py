"""What a prediction will take, before anything is begun: from a few of its images, done here."""

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.learn.inference.files import find_inputs, load_predictor, predict_files
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.inference.shard_list import Sizes
from emcfsys_engine.learn.inference.shards import at_once
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shards import deal
from emcfsys_engine.text import size, span

_NUM_TRIED = 3


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a prediction takes, if no mask is there yet. Units: seconds of wall time, bytes."""

    images: int
    pixels: int
    tasks: int
    at_once: int
    seconds: float  # as long as the fullest task place works; waiting for nodes is not in it
    read_bytes: int
    written_bytes: int
    memory_bytes: int  # of a task at its highest
    tried: int  # images from which the rate was measured
    pixels_a_second: float

    @property
    def lines(self) -> list[str]:
        """The forecast for a person."""
        return [
            f"{self.images:,} images, {self.pixels / 1e6:,.0f} megapixels",
            f"{self.tasks:,} tasks, {self.at_once:,} at a time: {span(self.seconds)} of work each",
            f"reads {size(self.read_bytes)}, writes {size(self.written_bytes)}",
            f"a task takes up to {size(self.memory_bytes)} of memory",
            f"measured here on {self.tried} images: {self.pixels_a_second / 1e6:.2f} megapixels/s",
        ]


def forecast(request: PredictRequest) -> Forecast:
    """Predict a few images into a folder that goes away, and reckon what all of them take.

    Raises: InputError, ImageError without images, or where none of those tried can be predicted.
    """
    refs = find_inputs(request)
    sizes = Sizes()
    planes = Counter(ref.path for ref in refs)
    looked = {path: sizes.of(path, count, is_wanted=True) for path, count in planes.items()}
    pixels = [looked[ref.path][1] for ref in refs]
    seconds, written, tried = _tried(request, refs, pixels)
    number = min(max(1, request.shards), len(refs))
    beside = min(number, at_once(request))
    rate = sum(pixels[n] for n in tried) / max(1e-6, seconds)
    total = sum(pixels)
    dealt = deal(pixels, beside)
    return Forecast(
        images=len(refs),
        pixels=total,
        tasks=number,
        at_once=beside,
        seconds=max(sum(pixels[n] for n in one) for one in dealt) / max(1e-6, rate),
        read_bytes=sum(_bytes_of(path, known) for path, (known, _) in looked.items()),
        written_bytes=math.ceil(written * total / max(1, sum(pixels[n] for n in tried))),
        memory_bytes=_peak_bytes(),
        tried=len(tried),
        pixels_a_second=rate,
    )


def _peak_bytes() -> int:
    """Return the most memory this process took; getrusage would tell its parent's, if more."""
    status = Path("/proc/self/status").read_text("ascii", "replace")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line)


def _tried(
    request: PredictRequest, refs: Sequence[ImageRef], pixels: Sequence[int]
) -> tuple[float, int, list[int]]:
    """Return the seconds and the written bytes of a few images, and which they are."""
    by_size = sorted(range(len(refs)), key=lambda n: pixels[n])
    places = {len(by_size) // 4, len(by_size) // 2, 3 * len(by_size) // 4}
    tried = [by_size[min(place, len(by_size) - 1)] for place in sorted(places)][:_NUM_TRIED]
    predictor = load_predictor(request)
    seconds, written, done = 0.0, 0, list[int]()
    with tempfile.TemporaryDirectory() as name:
        _once(request, refs[tried[0]], predictor, Path(name, "warm"))  # first kernels take longer
        for number in tried:
            out = Path(name, str(number))
            took = _once(request, refs[number], predictor, out)
            if took is not None:
                seconds += took
                written += _bytes_of(out, -1)
                done.append(number)
    if not done:
        what = f"none of {len(tried)} images that were tried can be predicted"
        raise InputError(", ".join(request.inputs), what, "Look at one with inspect")
    return seconds, written, done


def _once(request: PredictRequest, ref: ImageRef, predictor: Predictor, out: Path) -> float | None:
    """Return how many seconds one image takes; None where it fails."""
    one = msgspec.structs.replace(request, out=str(out), rank_uncertain=False, shards=0)
    began = time.monotonic()
    found = predict_files(one, [ref], predictor, lambda _: None, lambda: None)
    return time.monotonic() - began if found.done else None


def _bytes_of(place: Path, known: int) -> int:
    if known >= 0:
        return known
    every = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
    return sum(file.stat().st_size for file in every)
