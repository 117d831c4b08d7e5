"""A microscope's day in ten minutes: all that can go wrong, mixed; then the books are checked.

    python -m tests.bench.hotfolder_day [--minutes 10] [--seed 0]

The real daemon keeps a real watch alive. Meanwhile a microscope writes whole, slowly, by rename and
in bursts, and by chance: damaged files, hard links, odd names, images written again, the folder
moved away and back, the worker killed, the worker asleep during a burst, the daemon killed, the
output's disk full and freed (as root). At the end every image has exactly one whole mask of its
size and one ledger entry of its present state, damaged files are listed, and no original changed.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from emcfsys_engine.colours import colours_for
from emcfsys_engine.hotfolder.ledger import Entry, read_ledger
from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.launch import start
from emcfsys_engine.learn.model_file import save_model
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.model_card import ModelCard, NetworkSpec
from emcfsys_engine.run.folder import Run
from emcfsys_engine.tools.demo import play_microscope
from tests.bench.machine import machine_line

PROJECT = """
[project]
name = "day"
[classes]
a = 0
b = 1
[[data]]
images = "incoming"
masks = "incoming"
[compute]
gpus = 0
[hotfolder]
watch = "incoming"
output = "predictions"
model = "model.safetensors"
measure = true
"""


class Day:
    """A project, its daemon, and what was written into its hot folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.incoming = folder / "incoming"
        self.output = folder / "predictions"
        self.chance = random.Random(seed)
        self.seed = seed
        self.writing = threading.Lock()  # the folder is not moved away under a writer
        self.whole: dict[Path, str] = {}  # image -> digest
        self.damaged: dict[Path, str] = {}
        self.incidents: Counter[str] = Counter()
        self.over = threading.Event()

    def begin(self) -> int:
        """Make the project, submit the watch, and return its job."""
        self.incoming.mkdir(parents=True)
        (self.folder / "project.toml").write_text(PROJECT)
        _make_model(self.folder / "model.safetensors")
        told = _engine("submit", "watch", str(self.folder))
        return int(told.split()[0])

    def play(self) -> None:
        """Be the microscope until the day is over."""
        images = play_microscope(
            self.incoming, every_s=1.0, seed=self.seed, pause=lambda s: bool(self.over.wait(s))
        )
        while not self.over.is_set():
            with self.writing:
                file = next(images)
                self.whole[file] = _digest(file)

    def make_trouble(self) -> None:
        """Do one thing that goes wrong in real life."""
        troubles: list[tuple[Callable[[], None], int]] = [
            (self._damage, 4),
            (self._link, 3),
            (self._rewrite, 4),
            (self._kill_worker, 2),
            (self._sleep_through_a_burst, 1),
            (self._move_away, 1),
            (self._kill_daemon, 1),
            (self._fill_disk, 1),
        ]
        act = self.chance.choices(*zip(*troubles, strict=True))[0]
        act()
        self.incidents[act.__name__.strip("_").replace("_", " ")] += 1

    def _damage(self) -> None:
        content = self._any().read_bytes()
        kept = self.chance.randint(100, len(content) - 50)
        middle = bytearray(content)
        middle[kept : kept + 40] = bytes(40)
        name = f"damaged {len(self.damaged)}\n[red]\x1b[31m.png"
        with self.writing:
            file = self.incoming / name
            file.write_bytes(content[:kept] if self.chance.random() < 0.5 else bytes(middle))
            self.damaged[file] = _digest(file)

    def _link(self) -> None:
        with self.writing:
            file = self.incoming / f"é link {len(self.whole)}.png"
            os.link(self._any(), file)
            self.whole[file] = _digest(file)

    def _rewrite(self) -> None:
        with self.writing:
            file, other = self._any(), self._any()
            part = file.with_name("rewritten.part")
            part.write_bytes(other.read_bytes())
            part.replace(file)
            self.whole[file] = _digest(file)

    def _kill_worker(self) -> None:
        worker = self._worker()
        if worker:
            start.send(worker, signal.SIGKILL)

    def _sleep_through_a_burst(self) -> None:
        worker = self._worker()
        if worker and start.send(worker, signal.SIGSTOP):
            for _ in range(50):
                self._link()
            start.send(worker, signal.SIGCONT)

    def _move_away(self) -> None:
        with self.writing:
            away = self.incoming.rename(self.folder / "away")
            self.over.wait(4)
            away.rename(self.incoming)

    def _kill_daemon(self) -> None:
        told = _engine("daemon", "status", "--json")
        pid = int(told.partition('"pid":')[2].split(",")[0].strip("} \n") or 0)
        if pid:
            os.kill(pid, signal.SIGKILL)
        _engine("daemon", "start")

    def _fill_disk(self) -> None:
        if not os.path.ismount(self.output):
            return
        ballast = self.output / "ballast"
        found = os.statvfs(self.output)
        try:
            ballast.write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - 65536)))
        except OSError:
            self.incidents["disk was full to the byte"] += 1
        self.over.wait(6)
        ballast.unlink(missing_ok=True)

    def _any(self) -> Path:
        return self.chance.choice(list(self.whole))

    def _worker(self) -> int:
        for job in _jobs():
            held = start.holder(Run(Path(job.run)))
            if held is not None and held.worker_lives:
                return held.worker
        return 0

    def settled(self) -> bool:
        """Tell whether the ledger knows every file in its present state."""
        known = {entry.path: entry for entry in read_ledger(self.output)}
        return all(
            (entry := known.get(file.name)) is not None
            and entry.stamp == (file.stat().st_size, file.stat().st_mtime_ns)
            and entry.state != "trying"
            for file in (*self.whole, *self.damaged)
        )

    def faults(self) -> list[str]:
        """Return whatever does not agree."""
        known = {entry.path: entry for entry in read_ledger(self.output)}
        found = [f"{name!r} is in the ledger only" for name in known.keys() - self._names()]
        masks: Counter[str] = Counter()
        for file, digest in (self.whole | self.damaged).items():
            if _digest(file) != digest:
                found.append(f"{file.name!r} was changed")
            entry = known.get(file.name)
            if entry is None:
                found.append(f"{file.name!r} is not in the ledger")
            elif file in self.whole:
                found += self._faults_of(file, entry)
                masks[entry.mask] += 1
        found += [f"{mask!r} is the mask of {n} images" for mask, n in masks.items() if n > 1]
        extra = {str(mask.relative_to(self.output)) for mask in self.output.rglob("*.png")}
        extra -= masks.keys() | {e.mask for e in known.values()}
        return found + [f"{mask!r} belongs to no image" for mask in sorted(extra)]

    def _faults_of(self, file: Path, entry: Entry) -> list[str]:
        if entry.state != "done":
            return [f"{file.name!r} is {entry.state}: {entry.reason}"]
        with Image.open(file) as image, Image.open(self.output / entry.mask) as mask:
            mask.load()
            return [] if image.size == mask.size else [f"{entry.mask!r} has another size"]

    def _names(self) -> set[str]:
        return {file.name for file in (*self.whole, *self.damaged)}


def main() -> None:
    """Live through the day and print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["EMCFSYS_HOME"] = str(Path(place, "home"))
        day = Day(Path(place, "project"), arguments.seed)
        day.output.mkdir(parents=True)
        options = ["-t", "tmpfs", "-o", "size=64m", "tmpfs", str(day.output)]
        can_mount = not subprocess.run(["mount", *options], capture_output=True).returncode
        try:
            faults = _live(day, arguments.minutes)
        finally:
            subprocess.run([*_ENGINE, "daemon", "stop", "--jobs"], capture_output=True)
            if can_mount:
                subprocess.run(["umount", "-l", str(day.output)], check=True)
    print(machine_line("torch", "watchdog"))
    print(f"images {len(day.whole)}, damaged files {len(day.damaged)}")
    for what, number in sorted(day.incidents.items()):
        print(f"  {what:<30} {number:>4}")
    for fault in faults:
        print(f"FAULT {fault}")
    print("ledger, masks and originals agree" if not faults else f"{len(faults)} faults")
    raise SystemExit(bool(faults))


def _live(day: Day, minutes: float) -> list[str]:
    day.begin()
    microscope = threading.Thread(target=day.play)
    microscope.start()
    end = time.monotonic() + 60 * minutes
    try:
        while time.monotonic() < end:
            time.sleep(min(5.0, 0.1 * 60 * minutes))
            if day.whole:
                day.make_trouble()
    finally:
        day.over.set()
        microscope.join()
    deadline = time.monotonic() + 300
    while not day.settled() and time.monotonic() < deadline:
        time.sleep(1)
    return day.faults()


_ENGINE = (sys.executable, "-m", "emcfsys_engine")


def _engine(*arguments: str) -> str:
    done = subprocess.run([*_ENGINE, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    return done.stdout


def _jobs() -> list[Job]:
    with Queue.open() as queue:
        return list(queue.list())


def _make_model(file: Path) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(head="unet", backbone="mobilenetv3_small_050", num_classes=2)
    card = ModelCard(
        network=spec,
        classes=("a", "b"),
        class_values=(0, 1),
        colours=colours_for(2),
        patch_px=256,
        project="day",
    )
    save_model(file, build_network(spec).eval(), card)


def _digest(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
