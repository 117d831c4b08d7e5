"""Spare a network whose shapes alone are asked for the layers that change none.

On the meta device torch works out a norm or an activation in Python, by a dozen operations each:
five sixths of the time that a network takes to tell the shapes of its maps.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

_SHAPE_STAYS = (
    *(_NormBase, nn.LayerNorm, nn.GroupNorm),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh),
)


class _HandedOn(torch.autograd.Function):
    """What a layer is given, as what it gives; all its parameters have a part in it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.clone()  # a network may write into what a layer gave it

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], *map(torch.empty_like, ctx.saved_tensors)


def compute_only_shapes(network: nn.Module) -> None:
    """Let a network on the meta device pass by its norms and activations.

    Its maps keep their shapes, and the same parameters get a gradient; hooks are called.
    """
    for module in network.modules():
        if isinstance(module, _SHAPE_STAYS):
            cast("Any", module).forward = partial(_handed_on, tuple(module.parameters()))


def _handed_on(parameters: tuple[nn.Parameter, ...], x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _HandedOn.apply(x, *parameters)
