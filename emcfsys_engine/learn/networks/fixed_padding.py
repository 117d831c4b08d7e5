"""Give TensorFlow-style "same" convolutions a padding that does not depend on the image's size.

timm computes it from each map's height and width as the network runs. torch.export then carries
rounded-up divisions of unknown sizes through every layer, and takes minutes over them. Where each
map is a multiple of the stride (the encoder pads its images so), the padding is always the same:
(kernel − 1) · dilation + 1 − stride.
"""

import copy
from typing import cast

from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from emcfsys_engine.learn.networks.network import SegmentationNetwork


def with_fixed_padding(network: SegmentationNetwork) -> SegmentationNetwork:
    """Return a network of the same numbers whose convolutions all pad by a constant.

    It is a copy, on the same device and in the same mode; the network itself stays as it is.
    """
    made = copy.deepcopy(network)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv2dSame):
                setattr(module, name, _fixed(cast(nn.Conv2d, child)))
    return made


def _fixed(conv: nn.Conv2d) -> nn.Module:
    """Return padding and convolution, one after the other, with the very weights of the given."""
    high, wide = _padding(conv, 0), _padding(conv, 1)
    if min(high, wide) < 0:  # a stride beyond the kernel looks at the size after all
        return conv
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        _two(conv.kernel_size),
        stride=_two(conv.stride),
        dilation=_two(conv.dilation),
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    around = nn.ZeroPad2d((wide // 2, wide - wide // 2, high // 2, high - high // 2))
    return nn.Sequential(around, plain).train(conv.training)


def _padding(conv: nn.Conv2d, axis: int) -> int:
    return (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1 - conv.stride[axis]


def _two(numbers: tuple[int, ...]) -> tuple[int, int]:
    return numbers[0], numbers[1]
