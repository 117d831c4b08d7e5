"""How fast each part of the network learns, and how the rate changes over the run."""

import math

import torch

from emcfsys_engine.learn.networks.network import SegmentationNetwork, parameter_groups
from emcfsys_engine.learn.training.plan import Plan

_WARM_SHARE = 0.05  # of the run: the warm-up is over by then, however few its steps
_DECAY_SHARE = 0.2  # of the run, at the end of a trapezoid
_FLOOR = 0.01  # of the learning rate, at the end of the run


def make_optimizer(
    network: SegmentationNetwork, plan: Plan, device: torch.device
) -> torch.optim.Optimizer:
    """Return AdamW with the plan's rates for encoder and decoder."""
    groups = parameter_groups(network, plan.weight_decay)
    for group in groups:
        is_encoder = group["name"].startswith("encoder")
        group["lr"] = plan.encoder_lr if is_encoder else plan.decoder_lr
    return torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))


def rate_factor(plan: Plan, step: int, progress: float) -> float:
    """Return what the learning rates are multiplied with: warm-up, then the plan's schedule.

    A trapezoid stays at the top until its last fifth, so that a run which is extended goes on as if
    it had been longer from the start; the cosine falls all the way.
    Units: `progress` is the share of the run that is done, 0 to 1.
    Source: Hägele et al. 2024 (arXiv:2405.18392): constant, then 1-sqrt over 20 %.
    """
    progress = min(1.0, progress)
    warm = min(1.0, max(step / plan.warmup_steps, progress / _WARM_SHARE))
    if plan.schedule == "trapezoid":
        left = 1 - math.sqrt(max(0.0, progress - (1 - _DECAY_SHARE)) / _DECAY_SHARE)
        return warm * (_FLOOR + (1 - _FLOOR) * max(0.0, left))
    return warm * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))
