"""What torch finds here: its build, the driver, the GPUs; for `doctor`."""

import os

import torch

from emcfsys_engine.errors import Diagnosis

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
