"""Which errors mean short memory, and which a lost GPU."""

import torch

from emcfsys_engine.learn.faults import is_out_of_memory, loses_gpu


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
