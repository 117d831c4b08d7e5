"""Which device computes, in which precision, and what a training takes of its machine."""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pynvml as nvml
import torch

from emcfsys_engine.errors import Diagnosis, InputError
from emcfsys_engine.launch.processes import SHARE_VARIABLE
from emcfsys_engine.run.events import MachineUsed

# The processor's flags under which bf16 is faster than fp32 (Intel AMX, AVX-512 BF16).
_FAST_BF16 = frozenset({"amx_bf16", "avx512_bf16"})
_DRIVER = Path("/proc/driver/nvidia/version")
_NODES = Path("/dev")
RELOAD = (
    "Reboot, or end what uses the GPU and reload its module: sudo rmmod nvidia_uvm nvidia_drm"
    " nvidia_modeset nvidia; sudo modprobe nvidia"
)


def choose_device(gpus: int | None, local_rank: int = 0) -> torch.device:
    """Return the device of a process: a GPU when there is one, unless the project says 0 GPUs.

    It always has an index: torch's setters refuse a GPU without one.
    Raises: InputError if more GPUs are demanded than there are, or torch has no kernels for it.
    """
    if gpus != 0 and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if gpus is not None and gpus > count:
            remedy = f"Use {count}, or look at emcfsys-engine doctor"
            raise InputError("gpus", f"{gpus} asked for, but CUDA finds {count}", remedy)
        if fault := kernels_missing(local_rank):
            remedy = "Install a torch for it, or set compute.gpus = 0 (CUDA_VISIBLE_DEVICES=)"
            raise InputError(f"GPU {local_rank}", fault, remedy)
        return torch.device("cuda", local_rank)
    if gpus:
        remedy = "Leave compute.gpus or --gpus out, or look at emcfsys-engine doctor"
        raise InputError("gpus", f"{gpus} asked for, but CUDA finds no GPU", remedy)
    return torch.device("cpu")


def device_of(kind: str, local_rank: int = 0) -> torch.device:
    """Return the device of a kind, "cpu" or "cuda", for the process of this local rank."""
    return torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)


def use(device: torch.device) -> None:
    """Let this process compute on its device, within its share of it."""
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    if (share := gpu_share()) < 1:
        torch.cuda.set_per_process_memory_fraction(share, device)


def gpu_share(environment: Mapping[str, str] = os.environ) -> float:
    """Return the share of its GPU that this process was given: 1 unless the queue says less."""
    try:
        share = float(environment.get(SHARE_VARIABLE, "1"))
    except ValueError:
        return 1.0
    return share if 0 < share < 1 else 1.0


def kernels_missing(index: int) -> str:
    """Tell why this torch cannot compute on a GPU that the driver knows; nothing: it can.

    Kernels of sm_80 run on 8.0 and every later 8.x; compute_90 is compiled for all from 9.0 on.
    """
    major, minor = torch.cuda.get_device_capability(index)
    known = torch.cuda.get_arch_list()
    if not known or any(_runs_on(arch, major, minor) for arch in known):
        return ""
    name = torch.cuda.get_device_name(index)
    return f"torch {torch.__version__} has no kernels for {name} (sm_{major}{minor})"


def _runs_on(arch: str, major: int, minor: int) -> bool:
    kind, _, text = arch.partition("_")
    digits = text.rstrip("af")  # sm_90a and sm_100f are of one architecture
    if not digits.isdigit():
        return False
    of = (int(digits[:-1]), int(digits[-1]))
    if kind == "compute":
        return of <= (major, minor)
    is_exact = text != digits and text.endswith("a")
    return of == (major, minor) if is_exact else of[0] == major and of[1] <= minor


def lost_gpu(
    device: torch.device,
    gpus: int | None,
    environment: Mapping[str, str],
    has_driver: bool | None = None,
) -> str:
    """Return a warning when a run should have a GPU that CUDA cannot use; else nothing.

    The queue and Slurm name the GPUs of a run in CUDA_VISIBLE_DEVICES, and hide those of others.
    A driver that was updated under its module leaves GPUs that nobody can use until it is reloaded.
    """
    if device.type != "cpu" or gpus == 0:
        return ""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given in ("", "-1"):
        return ""
    if given is not None:
        return (
            f"GPU {given} was given to this run, but CUDA cannot use it: the processor computes,"
            " many times slower. Look at emcfsys-engine doctor on that machine"
        )
    if torch.version.cuda and (driver_is_loaded() if has_driver is None else has_driver):
        return (
            "this machine has a GPU that CUDA cannot use: the processor computes, many times"
            f" slower. {RELOAD}"
        )
    return ""


def driver_is_loaded() -> bool:
    """Tell whether the NVIDIA driver's module is loaded and shows us a GPU.

    A container sees the host's module, but no GPU's node unless it was given one.
    """
    return _DRIVER.exists() and any(_NODES.glob("nvidia[0-9]*"))


def choose_precision(device: torch.device) -> tuple[torch.dtype, str]:
    """Return the dtype of the forward pass and the reason, from the hardware's flags alone."""
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        if major >= 8:
            return torch.bfloat16, "this GPU computes bf16 natively"
        if major == 7:
            return torch.float16, "this GPU computes fp16 fast, and has no bf16"
        return torch.float32, "this GPU has neither bf16 nor fast fp16"
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


def is_without_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and choose_precision(device)[0] != torch.bfloat16


def describe(device: torch.device, precision: torch.dtype) -> str:
    """Return a short text for people: 'cuda NVIDIA H100 (bf16)' or 'cpu (fp32)'."""
    name = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[precision]
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
    has_driver = driver_is_loaded()
    if has_driver and built_for:
        remedy = (
            f"{RELOAD}. If that does not help, update the driver to one for CUDA {built_for}, or"
            " install an older torch"
        )
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
    """Look at one GPU; one that is full, used by one process alone or broken is told as it is."""
    name, text = f"GPU {index}", ""
    try:
        text = torch.cuda.get_device_name(index)
        if missing := kernels_missing(index):
            remedy = "Install a torch that has them, or use another GPU"
            return Diagnosis(what=name, state="fail", found=missing, remedy=remedy)
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        why = str(error).strip().partition("\n")[0]
        remedy = "Another program may have all of it, or have it alone: see nvidia-smi"
        return Diagnosis(what=name, state="warn", found=f"{text}: {why}", remedy=remedy)
    text = f"{text}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if free < _MIN_GPU_GIB * 2**30:
        remedy = "Another program holds its memory: see nvidia-smi"
        return Diagnosis(what=name, state="warn", found=text, remedy=remedy)
    return Diagnosis(what=name, state="ok", found=text)


_EVERY_S, _LATER_S = 10.0, 60.0
_OFTEN = 60  # so many first ones come every 10 s, later ones every minute: days stay small
_GIB = 2**30


class Usage:
    """Measures this process, and the GPU that it computes on."""

    def __init__(self, device: torch.device) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call only begins to count
        self._device = device
        self._num = 0
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Tell whether it is time to measure."""
        wait_s = _EVERY_S if self._num < _OFTEN else _LATER_S
        return time.monotonic() - self._last >= wait_s

    def at(self, step: int) -> MachineUsed:
        """Return what was taken since the last call."""
        self._num, self._last = self._num + 1, time.monotonic()
        gpu, memory = self._gpu()
        return MachineUsed(
            step=step,
            cpu=self._process.cpu_percent() / 100,
            memory_gb=self._process.memory_info().rss / _GIB,
            gpu=gpu,
            gpu_memory_gb=memory,
        )

    def _gpu(self) -> tuple[float | None, float | None]:
        if self._device.type != "cuda":
            return None, None
        free, total = torch.cuda.mem_get_info(self._device)
        try:
            share = torch.cuda.utilization(self._device) / 100
        except (ImportError, RuntimeError, OSError, nvml.NVMLError):  # not there, or not for us
            return None, (total - free) / _GIB
        return share, (total - free) / _GIB
