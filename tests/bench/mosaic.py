"""One huge image in regions: how much memory and time listing, a task and the last step take.

python tests/bench/mosaic.py [--side 20000] [--region-px 8192] [--tasks 2] [--backbone NAME]

The image is a sparse OME-Zarr of side² bytes: a few chunks hold noise, the rest is not there. Each
region is a shard of its own; `--tasks` of them are predicted, each by a task of its own, and the
others are told as done, which leaves them background. Peaks are those of whole processes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

from emcfsys_engine.model_card import read_card
from emcfsys_engine.run.events import ImageFailed, RegionDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shards import Became, Finished, Lines, Shards
from tests.bench.inference_speed import make_model
from tests.bench.machine import machine_line

TASK, WORKER = "emcfsys_engine.learn.inference.shards", "emcfsys_engine.learn.worker"
CHUNK = 1024
LIST = """
import sys
from pathlib import Path
from emcfsys_engine.learn.inference.several import prepare
from emcfsys_engine.learn.inference.shard_list import make_list
from emcfsys_engine.run.folder import open_run
from emcfsys_engine.run.shards import Shards
run = open_run(Path(sys.argv[1]))
request = run.record().request
make_list(Shards(run), request, prepare(request)[0], print, lambda: None)
"""


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
            lines.write(Became(number=item.number, event=told))
        lines.write(Finished())
        lines.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--region-px", type=int, default=8192)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--backbone", default="mobilenetv3_small_050")
    given = parser.parse_args()
    print(machine_line())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder, given.backbone)
        draw(folder / "x.zarr", given.side)
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
        run = new_run(folder / "out/.emcfsys", request)
        measured("list", [sys.executable, "-c", LIST, str(run.folder)])
        header = Shards(run).header()
        assert header is not None
        print(f"{len(header.shards)} regions of {header.mosaics[0].cut_HW} px")
        for number in range(given.tasks):
            measured("a task", [sys.executable, "-m", TASK, str(run.folder), str(number)])
        tell_as_done(run, given.tasks)
        measured("last step", [sys.executable, "-m", WORKER, str(run.folder)])
        failures = [event.reason for event in run.events() if isinstance(event, ImageFailed)]
        print("\n".join(failures) or "no image failed")
        masks = list((folder / "out").glob("*.ome.zarr/[0-9]*"))
        print(f"levels of the mask: {sorted(place.name for place in masks)}")


if __name__ == "__main__":
    main()
