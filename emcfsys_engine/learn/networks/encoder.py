"""One encoder for any timm backbone: maps at strides 2 to 32 of an image of any size.

N images, C channels, H and W pixels of a map, G and J rows and columns of tiles.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from emcfsys_engine.learn.networks.encoder_plan import (
    EncoderPlan,
    compute_only_shapes,
    create_body,
    maps_of,
)
from emcfsys_engine.learn.networks.pyramid import DEEPEST_LEVEL, Pyramid, plan_levels

_PROBE_IMAGES = 2
_PROBE_PX = 128  # of the image on which pooled norms and unused parameters are looked for


class Encoder(nn.Module):
    """Turn images into feature maps, one a level, finest first."""

    def __init__(
        self, plan: EncoderPlan, *, in_channels: int, levels: Sequence[int], drop_path: float = 0.0
    ) -> None:
        super().__init__()
        level_plans = plan_levels(plan, levels)
        self.plan = plan
        self.taps = tuple(sorted({each.tap.index for each in level_plans if each.tap}))
        self.body = create_body(plan, drop_path=drop_path)
        _prune(self.body, self.taps)
        found = _inspect(plan, self.taps)
        for name in found.unused:
            self.body.get_parameter(name).requires_grad_(False)
        self._pooled_norms = found.pooled_norms
        self.pyramid = Pyramid(
            level_plans,
            in_channels=in_channels,
            normalise=plan.is_plain or found.loses_norm or not found.batch_norm,
        )
        self.to_rgb = _to_rgb(in_channels, plan.body_channels)
        self.channels = self.pyramid.channels
        self.strides = tuple(each.stride for each in level_plans)
        self.multiple_px = plan.multiple_px
        self.minimum_px = plan.minimum_px

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        """Return one map a level, finest first, of exactly H/stride × W/stride.

        Shapes: N×C×H×W in; H and W are multiples of `multiple_px`, and at least `minimum_px`. The
        image is of the weights' float type, maps of that or autocast's.
        """
        if self.training and self._pooled_norms:
            self._spare_lone_norms(x_NCHW.shape[0])
        body_NCHW = self._shrunk(self.to_rgb(x_NCHW))
        if self.plan.tile_px is None:
            maps = maps_of(self.body, body_NCHW, self.taps)
        else:
            maps = self._tiled_maps(body_NCHW, self.plan.tile_px)
        return self.pyramid(x_NCHW, dict(zip(self.taps, maps, strict=True)))

    def _spare_lone_norms(self, num_images: int) -> None:
        """Let batch norms on 1×1 maps use their running averages when an image is alone."""
        for name in self._pooled_norms:
            self.body.get_submodule(name).train(num_images > 1)

    def _shrunk(self, x_NCHW: Tensor) -> Tensor:
        body, image = self.plan.shrink
        if body == image:
            return x_NCHW
        size = (x_NCHW.shape[-2] * body // image, x_NCHW.shape[-1] * body // image)
        return functional.interpolate(x_NCHW, size=size, mode="bilinear", align_corners=False)

    def _tiled_maps(self, body_NCHW: Tensor, tile_px: int) -> list[Tensor]:
        """Return maps of a backbone of one input size: it sees tile after tile, as a batch."""
        edge = self.plan.body_px(tile_px)
        num, channels, height, width = body_NCHW.shape
        rows, columns = height // edge, width // edge
        tiles_NCGHJW = body_NCHW.reshape(num, channels, rows, edge, columns, edge)
        tiles_NCHW = tiles_NCGHJW.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, edge, edge)
        strides = {tap.index: tap.stride for tap in self.plan.taps}
        whole: list[Tensor] = []
        maps = maps_of(self.body, tiles_NCHW, self.taps)
        for index, map_NCHW in zip(self.taps, maps, strict=True):
            # The deepest level has stride 32: what is coarser is enlarged here, in its tile.
            cells = tile_px // min(strides[index], 2**DEEPEST_LEVEL)
            if map_NCHW.shape[-1] != cells:
                map_NCHW = functional.interpolate(map_NCHW, size=(cells, cells), mode="bilinear")
            map_NGJCHW = map_NCHW.reshape(num, rows, columns, -1, cells, cells)
            whole.append(
                map_NGJCHW.permute(0, 3, 1, 4, 2, 5).reshape(num, -1, rows * cells, columns * cells)
            )
        return whole


class _Findings:
    """What a try-out of a backbone found in it."""

    def __init__(self) -> None:
        self.unused: tuple[str, ...] = ()  # parameters that no map depends on
        self.pooled_norms: tuple[str, ...] = ()  # batch norms on 1×1 maps
        self.batch_norm = False  # whether there is any
        self.loses_norm = False  # whether the maps are taken before a last norm (pre-activation)


def _prune(body: nn.Module, taps: Sequence[int], *, prune_norm: bool = True) -> None:
    prune = getattr(body, "prune_intermediate_layers", None)
    if prune is not None:
        prune(list(taps), prune_norm=prune_norm, prune_head=True)


@lru_cache(maxsize=64)
def _inspect(plan: EncoderPlan, taps: tuple[int, ...]) -> _Findings:
    """Find the parameters that never get a gradient, and batch norms that see 1×1 maps.

    Unused parameters would stop distributed training; they are frozen. Shapes alone are computed,
    on the meta device, where the backbone allows.
    """
    try:
        return _inspect_on("meta", plan, taps)
    except RuntimeError as error:
        if "meta tensors" not in str(error):
            raise
        return _inspect_on("cpu", plan, taps)


def _inspect_on(device: str, plan: EncoderPlan, taps: tuple[int, ...]) -> _Findings:
    found = _Findings()
    pooled: list[str] = []
    with torch.device(device):
        body = create_body(plan)
        _prune(body, taps)
        found.loses_norm = _loses_norm(plan, taps, body)
        for name, module in body.named_modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                found.batch_norm = True
                module.register_forward_pre_hook(_note_pooled(name, pooled))
        if device == "meta":
            compute_only_shapes(body)
        image_px = -(-max(_PROBE_PX, plan.minimum_px) // plan.multiple_px) * plan.multiple_px
        edge = plan.body_px(image_px)
        maps = maps_of(body, torch.zeros(_PROBE_IMAGES, plan.body_channels, edge, edge), taps)
        torch.stack([each.float().sum() for each in maps]).sum().backward()
    found.unused = tuple(name for name, each in body.named_parameters() if each.grad is None)
    found.pooled_norms = tuple(pooled)
    return found


def _loses_norm(plan: EncoderPlan, taps: Sequence[int], pruned: nn.Module) -> bool:
    """Tell whether pruning cut off a last norm and nothing else.

    A second body is pruned for it: some of timm's cannot be pruned twice.
    """
    whole = create_body(plan)
    _prune(whole, taps, prune_norm=False)
    kept = dict(pruned.named_parameters())
    lost = [each for name, each in whole.named_parameters() if name not in kept]
    return bool(lost) and all(each.ndim == 1 for each in lost)


def _note_pooled(name: str, pooled: list[str]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        num_values = inputs[0].numel() // inputs[0].shape[1]  # the norm's average is over these
        if num_values <= _PROBE_IMAGES:
            pooled.append(name)

    return note


def _to_rgb(in_channels: int, body_channels: int) -> nn.Module:
    if in_channels == body_channels:
        return nn.Identity()
    if in_channels == 1:
        return _Grey(body_channels)
    return nn.Conv2d(in_channels, body_channels, 1)


class _Grey(nn.Module):
    """Show a grey image to a backbone that insists on colour."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x_N1HW: Tensor) -> Tensor:
        return x_N1HW.repeat(1, self.channels, 1, 1)
