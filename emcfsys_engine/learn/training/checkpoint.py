"""Checkpoints: everything needed to go on, as one safetensors file, written beside the loop."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.run.folder import write_whole

FORMAT = 1
_KEY = "emcfsys_training"


class TrainState(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a training that is under way; the tensors stand beside it."""

    format: int = FORMAT
    step: int = 0
    elapsed_s: float = 0.0
    best_score: float | None = None
    best_step: int = 0
    beaten: int = 0  # validations since the best
    rate_factor: float = 1.0  # halved by a rollback
    rollbacks: int = 0
    micro_batch: int = 0
    loss_sum: float = 0.0  # since the last validation
    loss_count: int = 0
    validation_s: float = 0.0  # how long the last validation took


def encode_checkpoint(tensors: dict[str, Tensor], state: TrainState) -> bytes:
    """Return the bytes of a checkpoint."""
    return save(tensors, {"format": "pt", _KEY: msgspec.json.encode(state).decode()})


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], TrainState]:
    """Return a checkpoint's tensors and state.

    Raises: RunFolderError for a damaged file or one of a newer format.
    """
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get(_KEY, "")
            state = msgspec.json.decode(text, type=TrainState)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, msgspec.MsgspecError, OSError) as error:
        remedy = "Train anew; the models beside it are whole"
        raise RunFolderError(file, f"cannot be resumed from: {error}", remedy) from None
    if state.format > FORMAT:
        what = f"has format {state.format}, this version knows {FORMAT}"
        raise RunFolderError(file, what, "Update emcfsys-tui")
    return tensors, state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors: optimizer.<parameter>.<name>."""
    found: dict[str, Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            found[f"optimizer.{index}.{name}"] = value
    return found


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the tensors of `optimizer_tensors` back, laid out in memory as their weights are.

    A fused optimiser walks through weights, gradients and moments by their memory, not by their
    indices: moments of another layout (files know only one) would meet the wrong weights.
    """
    weights = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for full, value in tensors.items():
        prefix, _, rest = full.partition(".")
        if prefix == "optimizer":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = _laid_out_as(weights[int(index)], value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _laid_out_as(weight: Tensor, value: Tensor) -> Tensor:
    if value.shape != weight.shape:  # a step count
        return value
    return torch.empty_strided(weight.size(), weight.stride(), dtype=value.dtype).copy_(value)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU, so that training can go on while they are written."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


class BackgroundWriter:
    """Writes files one after the other in a thread; the loop never waits for the disk.

    `on_done(error)` of each job is called in `poll`, by the caller's own thread, in order.
    """

    def __init__(self) -> None:
        self._jobs: queue.Queue[_Job | None] = queue.Queue(maxsize=2)
        self._done: queue.SimpleQueue[tuple[_Job, Exception | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def write(
        self,
        file: Path,
        make_bytes: Callable[[], bytes],
        on_done: Callable[[Exception | None], None],
    ) -> None:
        """Queue a file; waits only when two are waiting already."""
        self._jobs.put(_Job(file, make_bytes, on_done))

    def poll(self) -> None:
        """Report what was written since the last call."""
        while not self._done.empty():
            job, error = self._done.get()
            job.on_done(error)

    def close(self) -> None:
        """Wait until everything is written, and report it."""
        self._jobs.put(None)
        self._thread.join()
        self.poll()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                write_whole(job.file, job.make_bytes())
            except Exception as error:  # handed to the loop's thread, which decides
                self._done.put((job, error))
            else:
                self._done.put((job, None))


class _Job:
    def __init__(
        self,
        file: Path,
        make_bytes: Callable[[], bytes],
        on_done: Callable[[Exception | None], None],
    ) -> None:
        self.file = file
        self.make_bytes = make_bytes
        self.on_done = on_done
