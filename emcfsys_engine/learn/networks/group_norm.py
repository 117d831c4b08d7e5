"""Normalisation that does not depend on the batch, for maps that can be 1×1 or alone in a batch."""

from torch import nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group norm of up to 32 groups with at least 4 channels each."""
    fitting = (groups for groups in (32, 16, 8, 4, 2) if channels % groups == 0)
    return nn.GroupNorm(next((g for g in fitting if channels // g >= 4), 1), channels)


def use_group_norm(module: nn.Module, *, everywhere: bool) -> None:
    """Replace batch norms by group norms: all of them, or those behind a global pooling.

    A batch norm has nothing to average over when a map is 1×1 and the micro-batch 1.
    """
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            use_group_norm(child, everywhere=everywhere or _pools_first(child))
        elif everywhere:
            setattr(module, name, group_norm(child.num_features))


def _pools_first(module: nn.Module) -> bool:
    first = next(iter(module.children()), None)
    return isinstance(first, nn.AdaptiveAvgPool2d)
