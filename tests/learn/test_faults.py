"""Which errors mean short memory, and which a lost GPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch

from emcfsys_engine.errors import PeerLostError, RunFailedError
from emcfsys_engine.launch.start import Place
from emcfsys_engine.learn.faults import (
    is_out_of_memory,
    loses_gpu,
    note_fault,
    told_with_first_fault,
)
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest


def test_errors_of_memory_and_of_a_lost_gpu_are_told_apart() -> None:
    short = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("CUDA error: out of memory"),
    ]
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert [is_out_of_memory(each) for each in short] == [True] * 3
    assert not any(loses_gpu(each) for each in short)
    assert loses_gpu(lost)
    assert not is_out_of_memory(lost)
    other = RuntimeError("The size of tensor a (3) must match")
    assert not is_out_of_memory(other)
    assert not loses_gpu(other)


def test_the_process_that_failed_first_is_named(tmp_path: Path) -> None:
    run = new_run(tmp_path, TrainRequest())
    first, other = (
        cast(RunContext, SimpleNamespace(run=run, place=Place(rank, 4))) for rank in (2, 0)
    )
    missed = PeerLostError("another of the 4 processes ended")
    assert told_with_first_fault(first, RunFailedError("out of memory")) == "out of memory"
    note_fault(other, "comes later")
    told = told_with_first_fault(other, missed)
    assert told == "process 2 failed: out of memory (another of the 4 processes ended)"
