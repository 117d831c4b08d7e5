"""Crops of step after step on the device: cut ahead by a thread, in order."""

import queue
import threading

import torch
from torch import Tensor

from emcfsys_engine.learn.pixels_on_device import Crops
from emcfsys_engine.learn.training.dataset import PatchSampler
from emcfsys_engine.learn.training.storage import Lines

_AHEAD = 2


class Batches:
    """Crops of step after step, on the device, in order; a batch depends on its step alone."""

    def __init__(self, sampler: PatchSampler, first_step: int, device: torch.device) -> None:
        self._sampler = sampler
        self._device = device
        self._resident = sampler.resident_on(device)
        self._ready: queue.Queue[Crops | Lines | BaseException] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._cut, args=(first_step,), name="batches", daemon=True
        )
        self._thread.start()

    def next(self) -> tuple[Tensor, Tensor]:
        """Return the next step's crops and labels.

        Shapes: N×C×M×M float32, normalised, and N×M×M uint8 (N×K×M×M with planes of objects).
        Raises: what went wrong while they were cut.
        """
        ready = self._ready.get()
        if isinstance(ready, BaseException):
            raise ready
        if isinstance(ready, Lines):
            assert self._resident is not None
            ready = self._resident.cut(ready)
        return ready.on(self._device)

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
                ready = self._drawn(step)
                self._ready.put(ready.pinned() if self._device.type == "cuda" else ready)
                step += 1
        except BaseException as error:  # handed to the loop's thread, which raises it
            self._ready.put(error)

    def _drawn(self, step: int) -> Crops | Lines:
        """Return what of a step's crops goes up to the device."""
        sampler = self._sampler
        if self._resident is None:
            return sampler.crops(step)
        places_N3 = sampler.places(step)
        statistics = [sampler.statistics[index] for index in places_N3[:, 0]]
        return self._resident.lines(places_N3, sampler.crop_px, statistics)
