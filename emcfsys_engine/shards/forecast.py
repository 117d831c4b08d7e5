"""What a run in shards will take, before anything is begun: by a few items that are done here."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from emcfsys_engine.run.shards import ShardItem, deal
from emcfsys_engine.text import how_many, size, span

_NUM_TRIED = 3


class ShardForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a run takes, if nothing is there yet. Units: seconds of wall time, bytes."""

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
    regions: int = 0  # that large images are cut into
    looked_s: float = 0.0  # in which one task looks at those images, once, before any is begun
    called: str = "images"  # what is counted

    @property
    def lines(self) -> list[str]:
        """The forecast for a person."""
        cut = f", the large ones in {self.regions:,} regions" if self.regions else ""
        looked = f", after {span(self.looked_s)} for their numbers" if self.regions else ""
        tried = "regions" if self.regions else self.called
        work = f"{span(self.seconds)} of work each{looked}"
        return [
            f"{self.images:,} {self.called}, {self.pixels / 1e6:,.0f} megapixels{cut}",
            f"{how_many(self.tasks, 'task')}, {self.at_once:,} at a time: {work}",
            f"reads {size(self.read_bytes)}, writes {size(self.written_bytes)}",
            f"a task takes up to {size(self.memory_bytes)} of memory",
            f"measured here on {self.tried} {tried}: {self.pixels_a_second / 1e6:.2f} megapixels/s",
        ]


def reckoned(
    items: Sequence[ShardItem],
    shards: int,
    at_once: int,
    *,
    rate: float,
    written_bytes: int,
    tried: int,
    called: str = "images",
) -> ShardForecast:
    """Return what all items take, at so many pixels a second; `shards` and `at_once`: asked for."""
    pixels = [item.pixels for item in items]
    tasks = min(max(1, shards), len(items))
    beside = min(tasks, at_once)
    return ShardForecast(
        images=len(items),
        pixels=sum(pixels),
        tasks=tasks,
        at_once=beside,
        seconds=fullest_s(pixels, beside, rate),
        read_bytes=bytes_read(items),
        written_bytes=written_bytes,
        memory_bytes=peak_bytes(),
        tried=tried,
        pixels_a_second=rate,
        called=called,
    )


def to_try(pixels: Sequence[int]) -> list[int]:
    """Return the places of a few items of middling sizes, by which all are reckoned."""
    by_size = sorted(range(len(pixels)), key=pixels.__getitem__)
    places = {len(by_size) // 4, len(by_size) // 2, 3 * len(by_size) // 4}
    return [by_size[min(place, len(by_size) - 1)] for place in sorted(places)][:_NUM_TRIED]


def fullest_s(pixels: Sequence[int], at_once: int, rate: float) -> float:
    """Return for how long the fullest of so many task places works, at pixels a second."""
    dealt = deal(pixels, at_once)
    return max(sum(pixels[n] for n in one) for one in dealt) / max(1e-6, rate)


def peak_bytes() -> int:
    """Return the most memory this process took; getrusage would tell its parent's, if more."""
    status = Path("/proc/self/status").read_text("ascii", "replace")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line)


def bytes_read(items: Iterable[ShardItem]) -> int:
    """Return the bytes of all files that are read for some items, of each once."""
    files = {file: size for one in items for file, size in ((one.image, one.size), *one.also)}
    return sum(bytes_of(file, known) for file, known in files.items())


def bytes_of(place: Path | str, known: int) -> int:
    """Return the bytes of a file where they are known, or of a folder: there they are -1."""
    if known >= 0:
        return known
    every = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
    return sum(file.stat().st_size for file in every)
