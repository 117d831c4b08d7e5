"""How a timm backbone can be made to read images of any size, found without computing anything.

Backbones differ in what they accept: any size, multiples of their windows, or one size only. Each
is tried on torch's meta device, where shapes are worked out and no number is; that takes a fraction
of a second, downloads nothing, and fits backbones that timm will add tomorrow.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.networks.backbones import check_backbone

_Size = tuple[int, int]

# Multiples of the input that windowed networks want, gentlest first: 224 = 32 × a window of 7.
_MULTIPLES_PX = (32, 64, 128, 224, 256, 384)
_MINIMA_PX = (
    64,
    128,
    192,
    256,
)  # at 64 the stride-32 map is 2×2: a batch norm has more than one value
_RGB = 3

# Networks that take any size without complaint and look up positions they have no entry for: the
# meta device computes no index, so this cannot be seen there. They are fed in tiles of their size.
_ONE_SIZE_FAMILIES = frozenset({"MultiScaleVit"})


@dataclass(frozen=True, kw_only=True)
class Tap:
    """One intermediate map of a backbone."""

    index: int  # as forward_intermediates counts
    channels: int
    stride: int  # in pixels of the padded image, a power of two; the map is resampled onto it


@dataclass(frozen=True, kw_only=True)
class EncoderPlan:
    """How one backbone is built and fed."""

    backbone: str
    options: tuple[tuple[str, Any], ...]  # of timm.create_model
    body_channels: int  # what the backbone reads; a grey image is repeated where it insists on RGB
    multiple_px: int  # the image is padded to multiples of this
    minimum_px: int  # and at least to this
    shrink: tuple[int, int]  # backbone pixels, image pixels: (14, 16) brings patches of 14 onto 16
    tile_px: int | None  # a backbone of one input size sees the padded image in tiles of this
    taps: tuple[Tap, ...]
    dilated_stride: int | None  # 8 or 16 where the deepest stages are dilated to that stride

    @property
    def is_plain(self) -> bool:
        """Whether all maps have one stride, as in a plain vision transformer."""
        return len({tap.stride for tap in self.taps}) == 1

    def body_px(self, image_px: int) -> int:
        """Return how many pixels the backbone sees of so many of the image."""
        body, image = self.shrink
        return image_px * body // image


@lru_cache(maxsize=64)
def plan_encoder(backbone: str, in_channels: int, output_stride: int | None = None) -> EncoderPlan:
    """Return how to build and feed a backbone; `output_stride` is asked for, not promised.

    Raises: InputError for a name timm does not know, or a backbone that gives no maps.
    """
    check_backbone(backbone)
    failures: list[str] = []
    plan = _plan_on("meta", backbone, in_channels, output_stride, failures)
    if plan is None and any("meta tensors" in failure for failure in failures):
        # The network looks at its numbers while it runs (Gemma's vision transformer does).
        plan = _plan_on("cpu", backbone, in_channels, output_stride, failures)
    if plan is None:
        raise InputError(
            backbone,
            f"this backbone gives no feature maps ({failures[-1]})",
            "Choose another one: emcfsys-engine models",
        )
    return plan


def _plan_on(
    device: str, backbone: str, in_channels: int, output_stride: int | None, failures: list[str]
) -> EncoderPlan | None:
    for channels in dict.fromkeys((in_channels, _RGB)):
        for options in _option_sets(output_stride):
            body = _body_on(device, check_backbone(backbone), channels, options, failures)
            if body is None:
                continue
            plan = _fitting_plan(backbone, body, channels, options, failures)
            if plan is not None:
                return plan
    return None


def create_body(
    plan: EncoderPlan, *, drop_path: float = 0.0, pretrained: bool = False
) -> nn.Module:
    """Return timm's network as planned, without its classifier.

    Raises: InputError where drop_path is asked of a network without stochastic depth.
    """
    options = dict(plan.options)
    if drop_path:
        options["drop_path_rate"] = drop_path
    try:
        return timm.create_model(
            check_backbone(plan.backbone) if not pretrained else plan.backbone,
            pretrained=pretrained,
            in_chans=plan.body_channels,
            num_classes=0,
            **options,
        )
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise InputError(
            "model.drop_path", f"{plan.backbone} has no stochastic depth", "Set it to 0"
        ) from error


def maps_of(body: Any, x_NCHW: Tensor, taps: Sequence[int] | None) -> list[Tensor]:
    """Return a backbone's intermediate maps, all of them or those asked for.

    Shapes: N×1×H×W or N×3×H×W of the weights' float type in; each map N×C×h×w, of that or
    autocast's.
    """
    indices = None if taps is None else list(taps)
    return body.forward_intermediates(x_NCHW, indices=indices, intermediates_only=True)


def _option_sets(output_stride: int | None) -> Iterator[dict[str, Any]]:
    if output_stride is not None:
        yield {"output_stride": output_stride}
    yield {"dynamic_img_size": True}
    yield {}


def _body_on(
    device: str, architecture: str, channels: int, options: dict[str, Any], failures: list[str]
) -> nn.Module | None:
    try:
        with torch.device(device), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*in_chans.*")  # it may not work: refused
            body = timm.create_model(
                architecture, pretrained=False, in_chans=channels, num_classes=0, **options
            )
    except Exception as error:
        failures.append(_first_line(error))  # most often: this network has no such option
        return None
    if device == "meta":
        compute_only_shapes(body)
    return body


def _fitting_plan(
    backbone: str, body: Any, channels: int, options: dict[str, Any], failures: list[str]
) -> EncoderPlan | None:
    if type(body).__name__ in _ONE_SIZE_FAMILIES:
        return _tiled_plan(backbone, body, channels, options, failures)
    patch_px = int(body.feature_info[0]["reduction"])
    grid_px = _nearest_power(patch_px)
    for multiple_px in _MULTIPLES_PX:
        for minimum_px in _MINIMA_PX:
            if multiple_px % grid_px or (multiple_px > 32 and minimum_px > _MINIMA_PX[0]):
                continue  # larger minima are for networks without windows that lose their border
            start_px = math.ceil(minimum_px / multiple_px) * multiple_px
            sizes = [
                (start_px, start_px),
                (start_px + multiple_px, start_px),
                (2 * start_px, 3 * start_px + multiple_px),
            ]
            shrink = (patch_px, grid_px)
            taps = _taps_at(body, channels, sizes, shrink, failures)
            if taps and taps[-1].stride != options.get("output_stride", taps[-1].stride):
                failures.append("it takes output_stride, and does not follow it")
                return None
            if taps:
                return EncoderPlan(
                    backbone=backbone,
                    options=tuple(options.items()),
                    body_channels=channels,
                    multiple_px=multiple_px,
                    minimum_px=start_px,
                    shrink=shrink,
                    tile_px=None,
                    taps=taps,
                    dilated_stride=options.get("output_stride"),
                )
    return (
        None
        if "output_stride" in options
        else _tiled_plan(backbone, body, channels, options, failures)
    )


def _tiled_plan(
    backbone: str, body: Any, channels: int, options: dict[str, Any], failures: list[str]
) -> EncoderPlan | None:
    """Return a plan for a network that reads one size only: in tiles of that size."""
    body_px = int(body.pretrained_cfg["input_size"][-1])
    patch_px = int(body.feature_info[0]["reduction"])
    wanted_px = body_px * _nearest_power(patch_px) / patch_px
    tile_px = math.ceil(wanted_px / 32) * 32
    shrink = (body_px, tile_px)
    taps = _taps_at(body, channels, [(tile_px, tile_px)], shrink, failures)
    if not taps:
        return None
    return EncoderPlan(
        backbone=backbone,
        options=tuple(options.items()),
        body_channels=channels,
        multiple_px=tile_px,
        minimum_px=tile_px,
        shrink=shrink,
        tile_px=tile_px,
        taps=taps,
        dilated_stride=None,
    )


def _taps_at(
    body: Any, channels: int, sizes: Sequence[_Size], shrink: _Size, failures: list[str]
) -> tuple[Tap, ...]:
    """Return the maps that keep the image's proportions at all sizes, or none if one is refused."""
    found: list[tuple[Tap, ...]] = []
    for height_px, width_px in sizes:
        shape = (2, channels, height_px * shrink[0] // shrink[1], width_px * shrink[0] // shrink[1])
        try:
            device = next(body.parameters()).device
            # Networks that make a tensor on the way make it on the default device.
            with torch.no_grad(), torch.device(device):
                maps = maps_of(body, torch.zeros(shape), None)
        except Exception as error:
            failures.append(_first_line(error))
            return ()
        found.append(
            tuple(_tap(index, each, (height_px, width_px)) for index, each in enumerate(maps))
        )
        is_even = all(_keeps_proportions(each, (height_px, width_px)) for each in maps)
        if not is_even or found[-1] != found[0]:
            failures.append("its maps do not follow the size of the image")
            return ()
    return found[0]


def _tap(index: int, map_NCHW: Tensor, size: _Size) -> Tap:
    stride = math.sqrt(size[0] / map_NCHW.shape[-2] * size[1] / map_NCHW.shape[-1])
    return Tap(index=index, channels=map_NCHW.shape[1], stride=_nearest_power(stride))


def _keeps_proportions(map_NCHW: Tensor, size: _Size) -> bool:
    """Whether both axes have one stride, give or take what unpadded convolutions cost."""
    height, width = map_NCHW.shape[-2:]
    lost = 2.5
    expected = height * size[1] / size[0]
    return abs(expected - width) <= lost + 0.05 * width


def _nearest_power(stride: float) -> int:
    return 2 ** round(math.log2(max(stride, 1)))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__


# Spare a network whose shapes alone are asked for the layers that change none.
#
# On the meta device torch works out a norm or an activation in Python, by a dozen operations each:
# five sixths of the time that a network takes to tell the shapes of its maps.

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
