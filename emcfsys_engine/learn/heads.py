"""The four decoders, on maps from any encoder -- N images, C channels, H and W pixels of a map."""

from collections.abc import Sequence
from typing import Any, Literal

from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from emcfsys_engine.learn.backbones import Norm

Head = Literal["unet", "pspnet", "deeplabv3plus", "upernet"]

# Levels of the pyramid that a head reads: level n has stride 2**n (the deepest may be dilated).
LEVELS: dict[Head, tuple[int, ...]] = {
    "unet": (1, 2, 3, 4, 5),
    "pspnet": (3,),
    "deeplabv3plus": (2, 4),
    "upernet": (2, 3, 4, 5),
}
DECODER_CHANNELS: dict[Head, int] = {
    "unet": 16,
    "pspnet": 512,
    "deeplabv3plus": 256,
    "upernet": 256,
}
_UNET_CHANNELS = (256, 128, 64, 32, 16)
AUXILIARY_LEVEL = 4


class Decoder(nn.Module):
    """One of smp's decoders, fed with the maps its head reads."""

    def __init__(
        self, head: Head, channels: Sequence[int], *, in_channels: int, norm: Norm
    ) -> None:
        super().__init__()
        self.head = head
        self.blocks = _smp_decoder(head, channels, in_channels)
        use_group_norm(self.blocks, everywhere=norm == "group")

    def forward(self, x_NCHW: Tensor, maps: list[Tensor]) -> Tensor:
        """Return the map from which the classes are told.

        Shapes: maps are those of LEVELS[head], finest first; x is the padded image.
        """
        match self.head:
            case "unet":
                return self.blocks([x_NCHW, *maps])
            case "pspnet":
                return self.blocks(maps)
            case "deeplabv3plus":
                return self.blocks([x_NCHW, x_NCHW, *maps])
            case "upernet":
                return self.blocks([x_NCHW, x_NCHW, *maps])


def _smp_decoder(head: Head, channels: Sequence[int], in_channels: int) -> nn.Module:
    match head:
        case "unet":
            return UnetDecoder(
                encoder_channels=(in_channels, *channels), decoder_channels=_UNET_CHANNELS
            )
        case "pspnet":
            return PSPDecoder(encoder_channels=list(channels))
        case "deeplabv3plus":
            return DeepLabV3PlusDecoder(
                encoder_channels=(in_channels, in_channels, *channels),
                encoder_depth=4,
                out_channels=256,
                atrous_rates=(12, 24, 36),
                output_stride=16,
                aspp_separable=True,
                aspp_dropout=0.1,
            )
        case "upernet":
            return UPerNetDecoder(encoder_channels=(in_channels, in_channels, *channels))


def auxiliary_head(channels: int, num_classes: int, norm: Norm) -> nn.Module:
    """Return the small head that is also trained on the stride-16 map, and never used afterwards."""
    width = max(32, min(256, channels // 4))
    head = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.1),
        nn.Conv2d(width, num_classes, 1),
    )
    use_group_norm(head, everywhere=norm == "group")
    return head


def use_group_norm(module: nn.Module, *, everywhere: bool) -> None:
    """Replace batch norms by group norms: all of them, or those behind a global pooling.

    A batch norm has nothing to average over when a map is 1×1 and the micro-batch 1.
    """
    _replace_norms(module, everywhere)


def _replace_norms(module: nn.Module, replace: bool) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            if replace:
                setattr(module, name, group_norm(child.num_features))
        else:
            _replace_norms(child, replace or _pools(child))


def _pools(module: nn.Module) -> bool:
    """Tell whether this block pools to a fixed size before it normalises."""
    first: Any = next(iter(module.children()), None)
    return isinstance(first, nn.AdaptiveAvgPool2d)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group norm with up to 32 groups of at least 4 channels."""
    groups = next(
        g for g in (32, 16, 8, 4, 2, 1) if (channels % g == 0 and channels // g >= 4) or g == 1
    )
    return nn.GroupNorm(groups, channels)
