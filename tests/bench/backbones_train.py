"""A ViT, a Swin and a ConvNeXt under every head, each trained for a minute on real micrographs.

    python -m tests.bench.backbones_train [--minutes 1] [--backbones NAME ...] [--heads NAME ...]

From random weights on superalloy-sem (train, val), through `emcfsys-engine train` as a person
would. Shown are the loss of the first and of the last fifth of the steps and the best mean IoU.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

from emcfsys_engine.model_card import Head
from emcfsys_engine.run.events import StepDone, ValidationDone
from emcfsys_engine.run.folder import open_run
from tests.bench.machine import machine_line
from tests.bench.quality import SETS, write_project

BACKBONES = ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--heads", nargs="+", default=get_args(Head))
    arguments = parser.parse_args()
    print(machine_line())
    print(f"{'backbone':<30} {'head':<14} {'steps':>5} {'first':>7} {'last':>7} {'mean IoU':>9}")
    still: list[str] = []
    for backbone in arguments.backbones:
        for head in arguments.heads:
            with tempfile.TemporaryDirectory() as folder:
                first, last = _trained(Path(folder), backbone, head, arguments.minutes)
            if last >= first:
                still.append(f"{backbone} under {head}")
    print(f"the loss did not fall: {', '.join(still)}" if still else "every loss fell")
    raise SystemExit(bool(still))


def _trained(folder: Path, backbone: str, head: str, minutes: float) -> tuple[float, float]:
    project = write_project(SETS["superalloy"], folder, 0)
    sets = {
        "model.backbone": backbone,
        "model.head": head,
        "model.weights": "none",
        "training.minutes": minutes,
    }
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "emcfsys_engine", "train", str(project), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{backbone} under {head}: {done.stderr}")
    events = open_run(Path(done.stdout.strip().splitlines()[-1])).events()
    steps = [event for event in events if isinstance(event, StepDone)]
    scores = [event.mean_iou or 0.0 for event in events if isinstance(event, ValidationDone)]
    fifth = max(1, len(steps) // 5)
    first = sum(event.loss for event in steps[:fifth]) / fifth
    last = sum(event.loss for event in steps[-fifth:]) / fifth
    print(
        f"{backbone:<30} {head:<14} {steps[-1].step:>5} {first:>7.3f} {last:>7.3f} "
        f"{max(scores):>9.3f}",
        flush=True,
    )
    return first, last


if __name__ == "__main__":
    main()
