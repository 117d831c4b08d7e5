"""Which device computes, and in which precision: by tables, so that two runs choose alike."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from emcfsys_engine.errors import Diagnosis, InputError

# The processor's flags under which bf16 is faster than fp32 (Intel AMX, AVX-512 BF16).
_FAST_BF16 = frozenset({"amx_bf16", "avx512_bf16"})


def choose_device(gpus: int | None) -> torch.device:
    """Return the kind of device for a run: CUDA when there is one, unless the project says 0 GPUs.

    Raises: InputError if more GPUs are demanded than there are.
    """
    if gpus != 0 and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if gpus is not None and gpus > count:
            remedy = f"Use {count}, or look at emcfsys-engine doctor"
            raise InputError("compute.gpus", f"{gpus} asked for, but CUDA finds {count}", remedy)
        return torch.device("cuda")
    if gpus:
        remedy = "Leave compute.gpus out, or look at emcfsys-engine doctor"
        raise InputError("compute.gpus", f"{gpus} asked for, but CUDA finds no GPU", remedy)
    return torch.device("cpu")


def lost_gpu(device: torch.device, gpus: int | None, environment: Mapping[str, str]) -> str:
    """Return a warning when a run was given a GPU that CUDA cannot use; else nothing.

    The queue and Slurm name the GPUs of a run in CUDA_VISIBLE_DEVICES, and hide those of others.
    """
    given = environment.get("CUDA_VISIBLE_DEVICES", "")
    if device.type != "cpu" or gpus == 0 or given in ("", "-1"):
        return ""
    return (
        f"GPU {given} was given to this run, but CUDA cannot use it: the processor computes, many "
        "times slower. Look at emcfsys-engine doctor on that machine"
    )


def choose_precision(device: torch.device) -> tuple[torch.dtype, str]:
    """Return the dtype of the forward pass and the reason, from the hardware's flags alone."""
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device)[0] >= 8:
            return torch.bfloat16, "this GPU computes bf16 natively"
        return torch.float32, "this GPU has no bf16"
    found = sorted(_FAST_BF16 & cpu_flags())
    if found:
        return torch.bfloat16, f"the processor has {', '.join(found)}"
    return torch.float32, "the processor has neither AMX nor AVX512-BF16: bf16 would be slower"


def cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags as Linux names them; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def choose_threads(threads: int | None, processes: int = 1) -> int:
    """Return the number of compute threads: as asked, else a fair share of the usable cores."""
    return threads or max(1, len(os.sched_getaffinity(0)) // processes)


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return the context in which the network runs at this precision."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def describe(device: torch.device, precision: torch.dtype) -> str:
    """Return a short text for people: 'cuda NVIDIA H100 (bf16)' or 'cpu (fp32)'."""
    name = {torch.bfloat16: "bf16", torch.float32: "fp32"}[precision]
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)} ({name})"
    return f"cpu ({name})"


_MIN_GPU_GIB = 4


def examine_torch() -> list[Diagnosis]:
    """Look at torch, CUDA and each GPU."""
    built_for = torch.version.cuda
    found = f"{torch.__version__}, built for {'CUDA ' + built_for if built_for else 'the CPU'}"
    lines = [Diagnosis(what="torch", state="ok", found=found)]
    if not torch.cuda.is_available():
        return [*lines, _no_gpu(built_for)]
    for index in range(torch.cuda.device_count()):
        lines.append(_gpu(index))
    return lines


def _no_gpu(built_for: str | None) -> Diagnosis:
    has_driver = os.path.exists("/proc/driver/nvidia/version")  # noqa: PTH110 - a kernel's file
    if has_driver and built_for:
        remedy = f"Update the NVIDIA driver to one for CUDA {built_for}, or install an older torch"
        return Diagnosis(
            what="GPU", state="fail", found="a driver that torch cannot use", remedy=remedy
        )
    if has_driver:
        remedy = "Install torch's CUDA build: pip install --upgrade torch"
        return Diagnosis(
            what="GPU", state="fail", found="a driver, but torch for the CPU", remedy=remedy
        )
    remedy = "Trainings here use the processor: minutes for small sets, hours for large ones"
    return Diagnosis(what="GPU", state="warn", found="none", remedy=remedy)


def _gpu(index: int) -> Diagnosis:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    text = f"{properties.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    name = f"GPU {index}"
    if free < _MIN_GPU_GIB * 2**30:
        remedy = "Another program holds its memory: see nvidia-smi"
        return Diagnosis(what=name, state="warn", found=text, remedy=remedy)
    return Diagnosis(what=name, state="ok", found=text)
