"""Convolutions for the processor: weights laid out as oneDNN wants them once, not in every pass.

N images, C channels, H and W pixels.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

_PROBE_PX = 96
_TOLERANCE = 0.02  # of the largest logit: some units of the last place of bf16
# oneDNN's names of activations that are the same to the bit before and after rounding to bf16.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


def packed(network: nn.Module, in_channels: int) -> nn.Module:
    """Return the network with packed convolutions that do the ReLU after them as well.

    Which activation takes a convolution's output is seen in a trial run, and the result is tried
    against the network as it was: one that differs by more than rounding, or a torch without these
    operations, gives the network back as it was.
    Shapes: the network is in eval mode, on the CPU; so is the result, which only infers.
    Source: what torch.compile with frozen weights makes of convolutions (torch._inductor, mkldnn),
            without a compiler and for tiles of any size.
    """
    if not torch.backends.mkldnn.is_available():
        return network
    generator = torch.Generator().manual_seed(0)
    probe_NCHW = torch.randn((2, in_channels, _PROBE_PX, _PROBE_PX), generator=generator)
    probe_NCHW = probe_NCHW.to(next(network.parameters()).dtype)
    probe_NCHW = probe_NCHW.contiguous(memory_format=torch.channels_last)
    made = copy.deepcopy(network)
    try:
        with torch.no_grad():
            before_NCHW, takers = _run(made, probe_NCHW)
            _replace(made, takers)
            after_NCHW = made(probe_NCHW)
    except (AttributeError, RuntimeError, NotImplementedError):  # these operations are not public
        return network
    error, scale = (after_NCHW - before_NCHW).abs().max(), before_NCHW.abs().max()
    return made if bool(error <= _TOLERANCE * scale) else network


class _PackedConvolution(nn.Module):
    """A convolution and the activation after it. Shapes: N×C×H×W."""

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self._pads = [int(pad) for pad in convolution.padding]
        self._stride = list(convolution.stride)
        self._dilation = list(convolution.dilation)
        self._groups = convolution.groups
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        self._after = _after(activation)
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            convolution.weight.detach(), self._pads, self._stride, self._dilation, self._groups
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x_NCHW, self._weight, self._bias, self._pads, self._stride, self._dilation,
            self._groups, *self._after,
        )  # fmt: skip


class _PackedProduct(nn.Module):
    """A 1×1 convolution as the matrix product it is, and the activation after it. Shapes: N×C×H×W.

    oneDNN's layout of 1×1 convolutions depends on the map's size: weights packed for maps of
    another size are laid out anew in every pass, which takes up to 40 times the convolution.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self._step_h, self._step_w = convolution.stride
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        self._after = _after(activation)
        weight_KC = convolution.weight.detach()[:, :, 0, 0].contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_KC)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NHWC = x_NCHW.permute(0, 2, 3, 1)
        if (self._step_h, self._step_w) != (1, 1):
            x_NHWC = x_NHWC[:, :: self._step_h, :: self._step_w].contiguous()
        made_NHWK = torch.ops.mkldnn._linear_pointwise(
            x_NHWC, self._weight, self._bias, *self._after
        )
        return made_NHWK.permute(0, 3, 1, 2)


def _after(activation: nn.Module | None) -> tuple[str, list[float], str]:
    """Return oneDNN's words for an activation."""
    name, numbers = (
        ("none", list[float]()) if activation is None else _ACTIVATIONS[type(activation)]
    )
    return name, numbers, ""


def _is_product(convolution: nn.Conv2d) -> bool:
    """Tell whether a convolution mixes channels only."""
    alone = convolution.kernel_size == (1, 1) and convolution.padding == (0, 0)
    return alone and convolution.groups == 1


def _run(
    network: nn.Module, probe_NCHW: Tensor
) -> tuple[Tensor, dict[nn.Conv2d, nn.Module | None]]:
    """Run the network once; return its logits, and what each plain convolution is followed by."""
    makers: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by its output, kept so that ids stay unique
    takers: dict[nn.Conv2d, nn.Module | None] = {}
    used: list[nn.Module] = []

    def after_convolution(part: nn.Module, _: Any, made: Tensor) -> None:
        assert isinstance(part, nn.Conv2d)
        used.append(part)
        takers[part] = None
        makers[id(made)] = (part, made)

    def before_activation(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        used.append(part)
        maker = makers.get(id(given[0]))
        if maker is not None:
            takers[maker[0]] = part

    hooks = [
        part.register_forward_hook(after_convolution)
        for part in network.modules()
        if type(part) is nn.Conv2d and part.padding_mode == "zeros" and part.padding != "same"
    ]
    hooks += [
        part.register_forward_pre_hook(before_activation)
        for part in network.modules()
        if type(part) in _ACTIVATIONS
    ]
    logits_NCHW = network(probe_NCHW).clone()
    for hook in hooks:
        hook.remove()
    for convolution, taker in takers.items():
        if taker is not None and (used.count(convolution), used.count(taker)) != (1, 1):
            takers[convolution] = None
    return logits_NCHW, takers


def _replace(network: nn.Module, takers: dict[nn.Conv2d, nn.Module | None]) -> None:
    new: dict[nn.Module, nn.Module] = {}
    for convolution, taker in takers.items():
        kind = _PackedProduct if _is_product(convolution) else _PackedConvolution
        new[convolution] = kind(convolution, taker)
        if taker is not None:
            new[taker] = nn.Identity()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in new:
                setattr(parent, name, new[child])
