"""The hot folder against its targets, with the real worker and a ResNet18-U-Net.

    python tests/bench/hotfolder.py [--burst 200] [--images 20]

lag: from a finished file (written and closed, or renamed in) to its whole mask, less the forward
pass. burst: files that are all there, against `predict` on the same folder. idle: CPU of a watcher
with nothing to do. start: a ledger and a folder of 100,000 files, seen anew after a restart.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from emcfsys_engine.colours import colours_for
from emcfsys_engine.hotfolder.ledger import Entry, Ledger
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import save_model
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.model_card import ModelCard, NetworkSpec
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageDone, WatchState
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest, WatchRequest
from tests.bench.machine import machine_line

PROJECT = """
[project]
name = "bench"
[classes]
a = 0
b = 1
[[data]]
images = "incoming"
masks = "incoming"
[hotfolder]
watch = "incoming"
"""


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--burst", type=int, default=200)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--known", type=int, default=100_000)
    arguments = parser.parse_args()
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = _model(folder / "model.safetensors")
        rows += _lag(folder / "lag", model, arguments.images)
        rows += _burst(folder / "burst", model, arguments.burst)
        rows += _start(folder / "start", model, arguments.known)
    print(machine_line("torch", "watchdog"))
    for what, measured, target in rows:
        print(f"{what:<58} {measured:>14}   target {target}")


def _lag(folder: Path, model: Path, number: int) -> list[tuple[str, str, str]]:
    incoming = _project(folder)
    picture = _picture(folder, 0)
    forward_s = _forward_s(model, picture)
    lags: list[float] = []
    with _watching(folder, model) as (run, child):
        for index in range(number):
            mask = folder / "predictions" / f"{index}.png"
            part = incoming / f"{index}.part"
            shutil.copyfile(picture, part)
            started = time.perf_counter()
            part.rename(incoming / f"{index}.png")
            _until(mask.exists, child, run)
            lags.append(time.perf_counter() - started)
        time.sleep(2)
        process = psutil.Process(child.pid)
        before = process.cpu_times()
        time.sleep(20)
        after = process.cpu_times()
    idle = (after.user + after.system - before.user - before.system) / 20
    above = statistics.median(lags) - forward_s
    return [
        ("forward pass, 512²", f"{1000 * forward_s:.0f} ms", "–"),
        ("lag above the forward pass, median", f"{1000 * above:.0f} ms", "150 ms"),
        ("idle CPU", f"{100 * idle:.2f} %", "0.5 %"),
    ]


def _burst(folder: Path, model: Path, number: int) -> list[tuple[str, str, str]]:
    incoming = _project(folder)
    picture = _picture(folder, 1)
    for index in range(number):
        shutil.copyfile(picture, incoming / f"{index}.png")
    project = load_project(folder, ["hotfolder.settle_s=0"])
    request = PredictRequest(model=str(model), inputs=(str(incoming),), out=str(folder / "plain"))
    plain_s = _worker_s(new_run(folder / "plain" / ".emcfsys", request))
    watch = WatchRequest(
        model=str(model), watch=str(incoming), output=str(folder / "predictions"), once=True
    )
    run = new_run(project.runs_folder, watch, project=project)
    watch_s = _worker_s(run)
    first = next(event for event in run.events() if isinstance(event, ImageDone))
    began = next(event for event in run.events() if isinstance(event, WatchState))
    return [
        (f"burst of {number}: watch / predict", f"{watch_s / plain_s:.3f}", "1.15"),
        ("first mask after the first scan", f"{first.time - began.time:.2f} s", "1 s + forward"),
    ]


def _start(folder: Path, model: Path, known: int) -> list[tuple[str, str, str]]:
    incoming = _project(folder)
    output = folder / "predictions"
    entries: list[Entry] = []
    for index in range(known):
        file = incoming / f"{index % 100:02d}" / f"{index}.png"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        status = file.stat()
        path = str(file.relative_to(incoming))
        entries.append(Entry(path=path, size=status.st_size, mtime_ns=status.st_mtime_ns))
    ledger = Ledger(output, owner="bench")
    ledger.record(entries)
    ledger.close()
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from emcfsys_engine.hotfolder.ledger import Ledger\n"
        "from emcfsys_engine.hotfolder.scan import Rules, Scanner\n"
        "began = time.perf_counter()\n"
        "root, out = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "ledger = Ledger(out, owner='bench')\n"
        "rules = Rules(root=root, output=out, settle_s=0, closed_settle_s=0)\n"
        "scanner = Scanner(rules, ledger.entries())\n"
        "scanner.scan()\n"
        "assert not scanner.settling\n"
        "status = Path('/proc/self/status').read_text()\n"
        "peak = int(status.partition('VmHWM:')[2].split()[0]) / 1024\n"
        "print(time.perf_counter() - began, peak)\n"
    )
    command = [sys.executable, "-c", code, str(incoming), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak_mb = (float(word) for word in done.stdout.split())
    return [
        (f"start with {known:,} known files", f"{seconds:.2f} s", "10 s"),
        ("memory for it, whole process without the network", f"{peak_mb:.0f} MB", "300 MB"),
    ]


def _project(folder: Path) -> Path:
    incoming = folder / "incoming"
    incoming.mkdir(parents=True)
    (folder / "project.toml").write_text(PROJECT)
    return incoming


def _picture(folder: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (512, 512), np.uint8)
    file = folder / "picture.png"
    Image.fromarray(pixels).save(file)
    return file


def _model(file: Path) -> Path:
    torch.manual_seed(0)
    spec = NetworkSpec(head="unet", backbone="resnet18", num_classes=2)
    card = ModelCard(
        network=spec, classes=("a", "b"), class_values=(0, 1), colours=colours_for(2), patch_px=512
    )
    save_model(file, build_network(spec).eval(), card)
    return file


def _forward_s(model: Path, picture: Path) -> float:
    predictor = Predictor(model)
    with Image.open(picture) as opened:
        pixels = np.asarray(opened)
    times: list[float] = []
    for _ in range(8):
        started = time.perf_counter()
        predictor(pixels)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def _worker_s(run: Run) -> float:
    """Return the seconds from the first event to the last: start-up is the same for both."""
    command = [sys.executable, "-m", "emcfsys_engine.learn.worker", str(run.folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    events = run.events()
    return events[-1].time - events[0].time


@contextmanager
def _watching(folder: Path, model: Path) -> Iterator[tuple[Run, "subprocess.Popen[bytes]"]]:
    project = load_project(folder)
    request = WatchRequest(
        model=str(model), watch=str(folder / "incoming"), output=str(folder / "predictions")
    )
    run = new_run(project.runs_folder, request, project=project)
    command = [sys.executable, "-m", "emcfsys_engine.learn.worker", str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        _until(lambda: any(isinstance(e, WatchState) for e in run.events()), child, run)
        yield run, child
        child.terminate()


def _until(condition: Callable[[], object], child: "subprocess.Popen[bytes]", run: Run) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert child.poll() is None, run.outcome()
        assert time.monotonic() < deadline
        time.sleep(0.002)


if __name__ == "__main__":
    main()
