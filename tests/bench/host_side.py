"""What the processor does for a GPU, on one core: a patch of a training, a Mpx of a prediction.

    python -m tests.bench.host_side [--side 1024] [--patch 512] [--batch 16]

CPU time of one thread, so that other work on the machine disturbs little; the least and the median
of seven rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import tifffile
import torch

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.inference.bands import WantedMaps, open_image, sent
from emcfsys_engine.learn.pixels_on_device import statistics_to_use
from emcfsys_engine.learn.run_context import keep_freed_memory
from emcfsys_engine.learn.training.augment import Strengths, draw
from emcfsys_engine.learn.training.dataset import Dataset, PatchSampler, TrainingItem
from emcfsys_engine.learn.training.storage import Lines, Resident, resident
from tests.bench.machine import machine_line

CPU = torch.device("cpu")


class _Items(list[TrainingItem]):
    project = SimpleNamespace(data=[SimpleNamespace(weight=1.0)])

    @property
    def samples(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(source=0)] * len(self)


def _item(pixels: np.ndarray, labels: np.ndarray) -> TrainingItem:
    found = Normaliser().statistics(pixels)
    return TrainingItem(
        pixels=pixels[..., None],
        labels=labels,
        pixel_nm=None,
        raw_mean=found[2],
        raw_deviation=found[3],
        statistics=statistics_to_use((found,)),
    )


def _ms(work: Callable[[], object], each: float) -> str:
    """Return the CPU time of this thread, divided by `each`: least and median."""
    found: list[float] = []
    for _ in range(8):
        began = time.thread_time()
        work()
        found.append(1000 * (time.thread_time() - began) / each)
    return f"{min(found[1:]):7.3f} {statistics.median(found[1:]):7.3f}"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--patch", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    o = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    print(machine_line("torch", "numpy"))
    print(f"{'ms':42}   least  median")
    for kind in ("uint8", "uint16", "float32"):
        pictures = [rng.integers(0, 250, (o.side, o.side)).astype(kind) for _ in range(8)]
        labels = [rng.integers(0, 3, (o.side, o.side), np.uint8) for _ in pictures]
        items = _Items(_item(*pair) for pair in zip(pictures, labels, strict=True))
        sampler = PatchSampler(cast(Dataset, items), o.patch, o.batch, 0)
        steps = iter(range(1, 1000))
        told = _ms(lambda steps=steps, s=sampler: s.crops(next(steps)), o.batch)  # type: ignore[misc]
        each = sum(part.nbytes for part in sampler.crops(1)) / o.batch / 1e6
        print(f"{f'cut a patch from {o.side}² {kind}':42} {told}   {each:.2f} MB up a patch")
        held = resident(((i.pixels, i.planes) for i in items), sampler.sizes, sampler.dtype, CPU)
        assert held is not None

        def lines(
            s: PatchSampler = sampler, held: Resident = held, steps: Iterator[int] = steps
        ) -> Lines:
            places_N3 = s.places(next(steps))
            some = [s.statistics[index] for index in places_N3[:, 0]]
            return held.lines(places_N3, s.crop_px, some)

        made = sum(part.nbytes for part in lines()) / o.batch / 1e6
        print(f"{'  lives on the card: its lines':42} {_ms(lines, o.batch)}   {made:.3f} MB up")
    strengths = Strengths(**dict.fromkeys(Strengths.__struct_fields__, 1.0))
    seeds, cpu = range(o.batch), CPU
    told = _ms(lambda: draw(seeds, o.patch, strengths, cpu), o.batch)
    print(f"{'draw what happens to a patch':42} {told}")
    logits = torch.randn(3, 384, 2048)
    values = torch.arange(3, dtype=torch.uint8)
    told = _ms(lambda: sent(0, logits, values, 384, WantedMaps()).band(), logits[0].numel() / 1e6)
    print(f"{'classes of a Mpx, counted and looked up':42} {told}")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("uint8", "uint16", "float32"):
            pixels = rng.integers(0, 250, (o.side, o.side)).astype(kind)
            file = Path(folder) / f"{kind}.tif"
            tifffile.imwrite(file, pixels)
            told = _ms(lambda p=pixels: Normaliser().statistics(p), pixels.size / 1e6)  # type: ignore[misc]
            print(f"{f'statistics of a Mpx {kind}':42} {told}")

            def opened(file: Path = file) -> None:
                open_image(ImageRef(path=file), Normaliser()).close()

            told = _ms(opened, pixels.size / 1e6)
            print(f"{f'open and prepare a Mpx {kind} TIFF':42} {told}")


if __name__ == "__main__":
    main()
