"""Two processes of one core each against one of one core: `predict` and the hot folder.

python tests/bench/several.py [--number 24] [--side 1536] [--rounds 3]

Run it on a quiet machine of at least two cores. Told is how many times as many images a second come
out between the first and the last: starting, which is the same for both, is left out.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest, WatchRequest
from tests.bench.inference_speed import make_model
from tests.bench.machine import machine_line

PROJECT = """
[project]
name = "several"
[classes]
matrix = 0
large = 1
small = 2
[[data]]
images = "images"
masks = "images"
[compute]
gpus = 0
processes = {processes}
threads = 1
[hotfolder]
watch = "images"
output = "{out}"
model = "{model}"
settle_s = 0.1
"""


def images_a_second(run: Run, cores: int) -> float:
    """Return how fast a run's worker is on so many cores."""
    command = [sys.executable, "-m", "emcfsys_engine.learn.worker", str(run.folder)]
    usable = sorted(os.sched_getaffinity(0))[:cores]
    pinned = ["taskset", "-c", ",".join(map(str, usable)), *command]
    subprocess.run(pinned, check=True, stdout=subprocess.DEVNULL)
    times = sorted(event.time for event in run.events() if isinstance(event, ImageDone))
    return (len(times) - 1) / (times[-1] - times[0])


def make_run(folder: Path, model: Path, does: str, processes: int, name: str) -> Run:
    out = folder / name
    if does == "predict":
        request = PredictRequest(
            model=str(model),
            inputs=(str(folder / "images"),),
            out=str(out),
            gpus=0,
            threads=1,
            processes=processes,
        )
        return new_run(folder / "runs", request)
    text = PROJECT.format(processes=processes, out=out, model=model)
    (folder / "project.toml").write_text(text)
    watched = WatchRequest(
        model=str(model), watch=str(folder / "images"), output=str(out), once=True
    )
    return new_run(folder / "runs", watched, project=load_project(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=24)
    parser.add_argument("--side", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbone", default="resnet18")
    given = parser.parse_args()
    print(machine_line(), f"load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        model = make_model(folder, given.backbone)
        for number in range(given.number):
            pixels = np.random.default_rng(number).integers(0, 255, (given.side,) * 2, np.uint8)
            tifffile.imwrite(folder / "images" / f"{number:03d}.tif", pixels)
        for does in ("predict", "watch"):
            gains: list[float] = []
            for turn in range(given.rounds):
                one, two = (
                    images_a_second(
                        make_run(folder, model, does, number, f"{does}-{turn}-{number}"), number
                    )
                    for number in (1, 2)
                )
                gains.append(two / one)
                print(f"{does}: {one:.3f} and {two:.3f} images/s: {two / one:.2f} x", flush=True)
            print(f"{does}: median {statistics.median(gains):.2f} x (aim: 1.8)")


if __name__ == "__main__":
    main()
