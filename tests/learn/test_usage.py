"""What a training takes of its machine."""

import torch

from emcfsys_engine.learn.usage import Usage


def test_a_process_that_computes_takes_memory_and_a_processor() -> None:
    usage = Usage(torch.device("cpu"))
    assert not usage.is_due()  # it is said rarely
    torch.rand(400, 400) @ torch.rand(400, 400)
    taken = usage.at(7)
    assert taken.step == 7 and taken.memory_gb > 0.01 and taken.cpu >= 0
    assert taken.gpu is None and taken.gpu_memory_gb is None
