"""Dilated convolutions in groups learn in full precision on processors: oneDNN gets them wrong.

Measured with torch 2.15 (oneDNN, AVX512-BF16): in bfloat16 and channels_last the gradient of the
weights of a convolution with dilation > 1 and groups > 1 is off by 100 % or not finite, without a
word; the output and the gradient of the input are right, and so is everything in float32.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


class _InFullPrecision:
    """Mixed into a convolution's own class: what it does otherwise stays as it is."""

    def forward(self, x_NCHW: Tensor, *rest: Any) -> Tensor:
        """Convolve; in float32 where a gradient is wanted on a processor under autocast."""
        own: Any = super()
        is_safe = x_NCHW.device.type != "cpu" or not torch.is_autocast_enabled("cpu")
        if is_safe or torch.jit.is_tracing() or not torch.is_grad_enabled():
            return own.forward(x_NCHW, *rest)
        with torch.autocast("cpu", enabled=False):
            return own.forward(x_NCHW.float(), *rest).to(x_NCHW.dtype)


def learn_dilated_in_full_precision(network: nn.Module) -> None:
    """Change the class of every dilated convolution in groups; parameters and names stay."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.dilation) > 1:
            module.__class__ = _with_full_precision(type(module))


def kind_of(module: nn.Module) -> type[nn.Module]:
    """Return a module's class as its library made it."""
    kind = type(module)
    return kind.__bases__[1] if issubclass(kind, _InFullPrecision) else kind


@cache
def _with_full_precision(kind: type[nn.Conv2d]) -> Any:
    if issubclass(kind, _InFullPrecision):
        return kind
    return type(kind.__name__, (_InFullPrecision, kind), {})
