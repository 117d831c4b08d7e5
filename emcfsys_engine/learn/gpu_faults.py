"""Which errors mean that memory is short, and which that this process has lost its GPU."""

import torch

from emcfsys_engine.errors import RunFailedError

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
