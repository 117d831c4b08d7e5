"""A short measured run of a GPU before a training's plan: how many patches at a time it likes.

What is counted (learn.memory) is a guess of the memory and says nothing of the speed. What is
measured stands in plan.json with its reason: a resume, and every other process, reads it there.
N patches of P×P pixels.
"""

import time

import msgspec
import torch

from emcfsys_engine.learn.device import autocast
from emcfsys_engine.learn.faults import free_cached_memory, is_out_of_memory
from emcfsys_engine.learn.networks.network import build_network, parameter_groups
from emcfsys_engine.learn.training.losses import build_loss
from emcfsys_engine.model_card import NetworkSpec

MOST_S = 20.0  # for all of it
_WARM_UP, _TIMED = 2, 3  # steps
_MOST_BATCH = 64
LEAST_FOR_BATCH_NORM = 4  # patches: below, each batch's mean and variance are too noisy
WORTH = 1.15  # times as many patches a second, for a batch of twice the size


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What one process did with so many patches at a time."""

    patches: int
    patches_per_s: float
    peak_bytes: int


class Probe:
    """Tries steps of one network on the GPU that the process was given."""

    def __init__(
        self,
        network: NetworkSpec,
        device: torch.device,
        precision: torch.dtype,
        loss: str,
        memory: int,  # bytes that a step may take
    ) -> None:
        self._spec = network
        self._device = device
        self._precision = precision
        self._loss = loss
        self._memory = memory
        self._until = time.monotonic() + MOST_S
        self.found: list[Probed] = []

    def most(self, patch_px: int, patches: int) -> int:
        """Return how many patches fit, halving what is asked for; 0: not even one does."""
        while patches:
            if self._fits(patch_px, patches):
                return patches
            patches = (patches + 1) // 2 if patches > 1 else 0
        return 0

    def better(self, patch_px: int, patches: int) -> int:
        """Return a larger number of patches where that pays, and `patches` where it does not."""
        while 2 * patches <= _MOST_BATCH and self._has_time_for(2):
            before = self.found[-1]
            if not self._fits(patch_px, 2 * patches):
                break
            if self.found[-1].patches_per_s < WORTH * before.patches_per_s:
                break
            patches *= 2
        return patches

    def told(self) -> str:
        """Return what was measured, in words."""
        return ", ".join(
            f"{one.patches} patches at a time: {one.patches_per_s:.3g} a second in "
            f"{one.peak_bytes / 2**30:.1f} GiB"
            for one in self.found
        )

    def _has_time_for(self, times: int) -> bool:
        last = self.found[-1]
        step_s = times * last.patches / max(last.patches_per_s, 1e-6)
        return time.monotonic() + (_WARM_UP + _TIMED) * step_s < self._until

    def _fits(self, patch_px: int, patches: int) -> bool:
        """Try a few steps; note how fast they were, where they fit into the memory."""
        try:
            one = self._tried(patch_px, patches)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            one = None
        free_cached_memory()  # outside the handler, which holds what did not fit
        if one is None or one.peak_bytes > self._memory:
            return False
        self.found.append(one)
        return True

    def _tried(self, patch_px: int, patches: int) -> Probed:
        spec, device = self._spec, self._device
        if patches < LEAST_FOR_BATCH_NORM:  # as the plan does
            spec = msgspec.structs.replace(spec, norm="group")
        network = build_network(spec).to(device).to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.AdamW(parameter_groups(network, 0.01), lr=1e-6, fused=True)
        loss = build_loss(self._loss, num_classes=spec.num_classes)
        shape = (patches, spec.in_channels, patch_px, patch_px)
        images = torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last)
        size = (patches, patch_px, patch_px)
        if spec.num_planes:
            size = (patches, 1 + spec.num_planes, patch_px, patch_px)
        labels = torch.zeros(size, dtype=torch.int64, device=device)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast(device, self._precision):
                heads = network.forward_with_auxiliary(images)
            torch.stack([loss(head, labels) for head in heads if head is not None]).sum().backward()
            optimizer.step()

        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(_WARM_UP):
            step()
        torch.cuda.synchronize(device)
        began = time.monotonic()
        for _ in range(_TIMED):
            step()
        torch.cuda.synchronize(device)
        seconds = max(time.monotonic() - began, 1e-9)
        return Probed(
            patches=patches,
            patches_per_s=_TIMED * patches / seconds,
            peak_bytes=torch.cuda.max_memory_allocated(device),
        )
