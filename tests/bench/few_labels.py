"""What images without labels are worth: mean IoU of 1, 2, 4, 8 labelled images, with and without.

    python -m tests.bench.few_labels [--labels 2] [--sets superalloy vnc axon ebc] [--seeds 0]
                                     [--steps 100] [--arms alone learn longer] [--set KEY=VALUE ...]

The labelled images are drawn by the seed from the set's training images; all others of these are
`unlabelled = "learn"` (arm `learn`), or left out (`alone`). `longer`: labels alone, for as many
steps as take the time of `learn`. What is told is the mean IoU on the validation images after the
last step; they are in neither part. Every arm begins with the same weights, ImageNet's, and draws
the same labelled patches.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from emcfsys_engine.learn import worker
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ValidationDone, read_events
from emcfsys_engine.run.groups import new_trainings
from tests.bench.machine import machine_line
from tests.bench.quality import SETS, DataSet, link

TARGET, WORST = 0.03, -0.01  # of learn - alone: on average over the sets, and for each of them
_PATCH_PX, _BATCH = 192, 4


def main() -> None:
    """Print one line a training, then what was gained."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--labels", type=int, nargs="+", default=[2])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--arms", nargs="+", default=["alone", "learn"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    print(machine_line(), flush=True)
    gains: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    for name in arguments.sets:
        for number in arguments.labels:
            for seed in arguments.seeds:
                scores = _one_cell(name, number, seed, arguments)
                for arm in scores:
                    gains[arm, number, name].append(scores[arm] - scores.get("alone", 0.0))
    for (arm, number, name), found in gains.items():
        if arm != "alone":
            print(f"{arm} - alone, {number} labels, {name}: {np.mean(found):+.3f}")
    for arm, number in {(arm, number) for arm, number, _ in gains if arm != "alone"}:
        of_sets = [np.mean(found) for key, found in gains.items() if key[:2] == (arm, number)]
        told = f"mean {np.mean(of_sets):+.3f}, worst {min(of_sets):+.3f}"
        print(f"{arm} - alone, {number} labels: {told} (targets {TARGET:+}, {WORST:+})")


def _one_cell(name: str, number: int, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    scores: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for arm in arguments.arms:
        steps = arguments.steps
        if arm == "longer":
            steps = round(steps * seconds["learn"] / seconds["alone"])
        with tempfile.TemporaryDirectory() as folder:
            data = SETS[name]
            project = _write_project(data, Path(folder), number, seed, learns=arm == "learn")
            began = time.perf_counter()
            found = _trained(project, steps, arguments.set)
            seconds[arm] = time.perf_counter() - began
        scores[arm] = found.mean_iou or 0.0
        each = " ".join(f"{iou or 0:.2f}" for iou in found.iou.values())
        told = f"{scores[arm]:.3f} ({each}) best at {found.step} of {steps} steps"
        print(
            f"{name:10} {number} labels seed {seed} {arm:7} {told} {seconds[arm]:.0f} s", flush=True
        )
    return scores


def _write_project(data: DataSet, folder: Path, number: int, seed: int, *, learns: bool) -> Path:
    """Write a project of links, of which so many training images have masks."""
    pairs = data.pairs(data.train)
    order = np.random.default_rng(seed).permutation(len(pairs))
    labelled = [pairs[n] for n in sorted(order[:number])]
    parts = {"train": labelled, "val": data.pairs(data.val)}
    bare = [pairs[n][0] for n in sorted(order[number:])] if learns else []
    tables: list[str] = []
    for split, some in parts.items():
        for image, mask in some:
            link(folder / split / "images" / image.name, image)
            link(folder / split / "masks" / image.name, mask)
        place = f'images = "{split}/images"\nmasks = "{split}/masks"'
        tables.append(f'[[data]]\n{place}\nsplit = "{split}"\n')
    for image in bare:
        link(folder / "bare" / image.name, image)
    if bare:
        tables.append('[[data]]\nimages = "bare"\nunlabelled = "learn"\n')
    classes = "\n".join(f"{name} = {value}" for value, name in enumerate(data.classes))
    head = f'[project]\nname = "bench"\nseed = {seed}\n[classes]\n{classes}\n'
    (folder / "project.toml").write_text(head + "\n".join(tables))
    return folder / "project.toml"


def _trained(project: Path, steps: int, settings: list[str]) -> ValidationDone:
    """Train in this process, and return the validation at the end."""
    sizes = (f"patch_px={_PATCH_PX}", f"batch={_BATCH}", f"steps={steps}")
    options = [f"training.{each}" for each in (*sizes, f"validate_every={steps}")]
    (run,) = new_trainings(load_project(project, (*options, *settings)))
    if worker.main([str(run.folder)]):
        raise SystemExit(f"{run.folder} failed")
    events = read_events(run.events_file)
    told = [one for one in events if isinstance(one, ValidationDone)]
    return told[-1]


if __name__ == "__main__":
    main()
