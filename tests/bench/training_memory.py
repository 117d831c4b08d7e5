"""Peak memory of a training with each preset, beside what its plan counted before the first step.

    python -m tests.bench.training_memory [--steps 12] [--backbone NAME ...] [--set KEY=VALUE ...]

Each training is the command of its own process on 1024² micrographs, with a validation and its
checkpoint; its peak is the kernel's word for that process (ru_maxrss).
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.bench.machine import machine_line
from tests.bench.pairs import write_pairs

PRESETS = ("quick", "standard", "best")
PROJECT = """
[project]
name = "memory"
[classes]
background = 0
object = 1
third = 2
[[data]]
images = "train"
masks = "train_masks"
split = "train"
[[data]]
images = "val"
masks = "val_masks"
split = "val"
[model]
backbone = "{backbone}"
weights = "none"
[training]
preset = "{preset}"
steps = {steps}
validate_every = {steps}
"""
_PX = 1024
_IDLE = "import emcfsys_engine.learn.training.run"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--backbone", nargs="+", default=["tf_efficientnet_lite0", "resnet50"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    print(machine_line())
    libraries = _peak_of([sys.executable, "-c", _IDLE])
    print(f"{'libraries alone':36} {libraries / 2**30:6.2f} GiB")
    for backbone in arguments.backbone:
        for preset in PRESETS:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                _write_project(folder, backbone, preset, arguments.steps)
                options = [part for key in arguments.set for part in ("--set", key)]
                command = [sys.executable, "-m", "emcfsys_engine", "train", str(folder), *options]
                peak = _peak_of(command)
                plan = json.loads(next(folder.glob("runs/*/plan.json")).read_text())
            told = plan["reasons"].get("micro_batch", "")
            name = f"{backbone} {preset}, {plan['batch']} × {plan['patch_px']}²"
            print(f"{name:36} {peak / 2**30:6.2f} GiB   plan: {told}", flush=True)


def _peak_of(command: list[str]) -> int:
    """Run a command to its end and return its largest resident memory in bytes."""
    quiet = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, quiet, number) for number in (0, 1, 2)]
    pid = os.posix_spawn(command[0], command, dict(os.environ), file_actions=actions)
    os.close(quiet)
    _, status, usage = os.wait4(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return usage.ru_maxrss * 1024


def _write_project(folder: Path, backbone: str, preset: str, steps: int) -> None:
    write_pairs(folder / "train", folder / "train_masks", range(6), _PX)
    write_pairs(folder / "val", folder / "val_masks", range(100, 102), _PX)
    text = PROJECT.format(backbone=backbone, preset=preset, steps=steps)
    (folder / "project.toml").write_text(text)


if __name__ == "__main__":
    main()
