"""Predictions in shards: two tasks against one, what sharding costs, a million files, many kills.

python tests/bench/shards.py [--only speed files kills] [--number 2000] [--side 256] [--files N]

`speed`: images a second between the first and the last by one task on one core and by two on two,
and the time of one shard against a plain prediction, three times in turn (median); for the aims:
`--only speed --side 1024` on a quiet machine. `files`: how long and how much memory finding and
dealing so many tiny files takes, and a start that finds all of them done. `kills`: tasks are killed
50 times at random; what is there then is compared with one task's, byte by byte.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from emcfsys_engine.run.events import ImageDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shards import Finished, Lines, Shards
from tests.bench.inference_speed import make_model
from tests.bench.machine import machine_line

PAIRS = 3
WORKER, TASK = "emcfsys_engine.learn.worker", "emcfsys_engine.learn.inference.shards"


def draw(folder: Path, number: int, side: int) -> None:
    folder.mkdir()
    for n in range(number):
        pixels = np.random.default_rng(n).integers(0, 255, (side, side), np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:05d}.png", compress_level=1)


def make_run(folder: Path, model: Path, name: str, shards: int, at_once: int = 1) -> Run:
    request = PredictRequest(
        model=str(model),
        inputs=(str(folder / "in"),),
        out=str(folder / name),
        gpus=0,
        threads=1,
        shards=shards,
        shards_at_once=at_once,
    )
    return new_run(folder / name / ".emcfsys", request)


def worked(run: Run, cores: int) -> tuple[float, float]:
    """Return images a second between the first and the last, and the seconds of all."""
    usable = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    began = time.monotonic()
    command = ["taskset", "-c", usable, sys.executable, "-m", WORKER, str(run.folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - began
    times = sorted(event.time for event in run.events() if isinstance(event, ImageDone))
    return (len(times) - 1) / max(1e-6, times[-1] - times[0]), took


def speed(folder: Path, number: int, side: int) -> None:
    model = make_model(folder, "resnet18")
    draw(folder / "in", number, side)
    rates: dict[str, list[float]] = {"one": [], "two": []}
    longer: list[float] = []
    for pair in range(PAIRS):
        took: dict[str, float] = {}
        for name, shards, cores in (("plain", 0, 1), ("one", 1, 1), ("two", 2 * 8, 2)):
            run = make_run(folder, model, f"{name}{pair}", shards, cores)
            rate, took[name] = worked(run, cores)
            rates.setdefault(name, []).append(rate)
            told = f"{rate:.2f} images/s, {took[name]:.1f} s in all"
            print(f"{name}: {told}; load {os.getloadavg()[0]:.1f}", flush=True)
        longer.append(took["one"] / took["plain"] - 1)
    twice = [two / one for one, two in zip(rates["one"], rates["two"], strict=True)]
    print(f"two tasks: {median(twice):.2f} x one, median of {PAIRS} (aim: 1.8)")
    print(f"one shard: {median(longer):+.1%} of a plain one, median of {PAIRS} (aim: 5 %)")


def files(folder: Path, number: int) -> None:
    """In a process of its own, whose highest memory is told."""
    (folder / "in").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "one.png")
    content = (folder / "one.png").read_bytes()
    for n in range(number):
        place = folder / "in" / f"{n // 10_000:03d}"
        if n % 10_000 == 0:
            place.mkdir()
        (place / f"{n:07d}.png").write_bytes(content)
    model = make_model(folder, "resnet18")
    run = make_run(folder, model, "out", 64)
    for does in ("list", "done"):
        command = [sys.executable, __file__, "--inside", does, str(run.folder)]
        subprocess.run(command, check=True)


def highest_mib() -> float:
    """Return the highest memory of this process; getrusage tells its parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def inside(does: str, run: Run) -> None:
    from emcfsys_engine.learn.inference.shard_list import make_list
    from emcfsys_engine.model_card import read_card

    request = run.record().request
    assert isinstance(request, PredictRequest)
    shards, before = Shards(run), highest_mib()  # torch is loaded
    if does == "done":
        header = shards.header()
        assert header is not None
        for shard in range(len(header.shards)):
            lines = Lines(shards.lines_file(shard))
            lines.write(Finished())
            lines.close()
    began = time.monotonic()
    header = make_list(shards, request, read_card(Path(request.model)), print, lambda: None)
    if does == "done":
        assert all(shards.told(shard).is_finished for shard in range(len(header.shards)))
    took = time.monotonic() - began
    after = highest_mib()
    what = "found, named and dealt" if does == "list" else "found done by their tasks"
    memory = f"{after:.0f} MiB, {before:.0f} of them before"
    print(f"{header.num_images:,} images {what}: {took:.1f} s, {memory}", flush=True)


def made_in(out: Path) -> dict[str, bytes]:
    every = (file for file in out.rglob("*") if file.is_file() and ".emcfsys" not in file.parts)
    return {str(file.relative_to(out)): file.read_bytes() for file in every}


def kills(folder: Path, number: int) -> None:
    model = make_model(folder, "resnet18")
    draw(folder / "in", number, 128)
    worked(make_run(folder, model, "one", 1), 1)
    run, rng, killed = make_run(folder, model, "many", 8), random.Random(1), 0
    while killed < 50:
        tasks = [subprocess.Popen([sys.executable, "-m", TASK, str(run.folder)]) for _ in range(2)]
        time.sleep(rng.uniform(2, 9))
        for task in tasks:
            killed += task.poll() is None
            task.kill()
            task.wait()
    worked(run, 2)
    one, many = made_in(folder / "one"), made_in(folder / "many")
    events = [event.image for event in run.events() if isinstance(event, ImageDone)]
    print(f"{killed} tasks killed: {len(events)} images told, {len(set(events))} of them different")
    print(f"{len(many)} files, {sum(many.get(n) != one[n] for n in one)} not as one task's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["speed", "files", "kills"])
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--inside", nargs=2)
    given = parser.parse_args()
    if given.inside:
        inside(given.inside[0], Run(Path(given.inside[1])))
        return
    print(machine_line(), f"load {os.getloadavg()[0]:.1f}")
    for name in given.only:
        with tempfile.TemporaryDirectory() as place:
            if name == "speed":
                speed(Path(place), given.number, given.side)
            elif name == "files":
                files(Path(place), given.files)
            else:
                kills(Path(place), 400)


if __name__ == "__main__":
    main()
