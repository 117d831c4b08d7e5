"""Mean IoU for the time: `train` with its presets as shipped, and a careful recipe beside it.

    python -m tests.bench.quality [--minutes 5] [--sets superalloy vnc axon ebc] [--seed 0]
                                  [--only ours|careful] [--pinned] [--set KEY=VALUE ...]

Ours: `emcfsys-engine train` on a project.toml of a dozen lines, then `predict` with its best model.
Careful: a ResNet18-U-Net from scratch as an expert writes it in a day (bf16, 8 patches of 320 px a
step, affine, strong brightness, contrast, noise and blur, class weights 1/√frequency, AdamW, EMA,
cosine, clipping); for tiles it takes the whole image. Both are scored here, from what they predict,
with one confusion matrix over the validation images: not with the engine's own metrics.
Both get the same wall time, one after the other on all cores; with `--pinned` beside each other on
a core each, for cores times the minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tests.bench.machine import machine_line

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
SHARED = Path(os.environ.get("EMCFSYS_SHARED_DATA", _BESIDE))
_UNLABELLED = 255


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Images and masks of one set, and which of them are kept for validation."""

    folder: str
    classes: tuple[str, ...]
    train: tuple[str, ...]  # globs under images/
    val: tuple[str, ...]

    def pairs(self, globs: Sequence[str]) -> list[tuple[Path, Path]]:
        """Return the images that match, each with its mask."""
        images = SHARED / self.folder / "images"
        found = sorted(path for glob in globs for path in images.glob(glob))
        masks = SHARED / self.folder / "masks"
        return [(path, masks / path.relative_to(images)) for path in found]


SETS = {
    "superalloy": DataSet(
        folder="superalloy-sem",
        classes=("matrix", "large", "small"),
        train=("train/*.png",),
        val=("val/*.png",),
    ),
    "vnc": DataSet(
        folder="vnc-sstem",
        classes=("inside", "membrane", "glia", "mitochondrion", "synapse"),
        train=("0[0-8].png",),
        val=("09.png", "1[01].png"),
    ),
    "axon": DataSet(
        folder="axon-myelin-sem",
        classes=("background", "myelin", "axon"),
        train=("sub-rat[23]_*.png",),
        val=("sub-rat[15]_*.png",),
    ),
    "ebc": DataSet(
        folder="ebc-oxide-sem",
        classes=("background", "oxide", "crack"),
        train=("train/*.png",),
        val=("val/*.png",),
    ),
}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["ours", "careful"])
    parser.add_argument("--pinned", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--careful-worker", nargs=3, metavar=("SET", "MINUTES", "OUT"))
    arguments = parser.parse_args()
    if arguments.careful_worker:
        name, minutes, out = arguments.careful_worker
        train_carefully(SETS[name], float(minutes), Path(out), arguments.seed)
        return
    print(machine_line())
    ours_minus_careful = []
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as folder:
            found = _run_both(name, Path(folder), arguments)
        shown = "   ".join(f"{who} {told(mean, each)}" for who, (mean, each) in found.items())
        print(f"{name:12} {shown}", flush=True)
        if len(found) == 2:
            ours_minus_careful.append(found["ours"][0] - found["careful"][0])
    if ours_minus_careful:
        print(
            f"ours - careful: mean {np.mean(ours_minus_careful):+.3f}, target >= 0; "
            f"worst {min(ours_minus_careful):+.3f}, target >= -0.03"
        )


def _run_both(
    name: str, folder: Path, arguments: argparse.Namespace
) -> dict[str, tuple[float, np.ndarray]]:
    who = [each for each in ("ours", "careful") if arguments.only in (None, each)]
    minutes = arguments.minutes * (os.cpu_count() or 1 if arguments.pinned else 1)
    begun: dict[str, subprocess.Popen[str]] = {}
    for core, each in enumerate(who):
        command = _commands(each, name, folder, minutes, arguments)
        pin = ["taskset", "-c", str(core % (os.cpu_count() or 1))] if arguments.pinned else []
        begun[each] = subprocess.Popen(
            [*pin, *command], stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )
        if not arguments.pinned:
            begun[each].wait()
    found = {}
    for each, process in begun.items():
        answer, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{each} on {name} ended with {process.returncode}")
        if each == "ours":
            predict(Path(answer.strip().splitlines()[-1]), SETS[name], folder / "ours")
        found[each] = score(SETS[name], folder / each)
    return found


def _commands(
    who: str, name: str, folder: Path, minutes: float, arguments: argparse.Namespace
) -> list[str]:
    if who == "careful":
        own = [sys.executable, "-m", "tests.bench.quality", "--seed", str(arguments.seed)]
        return [*own, "--careful-worker", name, str(minutes), str(folder / "careful")]
    project = write_project(SETS[name], folder / "project", arguments.seed)
    sets = [f"training.minutes={minutes}", *arguments.set]
    options = [part for key in sets for part in ("--set", key)]
    return [sys.executable, "-m", "emcfsys_engine", "train", str(project), *options]


def write_project(data: DataSet, folder: Path, seed: int) -> Path:
    """Write a project of links to a set's images and masks, and return its project.toml."""
    classes = "\n".join(f"{name} = {value}" for value, name in enumerate(data.classes))
    tables = []
    for split, globs in (("train", data.train), ("val", data.val)):
        for image, mask in data.pairs(globs):
            for kind, path in (("images", image), ("masks", mask)):
                link(folder / split / kind / path.name, path)
        tables.append(
            f'[[data]]\nimages = "{split}/images"\nmasks = "{split}/masks"\nsplit = "{split}"\n'
        )
    project = folder / "project.toml"
    project.write_text(
        f'[project]\nname = "bench"\nseed = {seed}\n[classes]\n{classes}\n' + "\n".join(tables)
    )
    return project


def link(place: Path, file: Path) -> None:
    """Make a link to a file, and the folders that it lies in."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(file.resolve())


def engine(*words: object) -> str:
    """Run a command of the engine; return its last line."""
    command = [sys.executable, "-m", "emcfsys_engine", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return "".join(done.stdout.strip().splitlines()[-1:])


def predict(run: Path, data: DataSet, out: Path) -> None:
    images = [str(image.resolve()) for image, _ in data.pairs(data.val)]
    command = [sys.executable, "-m", "emcfsys_engine", "predict", str(run / "best.safetensors")]
    subprocess.run([*command, *images, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)


def score(data: DataSet, predictions: Path) -> tuple[float, np.ndarray]:
    """Return the mean IoU and each class's, from index PNGs named as the images are."""
    number = len(data.classes)
    counted = np.zeros((number, number), np.int64)
    for image, mask in data.pairs(data.val):
        truth = np.asarray(Image.open(mask)).astype(int)
        found = np.asarray(Image.open(predictions / f"{image.stem}.png")).astype(int)
        known = truth != _UNLABELLED
        pairs = truth[known] * number + found[known]
        counted += np.bincount(pairs, minlength=number**2).reshape(number, number)
    union = counted.sum(0) + counted.sum(1) - counted.diagonal()
    each = counted.diagonal() / np.maximum(1, union)
    return float(each[union > 0].mean()), each


def told(mean: float, each: np.ndarray) -> str:
    return f"{mean:.3f} ({' '.join(f'{iou:.2f}' for iou in each)})"


# --- the careful recipe: nothing of ours in it -----------------------------------------------


def train_carefully(data: DataSet, minutes: float, out: Path, seed: int) -> None:
    """Train for some minutes, then write the validation images' predictions."""
    import segmentation_models_pytorch as smp

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(seed)
    images, masks = zip(*[_read(*pair) for pair in data.pairs(data.train)], strict=True)
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)
    shares = counts[: len(data.classes)] / counts[: len(data.classes)].sum()
    weights = torch.tensor(1 / np.sqrt(np.maximum(shares, 1e-4)), dtype=torch.float32)
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=len(data.classes))
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98), use_buffers=True
    )
    began, step = time.monotonic(), 0
    # A twentieth of the time is left for the prediction, as ours leaves it for its validation.
    while (progress := (time.monotonic() - began) / (minutes * 60 * 0.95)) < 1:
        rate = 1e-3 * min(1, (step + 1) / 30) * 0.5 * (1 + np.cos(np.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        patches, labels = _draw(images, masks, seed=seed * 1_000_003 + step)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(patches.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(
            logits.float(), labels, weight=weights / weights.mean(), ignore_index=_UNLABELLED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(network)
        step += 1
    print(f"careful: {step} steps", file=sys.stderr)
    out.mkdir(parents=True)
    averaged.eval()
    for image, mask in data.pairs(data.val):
        found = _whole_image(averaged, _read(image, mask)[0])
        Image.fromarray(found.astype(np.uint8)).save(out / f"{image.stem}.png")


def _read(image: Path, mask: Path) -> tuple[np.ndarray, np.ndarray]:
    grey = np.asarray(Image.open(image).convert("L"), np.float32)
    return (grey - grey.mean()) / grey.std(), np.asarray(Image.open(mask))


def _draw(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], *, seed: int, px: int = 320
) -> tuple[Tensor, Tensor]:
    """Return a batch of eight warped patches (8×1×P×P) and their labels (8×P×P)."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    patches, labels = [], []
    for _ in range(8):
        chosen = rng.integers(len(images))
        image, mask = images[chosen], masks[chosen]
        patch, label = _warped(image, mask, rng, px)
        patch = patch * 2 ** rng.uniform(-0.8, 0.8) + rng.uniform(-0.8, 0.8)
        if rng.random() < 0.3:
            patch = _blurred(patch, rng.uniform(0.5, 1.8))
        if rng.random() < 0.6:
            patch = patch + torch.randn_like(patch) * rng.uniform(0, 0.4)
        patches.append(patch)
        labels.append(label)
    return torch.cat(patches), torch.cat(labels)


def _warped(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, px: int
) -> tuple[Tensor, Tensor]:
    height, width = image.shape
    angle, zoom = rng.uniform(-np.pi, np.pi), 2 ** rng.uniform(-0.4, 0.4)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * zoom
    turn[:, 0] *= rng.choice([-1, 1])
    line = np.arange(px) - (px - 1) / 2
    offsets = np.stack(np.meshgrid(line, line), -1) @ turn.T
    half = px / 2
    x = rng.uniform(min(half, width / 2), max(width - half, width / 2))
    y = rng.uniform(min(half, height / 2), max(height - half, height / 2))
    places = (offsets + [x, y] + 0.5) / [width, height] * 2 - 1
    grid = torch.from_numpy(places[None].astype(np.float32))
    patch = F.grid_sample(
        torch.from_numpy(image)[None, None], grid, padding_mode="reflection", align_corners=False
    )
    label = F.grid_sample(
        torch.from_numpy(mask.astype(np.float32))[None, None],
        grid,
        mode="nearest",
        padding_mode="reflection",
        align_corners=False,
    )
    return patch, label[:, 0].long()


def _blurred(patch: Tensor, sigma: float) -> Tensor:
    line = torch.arange(-5, 6, dtype=torch.float32)
    kernel = torch.exp(-(line**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    across = F.conv2d(F.pad(patch, (5,) * 4, mode="reflect"), kernel.view(1, 1, 1, -1))
    return F.conv2d(across, kernel.view(1, 1, -1, 1))


@torch.inference_mode()
def _whole_image(network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    height, width = image.shape
    padded = F.pad(
        torch.from_numpy(image)[None, None], (0, -width % 32, 0, -height % 32), mode="reflect"
    )
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(padded.contiguous(memory_format=torch.channels_last))
    return logits[0, :, :height, :width].argmax(0).numpy()


if __name__ == "__main__":
    main()
