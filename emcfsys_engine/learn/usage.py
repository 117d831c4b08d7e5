"""What a training takes of its machine: processors, memory, GPU; measured rarely, in no time."""

import time

import psutil
import torch

from emcfsys_engine.run.events import MachineUsed

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
        except (ImportError, RuntimeError, OSError):  # NVML is not there, or not for us
            return None, (total - free) / _GIB
        return share, (total - free) / _GIB
