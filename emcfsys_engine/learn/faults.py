"""Errors that say what happened to the machine: memory is short, a GPU lost, a process failed."""

import time
from contextlib import suppress
from pathlib import Path

import msgspec
import torch

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError, PeerLostError, RunFailedError
from emcfsys_engine.files import write_whole
from emcfsys_engine.learn.run_context import RunContext

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
# What the libraries below torch say when they find no memory: a plain RuntimeError each.
_NO_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't allocate memory",
)
# Of torch 2.8 and later; before that the same errors are RuntimeErrors that say "CUDA error".
_ACCELERATOR_ERROR: type[RuntimeError] | None = getattr(torch, "AcceleratorError", None)


class GpuLostError(RunFailedError):
    """After an error such as an illegal access nothing more can be computed in this process."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that less at a time might fit."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    is_numbered = getattr(error, "error_code", None) == _OUT_OF_MEMORY
    return is_numbered or any(words in str(error) for words in _NO_MEMORY)


def loses_gpu(error: BaseException) -> bool:
    """Tell whether an error leaves this process without its GPU: only a new one can go on."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    is_accelerators = _ACCELERATOR_ERROR is not None and isinstance(error, _ACCELERATOR_ERROR)
    return is_accelerators or "CUDA error" in str(error)


def refuse_lost_gpu(error: BaseException) -> None:
    """Do nothing for an error that concerns one file or one step.

    Raises: GpuLostError for one after which every later file would fail as well.
    """
    if loses_gpu(error):
        what = str(error).strip().partition("\n")[0]
        raise GpuLostError(
            f"the GPU failed: {what}. What was done is kept; a new start goes on. If it comes "
            "again, look for Xid in the kernel's log (dmesg)"
        ) from error


def free_cached_memory() -> None:
    """Give memory that torch keeps for later back to the device; call it outside of handlers."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


_PATIENCE_S = 3.0  # the one that failed may still be writing


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """fault.json: what ended the first process that failed."""

    rank: int
    reason: str


def note_fault(worker: RunContext, reason: str) -> None:
    """Leave word that this process failed, unless another one did before."""
    file = worker.run.fault_file
    if worker.place.world == 1 or file.exists():
        return
    try:
        write_whole(file, any_names.encode(Fault(rank=worker.place.rank, reason=reason)))
    except OSError:  # a full disk: the log has it
        return


def told_with_first_fault(worker: RunContext, error: EmcfError) -> str:
    """Return what to tell of an error; of a process that is missed, which one and why."""
    text = str(error)
    if worker.place.world == 1:
        return text
    if not isinstance(error, PeerLostError):
        note_fault(worker, text)
        return text
    first = _wait_for(worker.run.fault_file)
    if first is None or first.rank == worker.place.rank:
        return text
    return f"process {first.rank} failed: {first.reason} ({text})"


def _wait_for(file: Path) -> Fault | None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with suppress(OSError):
            found: Fault | None = any_names.read(file, Fault)
            if found is not None:
                return found
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
