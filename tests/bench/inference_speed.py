"""Inference against the bare network and MONAI's sliding window, in alternating pairs.

python tests/bench/inference_speed.py [--backbone B] [--side 1280] [--rounds 5]
python tests/bench/inference_speed.py --compiled [--backbone B] the code made for long predictions
python tests/bench/inference_speed.py --big  [--side 20000] [--minutes 4]  memory of one large image
python tests/bench/inference_speed.py --many [--number 10000] small images, by file

The comparison needs `pip install monai`; without it that part is left out.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path

import numpy as np
import psutil
import tifffile
import torch

from emcfsys_engine.colours import colours_for
from emcfsys_engine.learn.device import autocast, choose_precision
from emcfsys_engine.learn.inference import outputs
from emcfsys_engine.learn.inference.bands import Band
from emcfsys_engine.learn.inference.files import find_inputs, predict_files
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.run_context import keep_freed_memory
from emcfsys_engine.model_card import ModelCard, NetworkSpec
from emcfsys_engine.run.records import PredictRequest
from tests.bench.machine import machine_line

TILE_PX, OVERLAP = 512, 0.25


def make_model(folder: Path, backbone: str) -> Path:
    torch.manual_seed(0)
    spec = NetworkSpec(head="unet", backbone=backbone, num_classes=3)
    card = ModelCard(
        network=spec,
        classes=("matrix", "large", "small"),
        class_values=(0, 1, 2),
        colours=colours_for(3),
        patch_px=TILE_PX,
    )
    file = folder / "model.safetensors"
    save_model(file, build_network(spec).eval(), card)
    return file


def picture(height: int, width: int) -> np.ndarray:
    """Return sparse bright discs on noise, uint8 H×W, made from one tile."""
    rng = np.random.default_rng(0)
    side = 1000
    rows, columns = np.indices((side, side))
    tile = rng.normal(90, 20, (side, side))
    for _ in range(30):
        y, x, radius = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(5, 40)
        tile[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] += 80
    tile8 = tile.clip(0, 255).astype(np.uint8)
    return np.tile(tile8, (-(-height // side), -(-width // side)))[:height, :width]


def compare(folder: Path, backbone: str, side: int, rounds: int) -> None:
    """Alternate ours, the bare forward pass and MONAI's, in one process, with the same weights."""
    model = make_model(folder, backbone)
    image = picture(side, side)
    predictor = Predictor(model, overlap=OVERLAP)
    prepared = predictor.prepare(image)
    network, _ = load_model(model)
    plain = load_model(model)[0]
    device = predictor.device
    fast = network.to(device).to(memory_format=torch.channels_last)
    precision, why = choose_precision(device)
    x_NCHW = torch.from_numpy(prepared).movedim(-1, 0)[None].contiguous().to(device)
    tiles_NCTT = torch.stack(
        [x_NCHW[0, :, y : y + TILE_PX, x : x + TILE_PX]
         for y in range(0, side - TILE_PX + 1, TILE_PX)
         for x in range(0, side - TILE_PX + 1, TILE_PX)]
    )  # fmt: skip
    print(f"{backbone}, {side}², tiles {TILE_PX}², overlap {OVERLAP}, {precision} ({why})")

    def ours() -> None:
        predictor.predict_prepared(prepared)

    def bare() -> None:
        with torch.inference_mode():
            for first in range(0, len(tiles_NCTT), predictor.batch):
                predictor.forward(tiles_NCTT[first : first + predictor.batch])
        _wait(device)

    runs: dict[str, Callable[[], None]] = {"ours": ours, "bare forward": bare}
    if util.find_spec("monai"):
        slide = import_module("monai.inferers").sliding_window_inference
        plain = plain.to(device)

        def as_called() -> None:
            with torch.inference_mode():
                logits = slide(x_NCHW, TILE_PX, predictor.batch, plain, OVERLAP, "gaussian")
                logits.argmax(1).to(torch.uint8).cpu()

        def with_ours() -> None:
            with torch.inference_mode(), autocast(device, precision):
                channels_last = x_NCHW.contiguous(memory_format=torch.channels_last)
                logits = slide(channels_last, TILE_PX, predictor.batch, fast, OVERLAP, "gaussian")
                logits.argmax(1).to(torch.uint8).cpu()

        runs |= {"MONAI as called": as_called, "MONAI, our precision": with_ours}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    bare_px = len(tiles_NCTT) * TILE_PX**2
    for name, seconds in times.items():
        pixels = bare_px if name == "bare forward" else side * side
        print(f"  {name:22} {pixels / 1e6 / statistics.median(seconds):6.2f} Mpx/s")
    work = 1 / (1 - OVERLAP) ** 2  # forward pixels a pixel of the image: 1.78
    _ratio("ours / (bare ÷ 1.78), target 0.9", [
        (side * side / ours) / (bare_px / bare / work)
        for ours, bare in zip(times["ours"], times["bare forward"], strict=True)])  # fmt: skip
    for name, target in (("MONAI as called", "3 with AMX"), ("MONAI, our precision", "1.15")):
        if name in times:
            pairs = zip(times[name], times["ours"], strict=True)
            _ratio(f"ours / {name}, target {target}", [theirs / own for theirs, own in pairs])


def _ratio(name: str, ratios: list[float]) -> None:
    print(
        f"  {name}: {statistics.median(ratios):.3f} "
        f"(median of {len(ratios)}, {min(ratios):.3f} to {max(ratios):.3f})"
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def big(folder: Path, backbone: str, side: int, minutes: float) -> None:
    """Predict one large TIFF in a process of its own and print its memory over time.

    It is asked to end after so many minutes (0: never): the curve is flat or not by then.
    """
    file = folder / "big.tif"
    with tifffile.TiffWriter(file, bigtiff=True) as tiff:
        blank = picture(2000, side)
        made = (blank[(n * 256) % 1500 :][:256, left : left + 256]
                for n in range(-(-side // 256)) for left in range(0, side, 256))  # fmt: skip
        tiff.write(made, shape=(side, side), dtype=np.uint8, tile=(256, 256), compression="zlib")
    words = [str(make_model(folder, backbone)), str(file), str(folder / "out"), str(minutes)]
    code = "from tests.bench.inference_speed import child; child()"
    process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=Path.cwd())
    seen: list[tuple[float, int]] = []
    began = time.perf_counter()
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            seen.append((time.perf_counter() - began, watched.memory_info().rss))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{side}²: {seconds:.0f} s, exit {process.returncode}, peak {peak:.2f} GiB (target 2.5)")
    for part in range(10):  # the highest of each tenth: flat from the second on
        some = [rss for at, rss in seen if part <= 10 * at / seconds < part + 1]
        if some:
            print(f"  {10 * part:3d} %  {max(some) / 2**30:.2f} GiB")


def child() -> None:
    """Predict sys.argv[2] with the model sys.argv[1] into sys.argv[3], sys.argv[4] minutes."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_freed_memory()
    request = PredictRequest(model=sys.argv[1], inputs=(sys.argv[2],), out=sys.argv[3])
    predictor = Predictor(sys.argv[1])
    limit_s = 60 * float(sys.argv[4]) or float("inf")
    began, rows, add = time.monotonic(), 0, outputs.OutputSet.add

    def counted(self: outputs.OutputSet, band: Band) -> None:
        nonlocal rows
        rows += len(band.mask)
        add(self, band)

    outputs.OutputSet.add = counted  # type: ignore[method-assign]
    refs = find_inputs(request)
    ended = lambda: "stop" if time.monotonic() - began > limit_s else None  # noqa: E731
    count = predict_files(request, refs, predictor, print, ended)
    seconds = time.monotonic() - began
    width = tifffile.TiffFile(sys.argv[2]).pages[0].shape[1]
    print(f"{rows} rows written in {seconds:.0f} s: {rows * width / 1e6 / seconds:.2f} Mpx/s")
    raise SystemExit(count.failed)


def many(folder: Path, backbone: str, number: int) -> None:
    """Predict small files and print what an image costs above its forward pass."""
    source = folder / "in"
    source.mkdir()
    images = picture(1000, 1000)
    for index in range(number):
        top, left = (index * 37) % 700, (index * 91) % 700
        tifffile.imwrite(source / f"{index:05d}.tif", images[top : top + 256, left : left + 256])
    model = make_model(folder, backbone)
    predictor = Predictor(model)
    forward = predictor.forward
    spent: list[float] = []

    def timed(tiles: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        made = forward(tiles)
        _wait(predictor.device)
        spent.append(time.perf_counter() - began)
        return made

    predictor.forward = timed  # type: ignore[method-assign]
    request = PredictRequest(model=str(model), inputs=(str(source),), out=str(folder / "out"))
    refs = find_inputs(request)
    began = time.perf_counter()
    count = predict_files(request, refs, predictor, lambda event: None, lambda: None)
    seconds = time.perf_counter() - began
    each = 1000 * (seconds - sum(spent)) / number
    print(f"{count.done} images of 256²: {seconds:.1f} s, {1000 * seconds / number:.1f} ms each; "
          f"{each:.2f} ms above the forward pass (target 10)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--side", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--plain-malloc", action="store_true", help="not as a worker has it")
    parser.add_argument("--model", type=Path, help="a trained model instead of random weights")
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--many", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if not options.plain_malloc:
        keep_freed_memory()  # as a worker does: for ours and for theirs
    print(machine_line())
    print(f"load {os.getloadavg()[0]:.1f}, {threading.active_count()} threads")
    with tempfile.TemporaryDirectory() as name:
        if options.big:
            big(Path(name), options.backbone, options.side or 20_000, options.minutes)
        elif options.many:
            many(Path(name), options.backbone, options.number)
        else:
            compare(Path(name), options.backbone, options.side or 1280, options.rounds)


if __name__ == "__main__":
    main()
