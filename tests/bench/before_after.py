"""Two checkouts in turns: a training step, a prediction, their memory, before and after a change.

    python tests/bench/before_after.py BEFORE AFTER DATA [--rounds 4]

BEFORE and AFTER are checkouts, DATA a folder with images/ and masks/. Every round runs both, in
turns, each in a process of its own; what is printed is the median, and the pairs' ratio.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_TOML = """
[project]
name = "pairs"
[classes]
{classes}
[[data]]
images = "images"
masks = "masks"
[training]
steps = {steps}
patch_px = 192
batch = 4
validate_every = {steps}
[compute]
gpus = 0
threads = 1
"""
_STEPS = 24
_NUMBERS = ("step_s", "step_cpu_s", "predict_s", "predict_cpu_s", "train_MiB", "predict_MiB")


def main() -> None:
    """Run both in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for number in range(given.rounds):
        order = ("before", "after") if number % 2 == 0 else ("after", "before")
        for name in order:
            found[name].append(_one(getattr(given, name).resolve(), given.data.resolve()))
            print(name, json.dumps(found[name][-1]), "load", os.getloadavg()[0], flush=True)
    for key in _NUMBERS:
        before, after = ([one[key] for one in found[name]] for name in ("before", "after"))
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        middle = [statistics.median(each) for each in (before, after, ratios)]
        print(f"| {key} | {middle[0]:.3f} | {middle[1]:.3f} | {middle[2]:.3f} |")


def _one(checkout: Path, data: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("images", "masks"):
            shutil.copytree(data / part, folder / part)
        classes = (data / "classes").read_text() if (data / "classes").exists() else "a=0\nb=1"
        (folder / "project.toml").write_text(_TOML.format(classes=classes, steps=_STEPS))
        trained = _run(checkout, "train", str(folder))
        run = next((folder / "runs").iterdir())
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        steps = [event["seconds"] for event in events if event["kind"] == "step_done"]
        out = str(folder / "out")
        model = str(run / "best.safetensors")
        predicted = _run(checkout, "predict", model, str(folder / "images"), "--out", out)
        return {
            "step_s": statistics.median(steps),
            "step_cpu_s": trained[0] / _STEPS,
            "predict_s": predicted[1],
            "predict_cpu_s": predicted[0],
            "train_MiB": trained[2],
            "predict_MiB": predicted[2],
        }


def _run(checkout: Path, *words: str) -> tuple[float, float, float]:
    """Return CPU seconds, wall seconds and the largest process in MiB of one command."""
    code = (
        "import resource, subprocess, sys, time\n"
        "began = time.monotonic()\n"
        "subprocess.run([sys.executable, '-m', 'emcfsys_engine', *sys.argv[1:]], check=True,"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, time.monotonic() - began, used.ru_maxrss / 1024)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )
    cpu, wall, mib = map(float, done.stdout.split())
    return cpu, wall, mib


if __name__ == "__main__":
    main()
