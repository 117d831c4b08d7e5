"""Evidence for the recipe: what the validation IoU loses (or gains) when one choice is undone.

    python -m tests.bench.recipe [--set-name vnc] [--minutes 4] [--seed 0] [--only CHOICE ...]

Every variant trains for the same wall time on one core, as many beside each other as there are
cores, and is scored as in `quality`. A difference below about 0.01 is within what a seed does.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import msgspec

from emcfsys_engine.learn import worker
from emcfsys_engine.learn.training import dataset as data_module
from emcfsys_engine.learn.training import run as train_run
from emcfsys_engine.learn.training.plan import Plan
from emcfsys_engine.project import load_project
from emcfsys_engine.run.groups import new_trainings
from tests.bench.machine import machine_line
from tests.bench.quality import SETS, predict, score, told, write_project

# As options of `train`.
SETTINGS: dict[str, tuple[str, ...]] = {
    "as shipped": (),
    "batch 4": ("training.batch=4",),
    "batch 16": ("training.batch=16",),
    "patch 128": ("training.patch_px=128",),
    "patch 384": ("training.patch_px=384",),
    "cross entropy alone": ("training.loss=ce",),
    "no augmentation": ("augment.preset=none",),
    "light augmentation": ("augment.preset=light",),
    "strong augmentation": ("augment.preset=strong",),
    "random weights": ("model.weights=none",),
    "an auxiliary head": ("model.auxiliary=true",),
    "trapezoid": ("training.schedule=trapezoid",),
}
# As changes of the plan, of what no setting can undo.
PLANS: dict[str, Callable[[Plan], Plan]] = {
    "no average of weights": lambda plan: msgspec.structs.replace(plan, ema_decay=0.0),
    "classes weigh the same": lambda plan: msgspec.structs.replace(
        plan, class_weights=(1.0,) * len(plan.class_weights)
    ),
    "encoder as fast as decoder": lambda plan: msgspec.structs.replace(
        plan, encoder_lr=plan.decoder_lr
    ),
    "no warm-up": lambda plan: msgspec.structs.replace(plan, warmup_steps=1),
}
DRAWING = "patches drawn evenly"  # instead of half of them by class
CHOICES = (*SETTINGS, *PLANS, DRAWING)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--set-name", choices=list(SETS), default="vnc")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--worker", nargs=2, metavar=("CHOICE", "PROJECT"))
    arguments = parser.parse_args()
    if arguments.worker:
        _train(*arguments.worker, arguments.minutes)
        return
    print(machine_line())
    print(f"{arguments.set_name}, {arguments.minutes:g} minutes of one core each")
    cores = sorted(os.sched_getaffinity(0))
    for first in range(0, len(arguments.only), len(cores)):
        _run_beside(arguments.only[first : first + len(cores)], cores, arguments)


def _run_beside(
    choices: Sequence[str], cores: Sequence[int], arguments: argparse.Namespace
) -> None:
    with tempfile.TemporaryDirectory() as place:
        begun: list[subprocess.Popen[str]] = []
        for core, choice in zip(cores, choices, strict=False):
            folder = Path(place) / str(core)
            project = write_project(SETS[arguments.set_name], folder, arguments.seed)
            own = ["-m", "tests.bench.recipe", "--minutes", str(arguments.minutes)]
            command = ["taskset", "-c", str(core), sys.executable, *own]
            command += ["--worker", choice, str(project)]
            begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for core, choice, process in zip(cores, choices, begun, strict=False):
            answer, _ = process.communicate()
            if process.returncode:
                raise SystemExit(f"{choice} ended with {process.returncode}")
            out = Path(place) / f"{core}-out"
            predict(Path(answer.strip().splitlines()[-1]), SETS[arguments.set_name], out)
            print(f"{choice:28} {told(*score(SETS[arguments.set_name], out))}", flush=True)


def _train(choice: str, file: str, minutes: float) -> None:
    """Train one variant in this process, and print its run's folder as the last line."""
    project = load_project(Path(file), [f"training.minutes={minutes}", *SETTINGS.get(choice, ())])
    (run,) = new_trainings(project)
    with _undone(choice):
        code = worker.main([str(run.folder)])
    print(run.folder)
    raise SystemExit(code)


@contextmanager
def _undone(choice: str) -> Iterator[None]:
    """Undo one choice of the recipe for as long as the context lasts."""
    make_plan = train_run.make_plan
    change = PLANS.get(choice, lambda plan: plan)
    with mock.patch.object(train_run, "make_plan", lambda *a, **k: change(make_plan(*a, **k))):
        if choice != DRAWING:
            yield
            return
        with mock.patch.object(data_module, "_class_positions", lambda *_: {}):
            yield


if __name__ == "__main__":
    main()
