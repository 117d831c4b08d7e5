"""One optimiser step: augment, gather the gradients in parts that fit, step, average the weights.

N patches, C channels, M pixels of a crop.
"""

import torch
from torch import Tensor

from emcfsys_engine.learn.augment import augment
from emcfsys_engine.learn.device import autocast
from emcfsys_engine.learn.losses import Loss
from emcfsys_engine.learn.network import SegmentationNetwork
from emcfsys_engine.learn.plan import Plan
from emcfsys_engine.learn.rates import make_optimizer


class DoesNotFitError(Exception):
    """A part of the batch needs more memory than the device has."""


class Stepper:
    """Does optimiser steps on one network, and keeps the average of its weights."""

    def __init__(
        self,
        network: SegmentationNetwork,
        averaged: SegmentationNetwork,
        loss: Loss,
        plan: Plan,
        seed: int,
    ) -> None:
        self.plan = plan
        self.device = torch.device(plan.device)
        self.precision: torch.dtype = getattr(torch, plan.precision)
        self.network = network
        self.averaged = averaged
        self.loss = loss
        self.seed = seed
        self.optimizer = make_optimizer(network, plan, self.device)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def learning_rate(self) -> float:
        """The rate of the first group in the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def prepare(self, crops_NCMM: Tensor, labels_NMM: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the step's patches, augmented.

        Each step seeds its own random numbers: a resumed run draws what it would have drawn.
        """
        seed = _mixed(self.seed, step)
        torch.manual_seed(seed)
        rng = torch.Generator(self.device).manual_seed(seed)
        images, labels = augment(
            crops_NCMM, labels_NMM, self.plan.patch_px, self.plan.strengths, rng
        )
        return images.contiguous(memory_format=torch.channels_last), labels

    def gather(self, images: Tensor, labels: Tensor, micro_batch: int) -> Tensor:
        """Gather the batch's gradients, so many patches at a time; return its mean loss.

        Raises: DoesNotFitError, with gradients that are worth nothing.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        try:
            for first in range(0, len(images), micro_batch):
                part = slice(first, first + micro_batch)
                with autocast(self.device, self.precision):
                    logits = self.network(images[part])
                share = len(images[part]) / len(images)
                loss = self.loss(logits, labels[part]) * share
                loss.backward()
                total += loss.detach()
        except torch.OutOfMemoryError:
            raise DoesNotFitError from None
        return total

    def step(self, factor: float, step: int) -> None:
        """Move the weights by the gathered gradients, with `factor` times the plan's rates."""
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip_norm)
        self.optimizer.step()
        self._average(step)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Move the averaged weights towards the current ones, faster at the start."""
        decay = min(self.plan.ema_decay, (1 + step) / (10 + step))
        own = self.network.state_dict()
        floats: list[Tensor] = []
        targets: list[Tensor] = []
        for name, mean in self.averaged.state_dict().items():
            if mean.dtype.is_floating_point:
                floats.append(mean)
                targets.append(own[name])
            else:
                mean.copy_(own[name])
        torch._foreach_lerp_(floats, targets, 1 - decay)  # pyright: ignore[reportPrivateUsage]


def _mixed(seed: int, step: int) -> int:
    """Return one 63-bit number for a seed and a step (splitmix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value ^= value >> 31
    return (value * 0x94D049BB133111EB & (2**64 - 1)) >> 1
