"""The network we train: any timm backbone under one of four heads.

N images, C channels or classes, H and W pixels.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.networks.backbones import check_backbone
from emcfsys_engine.learn.networks.encoder import Encoder
from emcfsys_engine.learn.networks.encoder_plan import plan_encoder
from emcfsys_engine.learn.networks.heads import (
    AUXILIARY_LEVEL,
    DECODER_CHANNELS,
    DILATED_STRIDE,
    Decoder,
    auxiliary_head,
    levels_of,
)
from emcfsys_engine.model_card import NetworkSpec


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


__all__ = ["NetworkSpec", "SegmentationNetwork", "build_network", "parameter_groups"]


_LEVELS = "encoder.pyramid.levels."


class SegmentationNetwork(nn.Module):
    """A network that gives every pixel of an image of any size its class scores."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        plan = plan_encoder(spec.backbone, spec.in_channels, DILATED_STRIDE.get(spec.head))
        head_levels = levels_of(spec.head, dilated=plan.dilated_stride is not None)
        levels = sorted({*head_levels, AUXILIARY_LEVEL} if spec.auxiliary else head_levels)
        self.encoder = Encoder(
            plan, in_channels=spec.in_channels, levels=levels, drop_path=spec.drop_path
        )
        self._for_head = [levels.index(level) for level in head_levels]
        channels = [self.encoder.channels[i] for i in self._for_head]
        self.decoder = Decoder(spec.head, channels, in_channels=spec.in_channels, norm=spec.norm)
        kernel_px = 3 if spec.head in ("unet", "pspnet") else 1
        width = DECODER_CHANNELS[spec.head]
        channels_out = spec.num_classes + spec.num_planes
        self.head = nn.Conv2d(width, channels_out, kernel_px, padding=kernel_px // 2)
        self.auxiliary_head: nn.Module | None = None
        if spec.auxiliary:
            self._for_auxiliary = levels.index(AUXILIARY_LEVEL)
            width = self.encoder.channels[self._for_auxiliary]
            self.auxiliary_head = auxiliary_head(width, spec.num_classes, spec.norm)
        learn_dilated_in_full_precision(self)

    @property
    def tile_step_px(self) -> int:
        """Multiples of it are sides that are not padded; 0: its backbone has sides of its own."""
        plan = self.encoder.plan
        return 0 if plan.tile_px is not None else plan.multiple_px

    @property
    def is_local(self) -> bool:
        """Whether what lies far from a pixel has no part in its scores: no attention, no pyramid.

        Squeeze-and-excitation takes the mean of a whole tile; that of a larger one is steadier.
        """
        attends = any("attn" in name for name, _ in self.encoder.named_modules())
        return self.spec.head == "unet" and not attends

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return class scores (logits) for each pixel, and those of the planes of objects.

        Shapes: x is N×1×H×W or N×3×H×W of the weights' float type, at least 32×32; the logits have
        exactly its height and width: N×C×H×W of that type or autocast's, of which the last
        `num_planes` channels are distance and border of objects.
        """
        padded_NCHW = self._padded(x_NCHW)
        maps = self.encoder(padded_NCHW)
        return self._scores(padded_NCHW, maps, x_NCHW)

    def forward_with_auxiliary(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and those of the auxiliary head where there is one.

        Shapes: both as in `forward`; the auxiliary head has no planes of objects.
        """
        padded_NCHW = self._padded(x_NCHW)
        maps = self.encoder(padded_NCHW)
        logits_NCHW = self._scores(padded_NCHW, maps, x_NCHW)
        if self.auxiliary_head is None:
            return logits_NCHW, None
        auxiliary_NCHW = self.auxiliary_head(maps[self._for_auxiliary])
        return logits_NCHW, _at_full_size(auxiliary_NCHW, padded_NCHW, x_NCHW)

    def inference_state(self) -> dict[str, Tensor]:
        """Return the weights as a network without auxiliary head names them.

        The auxiliary head reads a level of the pyramid that some heads do not: what is only there
        for it is left out, and the levels are numbered anew.
        Shapes: those of `state_dict`, dtype kept.
        """
        state = self.state_dict()
        if self.auxiliary_head is None:
            return state
        numbers = {str(old): str(new) for new, old in enumerate(self._for_head)}
        kept: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if name.startswith(_LEVELS):
                number, _, rest = name.removeprefix(_LEVELS).partition(".")
                if number in numbers:
                    kept[f"{_LEVELS}{numbers[number]}.{rest}"] = tensor
            elif not name.startswith("auxiliary_head."):
                kept[name] = tensor
        return kept

    def _padded(self, x_NCHW: Tensor) -> Tensor:
        height_px, width_px = x_NCHW.shape[-2:]
        right_px, below_px = self._extra(width_px), self._extra(height_px)
        if not torch.jit.is_tracing() and right_px == 0 and below_px == 0:
            return x_NCHW
        # The border is repeated: zeros would draw an edge that no specimen has.
        return functional.pad(x_NCHW, (0, right_px, 0, below_px), mode="replicate")

    def _extra(self, edge_px: int) -> int:
        multiple_px, minimum_px = self.encoder.multiple_px, self.encoder.minimum_px
        # Under tracing edge_px is a tensor, for which max() would freeze the example's size.
        enlarge: Any = torch.clamp if isinstance(edge_px, Tensor) else torch.sym_max
        wanted_px = enlarge(edge_px, minimum_px)
        return wanted_px + -wanted_px % multiple_px - edge_px

    def _scores(self, padded_NCHW: Tensor, maps: list[Tensor], x_NCHW: Tensor) -> Tensor:
        decoded_NCHW = self.decoder(padded_NCHW, [maps[i] for i in self._for_head])
        return _at_full_size(self.head(decoded_NCHW), padded_NCHW, x_NCHW)


def build_network(spec: NetworkSpec) -> SegmentationNetwork:
    """Return a network with random weights; nothing is downloaded.

    Raises: InputError for a backbone that timm does not know, or a spec without sense.
    """
    check_backbone(spec.backbone)
    if spec.num_classes < 1 or spec.in_channels < 1:
        raise InputError(
            "model", f"{spec.num_classes} classes and {spec.in_channels} channels make no network"
        )
    return SegmentationNetwork(spec)


def parameter_groups(network: SegmentationNetwork, weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimiser's groups: encoder and decoder, each with and without weight decay.

    The encoder is what can be pretrained; its pyramid starts from nothing and learns with the
    decoder. Biases, norms and other vectors are not decayed. Each group has a `name`:
    encoder/decay, encoder/plain, decoder/decay or decoder/plain; empty groups are left out.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "encoder" if name.startswith("encoder.body.") else "decoder"
        kind = "decay" if parameter.ndim > 1 else "plain"
        groups.setdefault(f"{part}/{kind}", []).append(parameter)
    return [
        {
            "name": name,
            "params": parameters,
            "weight_decay": weight_decay if name.endswith("/decay") else 0.0,
        }
        for name, parameters in sorted(groups.items())
    ]


def _at_full_size(scores_NCHW: Tensor, padded_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
    """Return the scores enlarged to the padded image and cut to the image."""
    size = padded_NCHW.shape[-2:]
    if scores_NCHW.shape[-2:] != size:
        scores_NCHW = functional.interpolate(
            scores_NCHW, size=size, mode="bilinear", align_corners=False
        )
    return scores_NCHW[..., : x_NCHW.shape[-2], : x_NCHW.shape[-1]]
