"""Devices: as many GPUs as asked for, or a sentence."""

import pytest
import torch

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn import device
from emcfsys_engine.learn.device import choose_device, choose_threads, lost_gpu


@pytest.mark.parametrize(("count", "asked", "found"), [(2, 3, "finds 2"), (0, 1, "finds no GPU")])
def test_more_gpus_than_there_are_are_refused(
    monkeypatch: pytest.MonkeyPatch, count: int, asked: int, found: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(device, "kernels_missing", lambda index: "")
    with pytest.raises(InputError, match=rf"compute\.gpus: {asked} asked for, but CUDA {found}"):
        choose_device(asked)
    assert choose_device(0) == torch.device("cpu")
    assert choose_device(None).type == ("cuda" if count else "cpu")


@pytest.mark.parametrize(
    ("kind", "gpus", "given", "warns"),
    [
        ("cpu", None, "3", True),
        ("cpu", None, "GPU-1,GPU-2", True),
        ("cpu", None, "", False),
        ("cpu", None, "-1", False),
        ("cpu", 0, "3", False),
        ("cuda", None, "3", False),
    ],
)
def test_a_gpu_that_was_given_and_cannot_be_used_is_told(
    kind: str, gpus: int | None, given: str, warns: bool
) -> None:
    told = lost_gpu(torch.device(kind), gpus, {"CUDA_VISIBLE_DEVICES": given})
    assert (f"GPU {given} was given" in told) == warns
    assert bool(told) == warns
    assert lost_gpu(torch.device(kind), gpus, {}) == ""


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    assert [choose_threads(None, number) for number in (1, 2, 4, 12)] == [6, 3, 1, 1]
    assert choose_threads(5, 4) == 5
