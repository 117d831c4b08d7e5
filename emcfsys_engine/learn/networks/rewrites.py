"""Batch norms folded into the convolutions before them: the same network, fewer passes over memory.

N images, C channels, H and W pixels.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from emcfsys_engine.learn.networks.network import SegmentationNetwork, kind_of

_PROBE_PX = 96
_TOLERANCE = 1e-4  # of the largest logit: what the order of additions explains, in fp32


_Place = tuple[nn.Module, str]  # a module, and under which name it has another


def folded(network: SegmentationNetwork) -> SegmentationNetwork:
    """Return the network itself, with each batch norm folded into its convolution where exact.

    Which convolution feeds a norm is seen in a trial run, and the result is tried against the
    network as it was: where they differ by more than rounding, it is as it was again.
    Shapes: the network is in eval mode, in fp32, on the CPU.
    """
    generator = torch.Generator().manual_seed(0)
    size = (2, network.spec.in_channels, _PROBE_PX, _PROBE_PX)
    probe_NCHW = torch.randn(size, generator=generator)
    with torch.no_grad():
        before_NCHW, pairs = _run(network, probe_NCHW)
        if not pairs:
            return network
        places = _places(network)
        given = [(conv, conv.weight, conv.bias, norm) for conv, norm in pairs]
        for convolution, norm in pairs:
            _fold(places[norm], convolution, norm)
        after_NCHW = network(probe_NCHW)
    error, scale = (after_NCHW - before_NCHW).abs().max(), before_NCHW.abs().max()
    if not bool(error <= _TOLERANCE * scale.clamp_min(1.0)):
        for convolution, weight, bias, norm in given:
            convolution.weight, convolution.bias = weight, bias
            _put(places[norm], norm)
    return network


def _places(network: nn.Module) -> defaultdict[nn.Module, list[_Place]]:
    """Return where each part of a network stands."""
    places: defaultdict[nn.Module, list[_Place]] = defaultdict(list)
    for parent in network.modules():
        for name, child in parent.named_children():
            places[child].append((parent, name))
    return places


def _put(places: Sequence[_Place], part: nn.Module) -> None:
    for parent, name in places:
        setattr(parent, name, part)


def is_only_convolutions(network: nn.Module) -> bool:
    """Tell whether all weights are convolutions': these compute in bf16 as autocast would."""
    owners = [part for part in network.modules() if [*part.parameters(recurse=False)]]
    return all(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in owners)


def _run(
    network: nn.Module, probe_NCHW: Tensor
) -> tuple[Tensor, list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """Run the network once; return its logits, and each convolution whose output a norm takes."""
    makers: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by its output, kept so that ids stay unique
    uses: Counter[nn.Module] = Counter()
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_convolution(part: nn.Module, _: Any, made: Tensor) -> None:
        uses[part] += 1
        if isinstance(part, nn.Conv2d):
            makers[id(made)] = (part, made)

    def before_norm(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        uses[part] += 1
        maker = makers.get(id(given[0]))
        if maker is not None and isinstance(part, nn.BatchNorm2d):
            pairs.append((maker[0], part))

    hooks = [
        part.register_forward_hook(after_convolution)
        for part in network.modules()
        if kind_of(part) in (nn.Conv2d, Conv2dSame)
    ]
    hooks += [
        part.register_forward_pre_hook(before_norm)
        for part in network.modules()
        if type(part) in (nn.BatchNorm2d, BatchNormAct2d)
    ]
    logits_NCHW = network(probe_NCHW)
    for hook in hooks:
        hook.remove()
    return logits_NCHW, [pair for pair in pairs if uses[pair[0]] == uses[pair[1]] == 1]


def _fold(places: Sequence[_Place], convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:  # of the batch: cannot be folded
        return
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    rest: nn.Module = nn.Identity()
    if isinstance(norm, BatchNormAct2d):
        rest = nn.Sequential(cast("nn.Module", norm.drop), cast("nn.Module", norm.act))
    _put(places, rest)


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
