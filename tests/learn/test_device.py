"""Devices: as many GPUs as asked for, or a sentence."""

import pynvml as nvml
import pytest
import torch

from emcfsys_engine.errors import InputError
from emcfsys_engine.launch.start import Place
from emcfsys_engine.learn import device
from emcfsys_engine.learn.device import Usage, choose_device, choose_threads, device_of, lost_gpu
from emcfsys_engine.learn.training.distributed import Ranks


@pytest.mark.parametrize(("count", "asked", "found"), [(2, 3, "finds 2"), (0, 1, "finds no GPU")])
def test_more_gpus_than_there_are_are_refused(
    monkeypatch: pytest.MonkeyPatch, count: int, asked: int, found: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(device, "kernels_missing", lambda index: "")
    with pytest.raises(InputError, match=rf"gpus: {asked} asked for, but CUDA {found}"):
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


@pytest.mark.parametrize(
    ("capability", "known", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100f"], True),
        ((10, 3), ["sm_100a"], False),
        ((12, 1), ["sm_90", "compute_120"], True),
        ((8, 9), ["compute_90"], False),
        ((9, 0), [], True),  # a build that does not tell
    ],
)
def test_kernels_run_on_their_own_and_on_later_cards_of_a_generation(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], known: list[str], runs: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: known)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a card")
    assert (device.kernels_missing(0) == "") == runs


def test_a_gpu_that_the_driver_lost_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    cpu = torch.device("cpu")
    told = lost_gpu(cpu, None, {}, has_driver=True)
    assert "many times slower" in told
    assert "modprobe nvidia" in told
    assert lost_gpu(cpu, 0, {}, has_driver=True) == ""  # the processor was asked for
    assert lost_gpu(cpu, None, {"CUDA_VISIBLE_DEVICES": ""}, has_driver=True) == ""
    assert lost_gpu(cpu, None, {}, has_driver=False) == ""


def test_every_device_of_cuda_has_an_index() -> None:
    assert device_of("cuda") == torch.device("cuda", 0)
    assert Ranks(Place(3, 4, 3, 4)).device("cuda") == torch.device("cuda", 3)
    assert Ranks().device("cuda").index == 0
    assert device_of("cpu") == torch.device("cpu")


def test_a_process_that_computes_takes_memory_and_a_processor() -> None:
    usage = Usage(torch.device("cpu"))
    assert not usage.is_due()  # it is said rarely
    torch.rand(400, 400) @ torch.rand(400, 400)
    taken = usage.at(7)
    assert taken.step == 7 and taken.memory_gb > 0.01 and taken.cpu >= 0
    assert taken.gpu is None and taken.gpu_memory_gb is None


def test_a_machine_whose_driver_tells_no_share_of_its_gpu_computes_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in containers without libnvidia-ml: a training ended there with its first report."""

    def untold(_: torch.device) -> int:
        raise nvml.NVMLError(nvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 << 30, 4 << 30))
    monkeypatch.setattr(torch.cuda, "utilization", untold)
    used = Usage(torch.device("cuda", 0)).at(4)
    assert (used.gpu, used.gpu_memory_gb) == (None, 1.0)
