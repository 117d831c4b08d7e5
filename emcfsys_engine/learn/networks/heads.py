"""The four decoders, on maps from any encoder -- N images, C channels, H and W pixels of a map."""

from collections.abc import Sequence
from typing import Any

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPBlock, PSPDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn
from torch.nn import functional

from emcfsys_engine.learn.networks.pyramid import use_group_norm
from emcfsys_engine.model_card import Head, Norm


class RegionMean(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling whose exported graph still follows the size of the map.

    ONNX has no adaptive pooling: exporters write down the example's windows, which are silently
    wrong at another size. As two matrix products it has no windows.
    """

    def __init__(self, num_regions: int) -> None:
        super().__init__(num_regions)
        self.num_regions = num_regions

    def forward(self, input: Tensor) -> Tensor:
        """Return the mean of each region.

        Shapes: N×C×H×W of any float type in, N×C×regions×regions out, dtype kept.
        """
        if not torch.compiler.is_exporting():
            return super().forward(input)
        rows_PH = self._weights(input.shape[-2], input)
        columns_PW = self._weights(input.shape[-1], input)
        return rows_PH @ input @ columns_PW.transpose(0, 1)

    def _weights(self, length: int, like: Tensor) -> Tensor:
        region_P1 = torch.arange(self.num_regions, device=like.device)[:, None]
        first_P1 = region_P1 * length // self.num_regions
        last_P1 = ((region_P1 + 1) * length + self.num_regions - 1) // self.num_regions
        cell = torch.arange(length, device=like.device)[None]
        inside_PL = ((cell >= first_P1) & (cell < last_P1)).to(like.dtype)
        return inside_PL / inside_PL.sum(dim=1, keepdim=True)


class PooledBranch(nn.Module):
    """smp's PSPBlock without its two special cases for export, under the same parameter names."""

    def __init__(self, block: PSPBlock) -> None:
        super().__init__()
        self.pool = block.pool

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the means over regions, enlarged to the map's size.

        Shapes: N×C×h×w in and out, of the weights' float type or autocast's.
        """
        pooled_NCHW = self.pool(x_NCHW)
        size = x_NCHW.shape[-2:]
        return functional.interpolate(pooled_NCHW, size=size, mode="bilinear", align_corners=True)


def make_exportable(module: nn.Module) -> None:
    """Replace smp's poolings by ones whose graph follows the size of the map."""
    for name, child in module.named_children():
        if isinstance(child, PSPBlock):
            branch = PooledBranch(child)
            setattr(module, name, branch)
            make_exportable(branch)
        elif isinstance(child, nn.AdaptiveAvgPool2d):
            # smp gives one number for both axes, or a pair of equal ones.
            size: Any = child.output_size
            num_regions = int(size if isinstance(size, int) else size[0])
            if num_regions > 1:
                setattr(module, name, RegionMean(num_regions))
        else:
            make_exportable(child)


# Deepest stride as published; backbones that cannot be dilated give their stride-16 map.
DILATED_STRIDE: dict[Head, int] = {"pspnet": 8, "deeplabv3plus": 16}
DECODER_CHANNELS: dict[Head, int] = {
    "unet": 16,
    "pspnet": 512,
    "deeplabv3plus": 256,
    "upernet": 256,
}
_UNET_CHANNELS = (256, 128, 64, 32, 16)
AUXILIARY_LEVEL = 4


def levels_of(head: Head, *, dilated: bool) -> tuple[int, ...]:
    """Return the levels of the pyramid that a head reads: level n has stride 2**n.

    The deepest one is used where it is dilated to a finer stride, else the one before.
    """
    match head:
        case "unet":
            return (1, 2, 3, 4, 5)
        case "upernet":
            return (2, 3, 4, 5)
        case "deeplabv3plus":
            return (2, 5 if dilated else 4)
        case "pspnet":
            return (5 if dilated else 4,)


class Decoder(nn.Module):
    """One of smp's decoders, fed with the maps its head reads."""

    def __init__(
        self, head: Head, channels: Sequence[int], *, in_channels: int, norm: Norm
    ) -> None:
        super().__init__()
        self.head: Head = head
        # smp's PSP module splits the channels into four and loses what does not divide.
        odd = head == "pspnet" and channels[-1] % 4
        even = -(-channels[-1] // 4) * 4
        self.widen = nn.Conv2d(channels[-1], even, 1) if odd else nn.Identity()
        self.blocks = _smp_decoder(head, (*channels[:-1], even) if odd else channels, in_channels)
        use_group_norm(self.blocks, everywhere=norm == "group")
        make_exportable(self.blocks)

    def forward(self, x_NCHW: Tensor, maps: list[Tensor]) -> Tensor:
        """Return the feature map that the class scores are computed from.

        Shapes: maps N×C×h×w are those of `levels_of(head)`, finest first; x N×C×H×W is the padded
        image; the result is N×C×h×w. All are of the weights' float type or autocast's.
        """
        match self.head:
            case "unet":
                return self.blocks([x_NCHW, *maps])
            case "pspnet":
                return self.blocks([self.widen(maps[-1])])
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
    """Return the small head on the stride-16 map that is used in training only."""
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
