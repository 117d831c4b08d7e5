"""Code made for one shape of batch, for long predictions: used where it is proven alike and faster.

N tiles, C channels, H and W pixels.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from emcfsys_engine.settings import cache_home

_SURE_AFTER_S = 10.0  # before that the first image's caches and files are most of it


class Pace:
    """Counts images, and parts of one, against a number that is known beforehand."""

    def __init__(self, num_images: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_images = num_images
        self._clock = clock
        self._began = clock()
        self._done = 0

    def image_done(self) -> None:
        """Count one more image as done."""
        self._done += 1

    def left_s(self, share: float = 0.0) -> float:
        """Return the seconds still to go, when this share of the image at hand is done as well.

        0 as long as it is too early to tell.
        """
        elapsed_s = self._clock() - self._began
        done = self._done + share
        if elapsed_s < _SURE_AFTER_S or done <= 0:
            return 0.0
        return elapsed_s * max(0.0, self._num_images - done) / done


_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled_code_private() -> None:
    """Choose the folder of compiled code, unless the user did; before torch is imported.

    Where it cannot be made, torch's choice stays.
    """
    if _VARIABLE in os.environ:
        return
    folder = cache_home() / "compiled"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[_VARIABLE] = str(folder)


Call = Callable[[Tensor], Tensor]

# Of what is left of a prediction, by kind of device: what compiling takes, over what it gains.
PAYS_AFTER_S = {"cpu": 900.0, "cuda": 300.0}
_WORTH = 1.03  # times as fast: less is within what a machine's day does
_UNLIKE = 1e-5  # of the pixels may change class
_ROUNDS = 3
# Weights become part of the code, and bf16 is rounded where the plain network rounds it.
_PROCESSOR: dict[str, Any] = {"freezing": True, "emulate_precision_casts": True}
# CUDA graphs: a small batch is launched as one.
_GPU: dict[str, Any] = {"triton.cudagraphs": True, "emulate_precision_casts": True}


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: the call to use from now on, and what to tell people."""

    call: Call
    is_compiled: bool
    told: str


def try_compiled(
    network: nn.Module, around: Callable[[Call], Call], plain: Call, tiles_NCHW: Tensor
) -> Trial:
    """Make code for batches of this shape, and compare it with the plain call on this batch.

    `around` brings tiles into the network's precision. Batches of another shape go the plain way.
    Nothing is raised: what cannot be compiled, changes classes or is no faster stays as it is.
    Source: torch.compile with inductor; a processor needs a C++ compiler for it, a GPU triton.
    """
    shape = tiles_NCHW.shape
    began = time.monotonic()
    try:
        fast = _compiled(network, around, tiles_NCHW)
        unlike, gain = _unlike(plain, fast, tiles_NCHW), _gain(plain, fast, tiles_NCHW)
    except Exception as error:
        return Trial(call=plain, is_compiled=False, told=f"not compiled: {_first_line(error)}")
    told = f"compiled for {shape[0]} × {shape[-2]} × {shape[-1]} in {_s(began)}: {gain:.2f} ×"
    if unlike > _UNLIKE:
        told = f"{told}, but {unlike:.2g} of the pixels change class: not used"
        return Trial(call=plain, is_compiled=False, told=told)
    if gain < _WORTH:
        return Trial(call=plain, is_compiled=False, told=f"{told}: not used")
    return Trial(
        call=lambda x_NCHW: (fast if x_NCHW.shape == shape else plain)(x_NCHW),
        is_compiled=True,
        told=f"{told} as fast",
    )


def _compiled(network: nn.Module, around: Callable[[Call], Call], tiles_NCHW: Tensor) -> Call:
    on_gpu = tiles_NCHW.device.type == "cuda"
    options = _GPU if on_gpu else _PROCESSOR
    made = torch.compile(network, fullgraph=True, dynamic=False, options=options)
    # A graph writes its next result where it wrote this one.
    fast = around(lambda x_NCHW: made(x_NCHW).clone()) if on_gpu else around(made)
    with torch.inference_mode():
        for _ in range(_ROUNDS):  # compiles, warms up, and records the graph
            fast(tiles_NCHW)
    return fast


def _unlike(plain: Call, fast: Call, tiles_NCHW: Tensor) -> float:
    """Return the share of the pixels whose class differs."""
    with torch.inference_mode():
        differs_NHW = plain(tiles_NCHW).argmax(1) != fast(tiles_NCHW).argmax(1)
    return float(differs_NHW.float().mean())


def _gain(plain: Call, fast: Call, tiles_NCHW: Tensor) -> float:
    """Return how many times as fast the compiled call is: the median of alternating pairs."""
    with torch.inference_mode():
        ratios = [_seconds(plain, tiles_NCHW) / _seconds(fast, tiles_NCHW) for _ in range(_ROUNDS)]
    return statistics.median(ratios)


def _seconds(call: Call, tiles_NCHW: Tensor) -> float:
    began = time.perf_counter()
    call(tiles_NCHW)
    if tiles_NCHW.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _s(began: float) -> str:
    return f"{time.monotonic() - began:.0f} s"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
