"""What scribbles are worth: mean IoU of training on 5 % of the pixels, against full masks.

    python -m tests.bench.scribbles [--minutes 5] [--sets superalloy vnc axon] [--seed 0]
                                    [--share 0.05] [--pinned] [--set KEY=VALUE ...]

Strokes of a few pixels' width are drawn inside every class of every mask by a seeded generator
until the share is reached; the rest is unlabelled, also in the validation images that choose the
best model. Both are scored here on the full masks of the validation images, by `quality`'s
confusion matrix. One after the other on all cores; with `--pinned` beside each other on a core
each, for cores times the minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.machine import machine_line
from tests.bench.quality import SETS, DataSet, predict, score, told, write_project

TARGET = 0.92  # of the mean IoU of full masks
_UNLABELLED = 255
_RADIUS_PX = 2  # of a stroke
_LONGEST_PX = 120
_TURN = 0.35  # radians a step, as a hand wavers


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS)[:3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--pinned", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    print(machine_line())
    worst = np.inf
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as folder:
            found = _run_both(SETS[name], Path(folder), arguments)
        ratio = found["scribbles"][0] / found["full"][0]
        worst = min(worst, ratio)
        shown = "   ".join(f"{who} {told(mean, each)}" for who, (mean, each) in found.items())
        print(f"{name:12} {shown}   ratio {ratio:.3f}", flush=True)
    print(f"worst ratio {worst:.3f}, target >= {TARGET}")


def scribbled(mask: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a mask of which only strokes are left, in every class; 255 is unlabelled.

    A class gets pixels by the square root of its area, as people give small ones more strokes.
    Shapes: uint8 H×W.
    """
    result = np.full_like(mask, _UNLABELLED)
    values, areas = np.unique(mask[mask != _UNLABELLED], return_counts=True)
    wanted = share * mask.size * np.sqrt(areas) / np.sqrt(areas).sum()
    for value, budget, area in zip(values, wanted, areas, strict=True):
        region = mask == value
        left = int(min(budget, 0.9 * area))
        for start in rng.permutation(np.flatnonzero(region)):  # strokes begin where it is bare
            if left <= 0:
                break
            row, column = divmod(int(start), mask.shape[1])
            if result[row, column] == _UNLABELLED:
                left -= _stroke(result, region, int(value), (row, column), left, rng)
    return result


def _stroke(
    result: np.ndarray,
    region: np.ndarray,
    value: int,
    start: tuple[int, int],
    most: int,
    rng: np.random.Generator,
) -> int:
    """Draw one wavering line inside a region, and return how many pixels it added."""
    row, column = start
    y, x, angle, drawn = float(row), float(column), rng.uniform(-np.pi, np.pi), 0
    turns = rng.normal(0, _TURN, _LONGEST_PX)
    for turn in turns:
        rows = slice(max(0, row - _RADIUS_PX), row + _RADIUS_PX + 1)
        columns = slice(max(0, column - _RADIUS_PX), column + _RADIUS_PX + 1)
        fresh = region[rows, columns] & (result[rows, columns] == _UNLABELLED)
        drawn += int(np.count_nonzero(fresh))
        result[rows, columns][fresh] = value
        angle += turn
        y, x = y + np.sin(angle), x + np.cos(angle)
        row, column = round(y), round(x)
        inside = 0 <= row < region.shape[0] and 0 <= column < region.shape[1]
        if not inside or not region[row, column] or drawn >= most:
            break
    return drawn


def write_scribbled_project(data: DataSet, folder: Path, seed: int, share: float) -> Path:
    """Write a project as `quality` does, with every mask's link replaced by its scribbles."""
    project = write_project(data, folder, seed)
    for number, link in enumerate(sorted(folder.glob("*/masks/*"))):
        mask = np.asarray(Image.open(link))
        link.unlink()
        rng = np.random.default_rng((seed, number))
        Image.fromarray(scribbled(mask, share, rng)).save(link)
    return project


def _run_both(
    data: DataSet, folder: Path, arguments: argparse.Namespace
) -> dict[str, tuple[float, np.ndarray]]:
    projects = {
        "full": write_project(data, folder / "full", arguments.seed),
        "scribbles": write_scribbled_project(
            data, folder / "scribbles", arguments.seed, arguments.share
        ),
    }
    cores = sorted(os.sched_getaffinity(0))
    minutes = arguments.minutes * (len(cores) if arguments.pinned else 1)
    options = [f"training.minutes={minutes}", *arguments.set]
    begun: dict[str, subprocess.Popen[str]] = {}
    for number, (name, project) in enumerate(projects.items()):
        pin = ["taskset", "-c", str(cores[number % len(cores)])] if arguments.pinned else []
        command = [*pin, sys.executable, "-m", "emcfsys_engine", "train", str(project)]
        command += [part for key in options for part in ("--set", key)]
        begun[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if not arguments.pinned:
            begun[name].wait()
    found: dict[str, tuple[float, np.ndarray]] = {}
    for name, process in begun.items():
        answer, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{name} ended with {process.returncode}")
        predict(Path(answer.strip().splitlines()[-1]), data, folder / f"{name}-out")
        found[name] = score(data, folder / f"{name}-out")
    return found


if __name__ == "__main__":
    main()
