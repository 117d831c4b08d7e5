"""Predictions in shards: two tasks against one, what sharding costs, a million files, many kills.

python tests/bench/shards.py [--only speed files kills] [--number 2000] [--side 256] [--files N]

`speed`: images a second between the first and the last by one task on one core and by two on two,
and the time of one shard against a plain prediction, three times in turn (median); for the aims:
`--only speed --side 1024` on a quiet machine. `files`: how long and how much
memory finding and dealing so many tiny files takes, and a worker that finds all of them done, its
last step included. `kills`: tasks are killed 50 times at random; what is there then is compared
with one task's, byte by byte.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from emcfsys_engine.images.own_outputs import PartBook
from emcfsys_engine.run.events import ImageDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import Finished, Lines, ShardBecame
from emcfsys_engine.run.shards import Header, Shards
from tests.bench.inference_speed import make_model
from tests.bench.machine import machine_line

PAIRS = 3
WORKER, TASK = "emcfsys_engine.learn.worker", "emcfsys_engine.shards.task"


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
    for does in ("list", "make"):
        command = [sys.executable, __file__, "--inside", does, str(run.folder)]
        subprocess.run(command, check=True)
    for what in ("all is told, nothing put together", "all is passed on, the end was killed"):
        worked_to_the_end(run, what)
        keep_but_the_end(run)


def worked_to_the_end(run: Run, what: str) -> None:
    """Say how long a worker takes that finds each image done, the last step included."""
    began, before = time.monotonic(), os.times()
    command = [sys.executable, "-m", WORKER, str(run.folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took, after = time.monotonic() - began, os.times()
    cores = after.children_user + after.children_system - before.children_user
    cores -= before.children_system
    ended = run.finished()
    assert ended is not None
    told = f"{ended.done:,} done, {ended.failed:,} failed"
    print(f"{what}: {took:.1f} s, {cores:.1f} s of a core, torch included; {told}", flush=True)


def keep_but_the_end(run: Run) -> None:
    """Take away what a worker does last: the books are there again, the end is not told."""
    for book in Shards(run).folder.glob("*.kept"):
        book.with_suffix(".book").write_bytes(book.read_bytes())
    lines = run.events_file.read_bytes().splitlines(keepends=True)
    run.events_file.write_bytes(b"".join(lines[:-1]))


def make_all(shards: Shards, header: Header, out: Path, like: Path) -> None:
    """Leave behind what the tasks would: masks, what they noted of them, what became of each."""
    content = like.read_bytes()
    for shard, share in enumerate(header.shards):
        lines, book = Lines(shards.lines_file(shard)), PartBook(out, shards.book_file(shard))
        facts: list[dict[str, str]] = []
        for item in shards.items(share):
            mask = Path(item.mask)
            mask.parent.mkdir(exist_ok=True)
            mask.write_bytes(content)
            event = ImageDone(image=item.image, mask=item.mask, seconds=0.1)
            lines.write(ShardBecame(number=item.number, event=event))
            of = {"image": item.image, "content": book.contents.of(Path(item.image))}
            name = str(mask.relative_to(out))
            facts.append({"file": name, "digest": f"{0:032x}:{len(content)}", **of, "maker": ""})
        book.add([*facts, *book.contents.take_new()])
        shutil.copy(shards.book_file(shard), shards.book_file(shard).with_suffix(".kept"))
        lines.write(Finished())
        lines.close()


def highest_mib() -> float:
    """Return the highest memory of this process; getrusage tells its parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def inside(does: str, run: Run) -> None:
    from emcfsys_engine.shards.task import list_of
    from emcfsys_engine.shards.work import work_of

    request = run.record().request
    assert isinstance(request, PredictRequest)
    shards, before = Shards(run), highest_mib()  # torch is loaded
    if does == "make":
        header = shards.header()
        assert header is not None
        make_all(shards, header, Path(request.out), run.folder.parents[2] / "one.png")
        return
    began, used = time.monotonic(), time.process_time()
    header = list_of(work_of(run), print, lambda: None)
    took, cores = time.monotonic() - began, time.process_time() - used
    after = highest_mib()
    memory = f"{after:.0f} MiB, {before:.0f} of them before"
    what = f"{header.num_images:,} images found, named and dealt"
    print(f"{what}: {took:.1f} s, {cores:.1f} s of a core, {memory}", flush=True)


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
