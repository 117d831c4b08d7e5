"""Maps at the strides a head reads, from the maps a backbone gives.

N images, C channels, H and W pixels of a map. Level n of the pyramid has stride 2**n, or less where
the backbone is dilated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

from emcfsys_engine.learn.networks.encoder_plan import EncoderPlan, Tap


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


DEEPEST_LEVEL = 5
_DETAIL_CHANNELS = {1: 32, 2: 64, 3: 128, 4: 128}
_MOST_CHANNELS = 256  # of a level that is made from a tap of another stride


@dataclass(frozen=True, kw_only=True)
class LevelPlan:
    """Where one level of the pyramid comes from."""

    level: int
    stride: int
    tap: Tap | None  # None: from the image alone

    @property
    def needs_detail(self) -> bool:
        """Whether the convolutional stem adds what the backbone does not resolve."""
        return self.tap is None or (self.tap.stride > self.stride and self.level < DEEPEST_LEVEL)


def plan_levels(plan: EncoderPlan, levels: Sequence[int]) -> tuple[LevelPlan, ...]:
    """Return where each level comes from: the backbone, the convolutional stem, or both."""
    if plan.dilated_stride is not None:
        picked = {level: _dilated_tap(plan, level) for level in levels}
    elif plan.is_plain:
        picked = _plain_taps(plan, levels)
    else:
        picked = {level: _staged_tap(plan, level) for level in levels}
    coarsest = plan.dilated_stride or 2**DEEPEST_LEVEL
    return tuple(
        LevelPlan(level=level, stride=min(2**level, coarsest), tap=picked[level])
        for level in levels
    )


def _dilated_tap(plan: EncoderPlan, level: int) -> Tap | None:
    if level == DEEPEST_LEVEL:
        return plan.taps[-1]
    stride = min(2**level, plan.dilated_stride or 2**level)
    fitting = [tap for tap in plan.taps if tap.stride == stride]
    if level < DEEPEST_LEVEL - 1 or len(fitting) < 2:
        return fitting[-1] if fitting else _staged_tap(plan, level)
    return fitting[-2]  # one stage before the deepest, as without dilation


def _plain_taps(plan: EncoderPlan, levels: Sequence[int]) -> dict[int, Tap | None]:
    """Spread the levels evenly over the depth of a transformer; the coarsest gets the deepest."""
    semantic = [level for level in levels if level > 1]
    picked: dict[int, Tap | None] = dict.fromkeys(levels)
    for position, level in enumerate(semantic, start=1):
        depth = round(len(plan.taps) * position / len(semantic))
        picked[level] = plan.taps[max(depth, 1) - 1]
    return picked


def _staged_tap(plan: EncoderPlan, level: int) -> Tap | None:
    stride = 2**level
    same = [tap for tap in plan.taps if tap.stride == stride]
    coarser = [tap for tap in plan.taps if tap.stride > stride]
    if level == DEEPEST_LEVEL:
        return plan.taps[-1]
    if same:
        return same[-1]
    if len(coarser) == len(plan.taps):
        return None  # finer than anything the backbone resolves
    if not coarser:
        return plan.taps[-1]
    return [tap for tap in coarser if tap.stride == coarser[0].stride][-1]


class Pyramid(nn.Module):
    """Bring a backbone's maps to the strides a head reads, with detail from the image itself.

    Source: the idea of ViTDet's simple feature pyramid (Li et al. 2022, arXiv:2203.16527) with maps
    of several depths, and of a convolutional stem beside a plain transformer (Chen et al. 2023,
    ViT-Adapter, arXiv:2205.08534) without its cross-attention.
    """

    def __init__(self, plans: Sequence[LevelPlan], *, in_channels: int, normalise: bool) -> None:
        super().__init__()
        self.plans = tuple(plans)
        finest = [plan.level for plan in plans if plan.needs_detail]
        self.stem = DetailStem(in_channels, max(finest)) if finest else None
        self.levels = nn.ModuleList([_level(plan, normalise) for plan in plans])
        self.channels = tuple(_channels(plan) for plan in plans)

    def forward(self, x_NCHW: Tensor, maps: dict[int, Tensor]) -> list[Tensor]:
        """Return one map a level.

        Shapes: x N×C×H×W is the padded image; `maps` N×C×h×w are the taps by their index, of about
        their stride; all of the weights' float type or autocast's.
        """
        details = {} if self.stem is None else self.stem(x_NCHW)
        made: list[Tensor] = []
        for plan, level in zip(self.plans, self.levels, strict=True):
            if plan.tap is None:
                made.append(details[plan.level])
                continue
            size = (x_NCHW.shape[-2] // plan.stride, x_NCHW.shape[-1] // plan.stride)
            detail_NCHW = details[plan.level] if plan.needs_detail else None
            made.append(level(maps[plan.tap.index], size, detail_NCHW))
        return made


class DetailStem(nn.Module):
    """A few convolutions on the image at full resolution, for strides a backbone does not have."""

    def __init__(self, in_channels: int, deepest_level: int) -> None:
        super().__init__()
        widths = [in_channels, *(_DETAIL_CHANNELS[n] for n in range(1, deepest_level + 1))]
        self.steps = nn.ModuleList([_halve(given, wanted) for given, wanted in pairwise(widths)])

    def forward(self, x_NCHW: Tensor) -> dict[int, Tensor]:
        """Return the maps by level, 1 = stride 2.

        Shapes: N×C×h×w maps in and out, of the weights' float type or autocast's.
        """
        details: dict[int, Tensor] = {}
        for level, step in enumerate(self.steps, start=1):
            x_NCHW = step(x_NCHW)
            details[level] = x_NCHW
        return details


class SameLevel(nn.Module):
    """A tap that has the level's stride already, give or take a pixel at the border."""

    def __init__(self, channels: int, *, normalise: bool) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels) if normalise else nn.Identity()

    def forward(
        self, map_NCHW: Tensor, size: tuple[int, int], _detail_NCHW: Tensor | None
    ) -> Tensor:
        """Return the map, normalised, at exactly this size.

        Shapes: N×C×h×w maps in and out, of the weights' float type or autocast's.
        """
        return _resampled(self.norm(map_NCHW), size)


class FinerLevel(nn.Module):
    """A tap enlarged to a finer stride, with detail from the stem."""

    def __init__(self, channels: int, detail_channels: int) -> None:
        super().__init__()
        wanted = min(channels, _MOST_CHANNELS)
        self.norm = LayerNorm2d(channels)
        self.meaning = nn.Conv2d(channels, wanted, 1)
        self.detail = nn.Conv2d(detail_channels, wanted, 1)
        self.out = nn.Sequential(group_norm(wanted), nn.GELU())

    def forward(
        self, map_NCHW: Tensor, size: tuple[int, int], detail_NCHW: Tensor | None
    ) -> Tensor:
        """Return the sum of the enlarged tap and the detail.

        Shapes: N×C×h×w maps in and out, of the weights' float type or autocast's.
        """
        assert detail_NCHW is not None, "a finer level has detail"
        meaning_NCHW = _resampled(self.meaning(self.norm(map_NCHW)), size)
        return self.out(meaning_NCHW + self.detail(detail_NCHW))


class CoarserLevel(nn.Module):
    """A tap brought to a coarser stride by one strided convolution."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.shrink = nn.Conv2d(channels, min(channels, _MOST_CHANNELS), factor, stride=factor)
        self.factor = factor

    def forward(
        self, map_NCHW: Tensor, size: tuple[int, int], _detail_NCHW: Tensor | None
    ) -> Tensor:
        """Return the smaller map.

        Shapes: N×C×h×w maps in and out, of the weights' float type or autocast's.
        """
        exact = (size[0] * self.factor, size[1] * self.factor)
        return self.shrink(_resampled(self.norm(map_NCHW), exact))


def _level(plan: LevelPlan, normalise: bool) -> nn.Module:
    tap = plan.tap
    if tap is None:
        return nn.Identity()
    if tap.stride < plan.stride:
        return CoarserLevel(tap.channels, plan.stride // tap.stride)
    if plan.needs_detail:
        return FinerLevel(tap.channels, _DETAIL_CHANNELS[plan.level])
    return SameLevel(tap.channels, normalise=normalise)


def _channels(plan: LevelPlan) -> int:
    if plan.tap is None:
        return _DETAIL_CHANNELS[plan.level]
    is_same = not plan.needs_detail and plan.tap.stride >= plan.stride
    return plan.tap.channels if is_same else min(plan.tap.channels, _MOST_CHANNELS)


def _halve(given: int, wanted: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, wanted, 3, stride=2, padding=1, bias=False),
        group_norm(wanted),
        nn.GELU(),
    )


def _resampled(map_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    # Under tracing the sizes are tensors; a comparison would freeze the example's size.
    if not torch.jit.is_tracing() and tuple(map_NCHW.shape[-2:]) == tuple(size):
        return map_NCHW
    return functional.interpolate(map_NCHW, size=size, mode="bilinear", align_corners=False)
