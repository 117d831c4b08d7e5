"""What only a real GPU can tell: one check a call, one line a finding.

    python -m tests.bench.gpu_checks NAME [--small]

PASS, FAIL or a bare number with what is expected. `--small` runs on a processor, to see that the
check itself works. `tests/bench/gpu.sh` calls all of them, each in a process of its own.
"""

import argparse
import statistics
import tempfile
import time
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import tifffile
import torch

from emcfsys_engine.learn.faults import is_out_of_memory, loses_gpu
from emcfsys_engine.learn.inference.files import find_inputs, predict_files
from emcfsys_engine.learn.inference.predictor import Picture, Predictor
from emcfsys_engine.learn.memory import footprint_of, usable_memory
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.pixels_on_device import own_rows
from emcfsys_engine.learn.training.batches import Batches
from emcfsys_engine.learn.training.probe import Probe
from emcfsys_engine.learn.training.trainer import Trainer
from emcfsys_engine.run.records import PredictRequest
from tests.bench import inference_speed, train_speed

GPU = torch.cuda.is_available()
GIB = 2**30


def say(name: str, is_good: bool | None, text: str) -> None:
    """Print one finding."""
    word = {True: "PASS", False: "FAIL", None: "    "}[is_good]
    print(f"{word}  {name}: {text}", flush=True)


def _wait() -> None:
    if GPU:
        torch.cuda.synchronize()


def _rate(work: Callable[[], object], times: int, images: int) -> float:
    """Return images per second: the median of three rounds after one that warms up."""
    work()
    found: list[float] = []
    for _ in range(3):
        _wait()
        began = time.perf_counter()
        for _ in range(times):
            work()
        _wait()
        found.append(images * times / (time.perf_counter() - began))
    return statistics.median(found)


class _Setting:
    """A trainer on pictures that it makes itself."""

    def __init__(self, small: bool) -> None:
        self.patch, self.batch, self.times = (64, 2, 2) if small else (512, 16, 20)
        self.backbone = "resnet18" if small else "resnet34"
        self.side = 200 if small else 8192

    def trainer(self) -> Trainer:
        """Return a trainer on the best device."""
        words = Namespace(backbone=self.backbone, patch=self.patch, batch=self.batch)
        return train_speed._trainer(Path(tempfile.mkdtemp()), words)


def _busy(name: str, work: Callable[[], object], most: int = 3) -> None:
    """Say how long the card itself computes for this, of the time it takes, and with what."""
    if not GPU:
        return
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    work()
    _wait()
    began = time.perf_counter()
    work()
    _wait()
    wall_ms = 1000 * (time.perf_counter() - began)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        _wait()
    made = [each for each in seen.key_averages() if each.device_type == DeviceType.CUDA]
    busy_ms = sum(each.self_device_time_total for each in made) / 1000
    number = sum(each.count for each in made)
    say(f"{name}, busy", None, f"{busy_ms:.1f} of {wall_ms:.1f} ms, {number} launches")
    for each in sorted(made, key=lambda k: -k.self_device_time_total)[:most]:
        ms = each.self_device_time_total / 1000
        say("  kernel", None, f"{ms:.2f} ms in {each.count}: {each.key[:70]}")


def train(setting: _Setting) -> None:
    """Where the time of a step goes, against the bare step; what the host does for it."""
    trainer = setting.trainer()
    batch, times = setting.batch, setting.times
    batches = Batches(trainer.sampler, 1, trainer.device)
    trainer.step(*batches.next(), 0.1)
    _wait()
    say("one GPU trains", True, f"{trainer.device}, {trainer.plan.precision}")
    held = batches._resident
    say("images live on the card", held is not None if GPU else None, f"{held is not None}")
    ready = batches.next()
    crop = _rate(lambda: trainer.sampler.crops(1), max(1, times // 10), batch)
    prepare = _rate(lambda: trainer.stepper.prepare(*ready, 5), times, batch)
    images, labels = trainer.stepper.prepare(*ready, 5)

    def core() -> None:
        trainer.stepper.accumulate_gradients(images, labels, batch)
        trainer.stepper.step(0.1, 5)

    step = _rate(core, times, batch)
    ours = _rate(lambda: trainer.step(*batches.next(), 0.1), times, batch)
    cut = _rate(batches.next, times, batch)
    batches.close()
    bare = train_speed._Bare(trainer)
    net = _rate(lambda: bare.time(1), times, batch)
    say("bare step", net > 900 if GPU else None, f"{net:.0f} img/s (900 is 167 TFLOP/s)")
    say("cutting, one thread", None, f"{crop:.0f} img/s on the host, where images do not fit")
    say("cutting, as it is", cut > 5 * net, f"{cut:.0f} img/s (want 5 × bare)")
    say("augmentation alone", prepare > 5 * net, f"{prepare:.0f} img/s (want 5 × bare)")
    say("step / bare", step > 0.92 * net, f"{step / net:.2f} (EMA, clip, loss sums)")
    say("whole loop / bare", ours > 0.9 * net, f"{ours:.0f} / {net:.0f} = {ours / net:.2f}")
    _busy("bare step", lambda: bare.time(1))
    _busy("our step", core)
    _busy("augmentation", lambda: trainer.stepper.prepare(*ready, 5), 6)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        tried = _rate(lambda: bare.time(1), times, batch)
        tried_ours = _rate(core, times, batch)
    text = f"{tried:.0f} img/s bare ({tried / net:.2f} ×), {tried_ours:.0f} ours"
    say("with cudnn.benchmark", None, text)


def host(setting: _Setting) -> None:
    """Host synchronisations, memory against what was counted, layout conversions of one step."""
    trainer = setting.trainer()
    batches = Batches(trainer.sampler, 1, trainer.device)
    trainer.step(*batches.next(), 0.1)
    ready = batches.next()
    _wait()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        trainer.step(*ready, 0.1)
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroni" in str(w)]
    say("syncs a step", len(places) <= 1, f"{len(places)}: {sorted(set(places))[:10]}")
    torch.cuda.reset_peak_memory_stats()
    trainer.step(*ready, 0.1)
    _wait()
    counted = footprint_of(trainer.plan.network, setting.patch, trainer.stepper.precision)
    assert counted is not None
    peak, told = torch.cuda.max_memory_allocated(), counted.of(setting.batch)
    is_near = 0.6 < peak / told < 1.1
    say("memory / counted", is_near, f"{peak / GIB:.2f} / {told / GIB:.2f} GiB")
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        trainer.step(*ready, 0.1)
        _wait()
    kernels = [each for each in seen.key_averages() if each.self_device_time_total > 0]
    turned = [k.key for k in kernels if "nchwToNhwc" in k.key or "nhwcToNchw" in k.key]
    say("no layout conversions", not turned, f"{len(turned)} kinds of transposing kernels")
    launches = sum(each.count for each in kernels)
    say("kernels a step", None, f"{launches} launches")
    for each in sorted(kernels, key=lambda k: -k.self_device_time_total)[:5]:
        ms = each.self_device_time_total / 1000
        say("  kernel", None, f"{ms:.1f} ms in {each.count}: {each.key[:70]}")
    batches.close()


def probe(setting: _Setting) -> None:
    """What a training measures of this card before it plans, and how long that takes."""
    trainer = setting.trainer()
    if not GPU:
        say("the probe ends in time", None, "there is no GPU")
        return
    plan, began = trainer.plan, time.perf_counter()
    memory = usable_memory(trainer.device)
    tried = Probe(plan.network, trainer.device, trainer.stepper.precision, "ce+dice", memory)
    fits = tried.most(setting.patch, setting.batch)
    best = tried.better(setting.patch, fits)
    took_s = time.perf_counter() - began
    say("the probe ends in time", took_s < 20, f"{took_s:.1f} s: {best} patches at a time")
    for one in tried.found:
        text = f"{one.patches_per_s:.0f} img/s, {one.peak_bytes / GIB:.1f} GiB"
        say(f"  {one.patches} patches", None, text)


def fp16(setting: _Setting) -> None:
    """Does a card without bf16 train and predict, by what this one does when it says so?"""
    with mock.patch.object(torch.cuda, "get_device_capability", lambda device=None: (7, 5)):
        trainer = setting.trainer()
        batches = Batches(trainer.sampler, 1, trainer.device)
        losses = [float(trainer.step(*batches.next(), 0.5)) for _ in range(setting.times)]
        batches.close()
        stepper = trainer.stepper
        found = trainer.validator.at(1)
    is_good = bool(np.isfinite(losses).all()) and np.isfinite(found.loss)
    told = (
        f"{stepper.precision}, loss {losses[0]:.3f} -> {losses[-1]:.3f}, {stepper.skipped} left out"
    )
    say("fp16 trains", is_good, told)
    model = inference_speed.make_model(Path(tempfile.mkdtemp()), setting.backbone)
    picture = inference_speed.picture(700, 900)
    with mock.patch.object(torch.cuda, "get_device_capability", lambda device=None: (7, 5)):
        there = Predictor(model)
        mask = there(picture)
    share = float((mask != Predictor(model)(picture)).mean())
    say("fp16 predicts", share < 0.02, f"{there.precision}: {share:.2%} of the pixels differ")


def small(setting: _Setting) -> None:
    """Many small images in memory: tiles of several share a batch."""
    model = inference_speed.make_model(Path(tempfile.mkdtemp()), setting.backbone)
    predictor = Predictor(model)
    for side in (256, 512, 1024):
        number = 4 if setting.side < 1000 else 128 * 512 // side
        whole = inference_speed.picture(side, side)
        found = predictor.normaliser.per_channel(whole)
        read = own_rows(whole, found)
        assert read is not None
        one = Picture(read=lambda a, b, r=read: r._replace(raw=r.raw[a:b]), size_HW=whole.shape)

        def shared(pictures: list[Picture] = [one] * number) -> None:
            for _ in predictor.stream(enumerate(pictures)):
                pass

        def alone(picture: Picture = one, number: int = number) -> None:
            for _ in range(number):
                list(predictor.bands(picture))

        together, single = (_rate(work, 1, number) for work in (shared, alone))
        text = f"{together:.0f} images/s together, {single:.0f} alone: {together / single:.2f} ×"
        say(f"{number} of {side}²", together > 1.15 * single if GPU else None, text)
        _busy(f"{number} of {side}²", shared, 0)


def _leave(gib: float) -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, (torch.cuda.memory_allocated() + gib * GIB) / total)
    )


def memory(setting: _Setting) -> None:
    """Out of memory in a step, a validation and a prediction: less at a time, and on."""
    trainer = setting.trainer()
    batches = Batches(trainer.sampler, 1, trainer.device)
    trainer.step(*batches.next(), 0.1)
    ready = batches.next()
    _leave(1.5)
    trainer.step(*ready, 0.1)
    micro = trainer.state.micro_batch
    say("out of memory in a step", micro < setting.batch, f"{micro} of {setting.batch} at a time")
    batches.close()
    trainer.stepper.optimizer.zero_grad(set_to_none=True)
    del ready
    item, side = trainer.setup.val[0], setting.side
    rng = np.random.default_rng(0)
    trainer.setup.val._kept[0] = replace(
        item,
        pixels=rng.integers(0, 255, (side, side, 1), np.uint8),
        labels=rng.integers(0, 3, (side, side)).astype(np.uint8),
    )
    _leave(1.5)
    began = time.perf_counter()
    found = trainer.validator.at(1)
    took_s = time.perf_counter() - began
    told = f"{side}² with 1.5 GiB left in {took_s:.1f} s, {trainer.validator._tiles}"
    say("out of memory in a validation", found.scores.pixels == side * side, told)
    torch.cuda.set_per_process_memory_fraction(1.0)
    model = inference_speed.make_model(Path(tempfile.mkdtemp()), setting.backbone)
    predictor = Predictor(model)
    picture = inference_speed.picture(3000, 3000)
    _leave(0.5)
    mask = predictor(picture)
    told = f"{predictor.batch} tiles of {predictor.tile_px} px with 0.5 GiB left"
    say("out of memory in a prediction", mask.shape == (3000, 3000), told)


def faults(setting: _Setting) -> None:
    """Are the driver's own errors told apart, and 16-bit images taken?"""
    there = torch.arange(65_536, dtype=torch.int32).to(torch.uint16).to("cuda").float()
    say("uint16 on the device", bool(there[-1] == 65_535), f"{there[-1]:.0f}")
    try:
        torch.empty(1 << 46, dtype=torch.uint8, device="cuda")
    except RuntimeError as error:
        say("out of memory is known", is_out_of_memory(error), type(error).__name__)
    try:
        torch.zeros(3, device="cuda")[torch.tensor([7], device="cuda")].cpu()
        _wait()
    except RuntimeError as error:
        text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        say("a broken context is known", loses_gpu(error), text)


def masks(setting: _Setting) -> None:
    """Are a GPU's masks those of a processor in fp32?"""
    model = inference_speed.make_model(Path(tempfile.mkdtemp()), setting.backbone)
    picture = inference_speed.picture(700, 900)
    there = Predictor(model)(picture)
    here = Predictor(model, gpus=0)
    here.precision = torch.float32
    here._calls = [here._prepared(load_model(model)[0])]
    share = float((there != here(picture)).mean())
    say(
        "masks as a processor's", share < 0.02, f"{share:.2%} of the pixels differ (random weights)"
    )


def shapes(setting: _Setting) -> None:
    """Does memory grow with the number of image sizes?"""
    model = inference_speed.make_model(Path(tempfile.mkdtemp()), setting.backbone)
    predictor = Predictor(model)
    made = [(300 + 37 * n, 900 - 23 * n) for n in range(3 if setting.side < 1000 else 20)]
    held: list[int] = []
    for _ in range(3):
        for size in made:
            predictor(inference_speed.picture(*size))
        held.append(torch.cuda.memory_reserved() if GPU else 1)
    text = " -> ".join(f"{each / GIB:.2f}" for each in held)
    say("memory does not grow with shapes", held[2] <= 1.05 * held[1], f"{text} GiB")


def searched(setting: _Setting) -> None:
    """Does cudnn's own search pay for one tile and for a full batch?"""
    model = inference_speed.make_model(Path(tempfile.mkdtemp()), setting.backbone)
    predictor = Predictor(model)
    for name, size in (("one tile", setting.patch), ("a full batch", 6 * setting.patch)):
        picture = inference_speed.picture(size, size)
        plain = _rate(lambda p=picture: predictor(p), 5, 1)
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            tried = _rate(lambda p=picture: predictor(p), 5, 1)
        say(f"cudnn.benchmark, {name}", None, f"{tried / plain:.2f} ×")


def inference(setting: _Setting) -> None:
    """Mpx/s of whole images: from memory, and from files to files; where the time goes."""
    folder = Path(tempfile.mkdtemp())
    model = inference_speed.make_model(folder, setting.backbone)
    predictor = Predictor(model, tile_px=setting.patch if setting.side < 1000 else None)
    side = 8 * setting.patch
    picture = inference_speed.picture(side, side)
    prepared = predictor.prepare(picture)
    read = own_rows(picture, predictor.normaliser.per_channel(picture))
    assert read is not None
    mpx = side * side / 1e6

    def of_bytes() -> None:
        rows = Picture(read=lambda a, b: read._replace(raw=read.raw[a:b]), size_HW=picture.shape)
        for _ in predictor.bands(rows):
            pass

    tiles = torch.randn(predictor.batch, 1, setting.patch, setting.patch, device=predictor.device)

    def bare() -> None:
        with torch.inference_mode():
            predictor.forward(tiles)

    net = _rate(bare, 8, predictor.batch) * setting.patch**2 / 1e6
    told = {
        "float32, normalised": _rate(lambda: predictor.predict_prepared(prepared), 3, 1) * mpx,
        "its own bytes": _rate(of_bytes, 3, 1) * mpx,
        "with statistics": _rate(lambda: predictor(picture), 3, 1) * mpx,
    }
    for name, rate in told.items():
        is_good = rate > 0.9 * net / 1.78 if name == "its own bytes" and GPU else None
        say(
            f"{side}², {name}", is_good, f"{rate:.1f} Mpx/s, {1.78 * rate / net:.2f} of bare ÷ 1.78"
        )
    _busy(f"{side}²", of_bytes, 5)
    (folder / "in").mkdir()
    number = 2 if side < 1000 else 6
    for index in range(number):
        tifffile.imwrite(folder / "in" / f"{index}.tif", picture)
    request = PredictRequest(
        model=str(model), inputs=(str(folder / "in"),), out=str(folder / "out")
    )
    began = time.perf_counter()
    predict_files(request, find_inputs(request), predictor, lambda _: None, lambda: None)
    rate = number * mpx / (time.perf_counter() - began)
    say("files to files", rate > 100 if GPU else None, f"{number} of {side}²: {rate:.1f} Mpx/s")


CHECKS: dict[str, Callable[[_Setting], None]] = {
    each.__name__: each
    for each in (
        *(train, host, probe, fp16, memory, faults, masks, shapes, searched, inference, small),
    )
}


def main() -> None:
    """Run one check; what goes wrong is a finding as well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    try:
        CHECKS[options.name](_Setting(options.small))
    except Exception as error:
        traceback.print_exc(limit=-3)
        first = str(error).strip().partition("\n")[0][:160]
        say(options.name, False, f"{type(error).__name__}: {first}")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
