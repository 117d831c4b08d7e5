"""The next batch's crops, cut in a thread while the network works on the last."""

import queue
import threading

import torch
from torch import Tensor

from emcfsys_engine.learn.training.dataset import PatchSampler

_AHEAD = 2


class Batches:
    """Crops of step after step, on the device, in order; a batch depends on its step alone."""

    def __init__(self, sampler: PatchSampler, first_step: int, device: torch.device) -> None:
        self._sampler = sampler
        self._device = device
        self._ready: queue.Queue[tuple[Tensor, Tensor] | BaseException] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._cut, args=(first_step,), name="batches", daemon=True
        )
        self._thread.start()

    def next(self) -> tuple[Tensor, Tensor]:
        """Return the next step's crops and labels.

        Raises: what went wrong while they were cut.
        """
        ready = self._ready.get()
        if isinstance(ready, BaseException):
            raise ready
        images, labels = ready
        return (
            images.to(self._device, non_blocking=True),
            labels.to(self._device, non_blocking=True),
        )

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _cut(self, step: int) -> None:
        try:
            if self._device.type == "cuda":  # pinned memory belongs to this thread's GPU, else 0
                torch.cuda.set_device(self._device)
            while not self._stop.is_set():
                images, labels = self._sampler.crops(step)
                if self._device.type == "cuda":
                    images, labels = images.pin_memory(), labels.pin_memory()
                self._ready.put((images, labels))
                step += 1
        except BaseException as error:  # handed to the loop's thread, which raises it
            self._ready.put(error)
