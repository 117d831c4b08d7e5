"""Does a model know when its mask is wrong? Four sets, made worse and exchanged.

    python -m tests.bench.trust [--minutes 2] [--models FOLDER] [--learn-s 60] [--sets …]

One model a set, trained for some minutes (or kept in --models from before), learns when it fails
from its validation images and its own damage to them. It is asked here about the same validation
images, whole and with damage of other strengths and seeds, and about images of the other three
sets, of which every mask counts as IoU 0. Bad is an IoU below 0.8 times the model's own; PASS is an
expected IoU of at least 0.9 times it, or 0.85 times it (`--pass-shares`).
"""

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from PIL import Image
from scipy import stats

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.learn.inference.bands import open_image
from emcfsys_engine.learn.inference.evidence import Raw
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.training import degradations as worse
from emcfsys_engine.learn.training.start import datasets_of
from emcfsys_engine.learn.training.trust import damaged, learn_trust, true_ious
from emcfsys_engine.learn.watch.numbers import unlike_training
from emcfsys_engine.project import load_project
from tests.bench.machine import machine_line
from tests.bench.quality import SETS, write_project

_EDGE_PX = 1024
_SEED = 1_000
_OTHERS: tuple[tuple[worse.Worse, tuple[float, ...]], ...] = (
    (worse.defocus, (1.0, 2.2, 4.5)),
    (worse.noise, (0.1, 0.25, 0.6)),
    (worse.charging, (0.1, 0.25, 0.6)),
    (worse.pixel_size, (0.7, 1.5, 2.5)),
    (worse.contrast, (0.6, 1.7, -0.8)),
    (worse.saturated, (0.15, 0.45)),
    (worse.drift, (4.0, 11.0)),
    (worse.empty, (6.0,)),
    (worse.info_bar, (0.15, 0.25)),
)


class Asked(NamedTuple):
    """One mask: what was expected of it, its true IoU, and whether the old guard spoke up."""

    kind: str
    expected: float
    true: float
    is_flagged: bool
    is_covered: bool


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--models", type=Path, default=Path("/tmp/trust"))
    parser.add_argument("--learn-s", type=float, default=60)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--pass-shares", type=float, nargs=2, default=[0.9, 0.85])
    parser.add_argument(
        "--unseen", type=int, default=0, help="Ask of so many images that the learning never saw."
    )
    parser.add_argument("--kinds", action="store_true", help="Also a line a kind of damage.")
    arguments = parser.parse_args()
    print(machine_line(), f"\nload {os.getloadavg()[0]:.1f}")
    print("| model | own IoU | masks, bad | Spearman | AUROC |", end="")
    for part in arguments.pass_shares:
        print(f" at {part:g}: bad of PASS | good PASS |", end="")
    print(" 90 % interval holds | pixel ECE | old guard: AUROC, bad of PASS, good PASS | learned |")
    every = [_of_set(name, arguments) for name in arguments.sets]
    if len(every) > 1:
        _tell("all", None, [one for rows, _ in every for one in rows], every, arguments)


def _of_set(name: str, arguments: argparse.Namespace) -> tuple[list[tuple[Asked, float]], float]:
    folder = arguments.models / name
    if not list(folder.glob("runs/*/best.safetensors")):
        _train(name, folder, arguments.minutes)
    (model,) = folder.glob("runs/run-0001/best.safetensors")
    project = load_project(folder / "project.toml")
    predictor = Predictor(model)
    train, val = datasets_of(project, list_samples(project), predictor.channels)
    began = time.monotonic()
    trust = learn_trust(predictor, train, val, seed=0, seconds=arguments.learn_s)
    seconds = time.monotonic() - began
    predictor.take_trusts((trust,))
    asked = list(_asked(name, predictor, folder, arguments.unseen))
    own = float(np.mean([one.true for one in asked if one.kind == "as it is"]))
    error = calibration_error(name, predictor)
    size = len(msgspec.json.encode(trust)) / 1e3
    rows = [(one, own) for one in asked]
    _tell(name, own, rows, [(rows, error)], arguments, f"{seconds:.0f} s, {size:.0f} kB")
    return rows, error


def _train(name: str, folder: Path, minutes: float) -> None:
    project = write_project(SETS[name], folder, 0)
    command = [sys.executable, "-m", "emcfsys_engine", "train", str(project)]
    command += ["--set", f"training.minutes={minutes}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _asked(name: str, predictor: Predictor, folder: Path, num_unseen: int) -> Iterator[Asked]:
    file = folder / "asked.tif"
    for kind, image_HW, labels_HW in _shown(name, num_unseen):
        made = predictor.predict(image_HW)
        assert made.expected is not None
        true = 0.0
        if labels_HW is not None:
            true = float(true_ious(made, labels_HW, predictor.card.class_values)[0])
        Image.fromarray((image_HW.clip(0, 1) * 255).round().astype(np.uint8)).save(file)
        opened = open_image(ImageRef(path=file), predictor.normaliser)
        flagged = bool(unlike_training(opened, made.confidence, predictor.card))
        opened.close()
        covered = made.expected.low <= true <= made.expected.high
        yield Asked(kind, made.expected.iou, true, flagged, covered)


def _shown(name: str, num_unseen: int) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Yield images of 0 to 1 as a camera of 8 bits gives them, with labels where they are known."""
    for number, (image, labels) in enumerate(_pairs(name, num_unseen)):
        yield "as it is", image, labels
        for turn, (apply, strengths) in enumerate(_OTHERS):
            for strength in strengths:
                rng = np.random.default_rng((_SEED, turn, number, round(10 * abs(strength))))
                made, values = damaged(apply, image[..., None], labels, strength, rng)
                yield apply.__name__, made[..., 0].clip(0, 1), values
    for other in SETS:
        if other != name:
            for image, _ in _pairs(other, num_unseen):
                yield "another set", image, None


def _pairs(name: str, num_unseen: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield validation images, which the judgement is learned from, or the first that train."""
    chosen = SETS[name].pairs(SETS[name].train)[:num_unseen] if num_unseen else None
    for image, mask in chosen or SETS[name].pairs(SETS[name].val):
        pixels = np.asarray(Image.open(image).convert("L"))[:_EDGE_PX, :_EDGE_PX]
        yield pixels.astype(np.float32) / 255, np.asarray(Image.open(mask))[:_EDGE_PX, :_EDGE_PX]


def calibration_error(name: str, predictor: Predictor, bins: int = 15) -> float:
    """Return the expected calibration error of pixels of the undamaged validation images."""
    trust = predictor.trusts[0]
    sure, right = list[np.ndarray](), list[np.ndarray]()
    for image, labels in _pairs(name):
        raw = predictor.evidence.raw = Raw()
        predictor.predict(image)
        predictor.evidence.raw = None
        for first, logits in raw.logits:
            logits_ChW = logits.cpu()
            truth_hW = torch.from_numpy(labels[first::4, ::4][: logits_ChW.shape[1]].copy())
            best_hW = logits_ChW.argmax(dim=0)
            warm_hW = torch.tensor(trust.temperatures)[best_hW]
            sure_hW = (logits_ChW / warm_hW).softmax(dim=0).amax(dim=0)
            known = truth_hW != 255
            sure.append(sure_hW[known].numpy())
            right.append((best_hW == truth_hW)[known].numpy())
    sure_N, right_N = np.concatenate(sure), np.concatenate(right)
    place_N = np.minimum((sure_N * bins).astype(int), bins - 1)
    gaps = [
        abs(float(sure_N[place_N == n].sum() - right_N[place_N == n].sum())) for n in range(bins)
    ]
    return sum(gaps) / len(sure_N)


def _tell(
    name: str,
    own: float | None,
    rows: list[tuple[Asked, float]],
    every: list[tuple[list[tuple[Asked, float]], float]],
    arguments: argparse.Namespace,
    learned: str = "",
) -> None:
    asked = [one for one, _ in rows]
    base = np.array([model for _, model in rows])
    guess, true = np.array([one.expected for one in asked]), np.array([one.true for one in asked])
    bad = true < 0.8 * base
    passes = " | ".join(_shares(bad, guess >= part * base) for part in arguments.pass_shares)
    clear = ~np.array([one.is_flagged for one in asked])
    rank = float(stats.spearmanr(guess / base, true / base).statistic)
    held = np.mean([one.is_covered for one in asked if one.kind != "another set"])
    print(
        f"| {name} | {'' if own is None else f'{own:.3f}'} | {len(asked)}, {int(bad.sum())} "
        f"| {rank:.3f} | {_auroc(-guess / base, bad):.3f} | {passes} "
        f"| {held:.0%} | {np.mean([error for _, error in every]):.4f} "
        f"| {_auroc(-clear.astype(float), bad):.3f}, {_shares(bad, clear).replace(' | ', ', ')} "
        f"| {learned} |",
        flush=True,
    )
    if arguments.kinds:
        for kind in dict.fromkeys(one.kind for one in asked):
            some = np.array([one.kind == kind for one in asked])
            errors = [f"{g:.2f}/{t:.2f}" for g, t in zip(guess[some], true[some], strict=True)]
            print(f"    {kind:12} expected/true {' '.join(errors[:14])}")


def _shares(bad: np.ndarray, passed: np.ndarray) -> str:
    wrong = (bad & passed).sum() / max(1, passed.sum())
    return f"{wrong:.1%} | {(passed & ~bad).sum() / max(1, (~bad).sum()):.0%}"


def _auroc(score: np.ndarray, bad: np.ndarray) -> float:
    ranks = stats.rankdata(score)
    ones, others = int(bad.sum()), int((~bad).sum())
    if not ones or not others:
        return float("nan")
    return float((ranks[bad].sum() - ones * (ones + 1) / 2) / (ones * others))


if __name__ == "__main__":
    warnings.simplefilter("ignore", RuntimeWarning)  # nanmean of an image without a class
    main()
