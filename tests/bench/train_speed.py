"""Images/s of our training loop over those of the bare step loop, alternating in one process.

    python tests/bench/train_speed.py [--backbone NAME] [--patch 256] [--batch 8] [--rounds 5]

Ours: reading, sampling, cutting, augmenting, EMA, clipping, events, checkpoints in the background.
Bare: the same network, precision, layout, loss and optimiser, with one batch already in memory.
Validation is apart, in both. `--afternoon`: beside them the loop that an engineer writes in an
afternoon (smp, albumentations, DataLoader, fp32), which needs `pip install albumentations`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.device import autocast, choose_device, choose_threads, describe
from emcfsys_engine.learn.networks.network import build_network, parameter_groups
from emcfsys_engine.learn.run_context import keep_freed_memory
from emcfsys_engine.learn.training.batches import Batches
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.plan import make_plan
from emcfsys_engine.learn.training.trainer import Trainer
from emcfsys_engine.project import load_project
from tests.bench.afternoon_loop import AfternoonLoop
from tests.bench.machine import machine_line
from tests.bench.pairs import write_pairs
from tests.learn.training.made import setup_of

PROJECT = """
[project]
name = "bench"
[classes]
background = 0
object = 1
third = 2
[[data]]
images = "images"
masks = "masks"
split = "train"
[[data]]
images = "val_images"
masks = "val_masks"
split = "val"
[model]
backbone = "{backbone}"
weights = "none"
[training]
steps = 100000
patch_px = {patch}
batch = {batch}
"""


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--afternoon", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(Path(folder), arguments)
        loops: dict[str, Callable[[int], float]] = {}
        batches = Batches(trainer.sampler, 1, trainer.device)
        loops["ours"] = lambda steps: _ours(trainer, batches, steps)
        loops["bare"] = _Bare(trainer).time
        afternoon = _afternoon(Path(folder), arguments) if arguments.afternoon else None
        if afternoon:
            loops["afternoon"] = afternoon.time
        times: dict[str, list[float]] = {name: [] for name in loops}
        for number in range(arguments.rounds + 1):
            for name, run in loops.items():
                seconds = run(arguments.steps)
                if number:  # the first round warms up
                    times[name].append(seconds)
        batches.close()
        trainer.saver.close()
        if afternoon:
            afternoon.close()
    print(machine_line())
    print(
        f"unet/{arguments.backbone}, {arguments.batch} × {arguments.patch}², "
        f"{describe(trainer.device, trainer.stepper.precision)}"
    )
    _print_table(times, arguments.batch * arguments.steps)


def _print_table(times: dict[str, list[float]], images: int) -> None:
    print(f"{'loop':<12} images/s (median)  ours / it (median, least to most)")
    for name, seconds in times.items():
        ratios = [other / own for own, other in zip(times["ours"], seconds, strict=True)]
        told = f"{statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"{name:<12} {images / statistics.median(seconds):<17.2f}  {told}")


def _afternoon(folder: Path, arguments: argparse.Namespace) -> AfternoonLoop:
    pairs = [(file, folder / "masks" / file.name) for file in sorted((folder / "images").iterdir())]
    return AfternoonLoop(
        pairs,
        backbone=arguments.backbone,
        num_classes=3,
        patch_px=arguments.patch,
        batch=arguments.batch,
    )


def _ours(trainer: Trainer, batches: Batches, steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        loss = trainer.step(*batches.next(), 0.5)
        for counter in (trainer.since_event, trainer.since_validation):
            counter.loss += loss
            counter.steps += 1
        trainer.saver.poll()
        if trainer._is_event_due():
            trainer._say_step()
    _wait(trainer.device)
    return time.perf_counter() - started


class _Bare:
    """Forward, loss, backward, step: nothing else."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        plan, self.device = trainer.plan, trainer.device
        self.network = build_network(plan.network).to(self.device)
        self.network = self.network.to(memory_format=torch.channels_last).train()
        groups = parameter_groups(self.network, plan.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
        shape = (plan.batch, 1, plan.patch_px, plan.patch_px)
        images = torch.randn(shape, device=self.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 3, (shape[0], *shape[2:]), device=self.device)

    def time(self, steps: int) -> float:
        """Return how long some steps take."""
        started = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            with autocast(self.device, self.trainer.stepper.precision):
                logits = self.network(self.images)
            self.trainer.stepper.loss(logits, self.labels).backward()
            self.optimizer.step()
        _wait(self.device)
        return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _trainer(folder: Path, arguments: argparse.Namespace) -> Trainer:
    px = 2 * arguments.patch
    write_pairs(folder / "images", folder / "masks", range(6), px)
    write_pairs(folder / "val_images", folder / "val_masks", range(100, 101), px)
    (folder / "project.toml").write_text(
        PROJECT.format(backbone=arguments.backbone, patch=arguments.patch, batch=arguments.batch)
    )
    project = load_project(folder)
    device = choose_device(None)
    threads = choose_threads(None)
    torch.set_num_threads(threads)
    keep_freed_memory()  # as a worker does: for ours and for the others
    samples = list_samples(project)
    train = Dataset(samples.of("train"), project, Normaliser())
    val = Dataset(samples.of("val"), project, Normaliser())
    plan = make_plan(project, train, val, device, threads)
    return Trainer(setup_of(project, plan, train, val, lambda event: None))


if __name__ == "__main__":
    main()
