"""One huge image in regions: how much memory and time listing, a task and the last step take.

python tests/bench/mosaic.py [--side 20000] [--region-px 8192] [--tasks 2] [--backbone NAME]
python tests/bench/mosaic.py --killed [--side 20000] [--region-px 5120]   four tasks, killed and
    started again at random, against one process: the pixels that differ
`--stand-in`: the network is one convolution; `--instances`: its last class is told in objects.

The image is a sparse OME-Zarr of side² bytes: a few chunks hold noise, the rest is not there. Each
region is a shard of its own; `--tasks` of them are predicted, each by a task of its own, and the
others are told as done, which leaves them background. With --killed it is noise everywhere. Peaks
are those of whole processes.
"""

import argparse
import os
import random
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
import zarr

from emcfsys_engine.learn.model_file import save_model
from emcfsys_engine.learn.networks.network import SegmentationNetwork, build_network
from emcfsys_engine.model_card import read_card
from emcfsys_engine.run.events import ImageFailed, RegionDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import Finished, Lines, ShardBecame
from emcfsys_engine.run.shards import Shards
from tests.bench.inference_speed import make_model
from tests.bench.machine import machine_line

TASK, WORKER = "emcfsys_engine.shards.task", "emcfsys_engine.learn.worker"
CHUNK = 1024
LIST = """
import sys
from pathlib import Path
from emcfsys_engine.run.folder import open_run
from emcfsys_engine.shards.task import list_of
from emcfsys_engine.shards.work import work_of
list_of(work_of(open_run(Path(sys.argv[1]))), print, lambda: None)
"""


def stand_in() -> None:
    """Let each network of this process be one convolution with weights that never change."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(1, 5, 5, padding=2)
    SegmentationNetwork.forward = (
        lambda self, x_NCHW: convolution(x_NCHW)[  # type: ignore[method-assign]
            :, : self.spec.num_classes + self.spec.num_planes
        ]
    )


def command_of(module: str, is_stand_in: bool, *arguments: str) -> list[str]:
    """Return the command that runs a module, with the stand-in where it is wanted."""
    if not is_stand_in:
        return [sys.executable, "-m", module, *arguments]
    return [sys.executable, str(Path(__file__).absolute()), "--run", module, *arguments]


def make_model_of(folder: Path, backbone: str, *, instances: bool) -> Path:
    """Write a model; one of objects has the two planes that tell them apart."""
    model = make_model(folder, backbone)
    if instances:
        card = read_card(model)
        spec = msgspec.structs.replace(card.network, num_planes=2)
        card = msgspec.structs.replace(card, network=spec, instances=card.classes[-1:])
        save_model(model, build_network(spec).eval(), card)
    return model


def draw_all(folder: Path, side: int) -> None:
    """Write an image of blocks and noise, strip by strip."""
    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    array = group.create_array("0", shape=(side, side), chunks=(CHUNK, CHUNK), dtype="uint8")
    rng = np.random.default_rng(0)
    for first in range(0, side, CHUNK):
        coarse = rng.integers(0, 200, (CHUNK // 32, -(-side // 32)), np.uint8)
        strip = np.kron(coarse, np.ones((32, 32), np.uint8))[: side - first, :side]
        array[first : first + CHUNK] = strip + rng.integers(0, 50, strip.shape, np.uint8)


def kill_at_random(run: Run, is_stand_in: bool, tasks: int = 4, kills: int = 6) -> None:
    """Run the tasks at a time; kill one after a region that it told of, and start it again."""

    def start(shard: int) -> "subprocess.Popen[bytes]":
        command = command_of(TASK, is_stand_in, str(run.folder), str(shard))
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def num_told() -> int:
        return sum(
            file.read_bytes().count(b'"became"') for file in run.folder.glob("shards/0*.jsonl")
        )

    draw, began, told, killed = random.Random(0), time.monotonic(), 0, 0
    running = {shard: start(shard) for shard in range(tasks)}
    while living := [shard for shard, task in running.items() if task.poll() is None]:
        time.sleep(0.2)
        if killed < kills and num_told() > told:
            told, killed, shard = num_told(), killed + 1, draw.choice(living)
            running[shard].kill()
            running[shard].wait()
            running[shard] = start(shard)
    codes = [task.returncode for task in running.values()]
    print(
        f"{tasks} tasks {time.monotonic() - began:7.1f} s, {killed} kills, exit {codes}", flush=True
    )


def compare(one: Path, other: Path) -> None:
    """Say how many pixels of two masks, and of their objects, differ."""
    for name in ("0", "labels/instances/0"):
        if not (one / name).exists():
            continue
        first, second = (zarr.open_array(str(place / name), mode="r") for place in (one, other))
        differ, values = 0, set[int]()
        for row in range(0, first.shape[0], CHUNK):
            here, there = (np.asarray(each[row : row + CHUNK]) for each in (first, second))
            differ += int((here != there).sum())
            values |= set(np.unique(here).tolist()) if name == "0" else {int(here.max())}
        share = differ / first.shape[0] / first.shape[1]
        print(
            f"{name}: {differ:,} pixels differ ({share:.1e}); values up to {max(values):,}",
            flush=True,
        )


def killed(folder: Path, given: argparse.Namespace, request: PredictRequest) -> None:
    """Predict an image by tasks that are killed, and by one process, and compare."""
    made: list[Path] = []
    for name, shards in (("alone", 0), ("shared", 4)):
        asked = msgspec.structs.replace(request, out=str(folder / name), shards=shards)
        run = new_run(folder / name / ".emcfsys", asked)
        if shards:
            measured("list", [sys.executable, "-c", LIST, str(run.folder)])
            kill_at_random(run, given.stand_in)
        what = "last step" if shards else "alone"
        measured(what, command_of(WORKER, given.stand_in, str(run.folder)))
        made.append(folder / name / "x.ome.zarr")
    compare(*made)


def draw(folder: Path, side: int) -> None:
    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    array = group.create_array("0", shape=(side, side), chunks=(CHUNK, CHUNK), dtype="uint8")
    rng = np.random.default_rng(0)
    for place in range(0, side - CHUNK + 1, max(CHUNK, side // 8 // CHUNK * CHUNK)):
        noise = rng.integers(1, 255, (CHUNK, CHUNK), np.uint8)
        array[place : place + CHUNK, place : place + CHUNK] = noise


def measured(name: str, command: list[str]) -> None:
    """Run a process, and say how long it took and the most memory that it had."""
    began = time.monotonic()
    task = subprocess.Popen(command)
    _, status, usage = os.wait4(task.pid, 0)
    task.returncode = os.waitstatus_to_exitcode(status)
    seconds, peak = time.monotonic() - began, usage.ru_maxrss / 1024
    print(f"{name:10} {seconds:7.1f} s  {peak:7.0f} MiB  exit {task.returncode}", flush=True)


def tell_as_done(run: Run, first: int) -> None:
    """Say of the shards from this one on that they are done: their regions stay background."""
    shards = Shards(run)
    header = shards.header()
    assert header is not None
    request = run.record().request
    assert isinstance(request, PredictRequest)
    classes = read_card(Path(request.model)).classes
    for number, share in enumerate(header.shards[first:], first):
        lines = Lines(shards.lines_file(number))
        for item in shards.items(share):
            region = item.region
            assert region is not None
            told = RegionDone(
                image=item.image,
                region=(region.top, region.bottom, region.left, region.right),
                of=len(header.shards),
                seconds=0.0,
                shares=dict.fromkeys(classes, 0.5),
                confidence=0.5,
            )
            lines.write(ShardBecame(number=item.number, event=told))
        lines.write(Finished())
        lines.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--region-px", type=int, default=8192)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--backbone", default="mobilenetv3_small_050")
    parser.add_argument("--killed", action="store_true")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--instances", action="store_true")
    given = parser.parse_args()
    print(machine_line())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model_of(folder, given.backbone, instances=given.instances)
        (draw_all if given.killed else draw)(folder / "x.zarr", given.side)
        request = PredictRequest(
            model=str(model),
            inputs=(str(folder / "x.zarr"),),
            out=str(folder / "out"),
            gpus=0,
            threads=1,
            mask_format="ome-zarr",
            region_px=given.region_px,
            shards=10_000,
        )
        if given.killed:
            killed(folder, given, request)
            return
        run = new_run(folder / "out/.emcfsys", request)
        measured("list", [sys.executable, "-c", LIST, str(run.folder)])
        header = Shards(run).header()
        assert header is not None
        print(f"{len(header.shards)} regions of {header.mosaics[0].cut_HW} px")
        for number in range(given.tasks):
            measured("a task", command_of(TASK, given.stand_in, str(run.folder), str(number)))
        tell_as_done(run, given.tasks)
        measured("last step", [sys.executable, "-m", WORKER, str(run.folder)])
        failures = [event.reason for event in run.events() if isinstance(event, ImageFailed)]
        print("\n".join(failures) or "no image failed")
        masks = list((folder / "out").glob("*.ome.zarr/[0-9]*"))
        print(f"levels of the mask: {sorted(place.name for place in masks)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        stand_in()
        sys.argv = sys.argv[2:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        main()
