"""Our one-warp augmentation against kornia's, the same operations, alternating in one process.

    pip install kornia && python tests/bench/augment_speed.py

The question it answers: is kornia's measured cost at most 1.3 times that of a direct grid_sample?
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from emcfsys_engine.learn.training.augment import Strengths, augment
from tests.bench.machine import machine_line

_OURS = Strengths(flip=1, rotate=1, scale=1, elastic=1, brightness=1, contrast=1, noise=1, blur=1)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    crop = int(arguments.patch * 1.5)
    images = torch.randn(arguments.batch, 1, crop, crop)
    labels = torch.randint(0, 3, (arguments.batch, crop, crop))
    seeds = range(arguments.batch)
    ours = lambda: augment(images, labels, arguments.patch, _OURS, seeds)  # noqa: E731
    kornia = _kornia(images, labels, arguments.patch)
    times: dict[str, list[float]] = {"ours": [], "kornia": []}
    for number in range(arguments.rounds + 2):
        for name, run in (("ours", ours), ("kornia", kornia)):
            started = time.perf_counter()
            run()
            if number >= 2:
                times[name].append(time.perf_counter() - started)
    ratios = [k / o for o, k in zip(times["ours"], times["kornia"], strict=True)]
    print(machine_line("torch", "kornia"))
    print(f"{arguments.batch} × {arguments.patch}² cut out of {crop}²; ms a batch, median")
    for name, seconds in times.items():
        print(f"{name:<8} {1000 * statistics.median(seconds):.1f}")
    print(f"kornia / ours  {statistics.median(ratios):.2f}")


def _kornia(images: torch.Tensor, labels: torch.Tensor, patch: int) -> Callable[[], object]:
    import kornia.augmentation as ka

    pipeline = ka.AugmentationSequential(
        ka.RandomHorizontalFlip(p=0.5),
        ka.RandomVerticalFlip(p=0.5),
        ka.RandomAffine(degrees=30, scale=(0.76, 1.32), p=0.5),
        ka.RandomElasticTransform(p=0.3),
        ka.CenterCrop(patch),
        ka.RandomBrightness((0.5, 1.5), p=0.8, clip_output=False),
        ka.RandomContrast((0.6, 1.7), p=0.8, clip_output=False),
        ka.RandomGaussianNoise(std=0.3, p=0.6),
        ka.RandomGaussianBlur((11, 11), (0.3, 1.6), p=0.25),
        data_keys=["input", "mask"],
        same_on_batch=False,
    )
    masks = labels[:, None].float()
    return lambda: pipeline(images, masks)


if __name__ == "__main__":
    main()
