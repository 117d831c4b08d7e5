"""One encoder for any timm backbone -- N images, C channels, H and W pixels of a map."""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """Turn images into feature maps, finest first."""

    def __init__(self, backbone: str, *, in_channels: int, levels: Sequence[int]) -> None:
        super().__init__()
        body: Any = timm.create_model(backbone, pretrained=False, in_chans=in_channels)
        strides = [info["reduction"] for info in body.feature_info]
        taps = [strides.index(2**level) for level in levels]
        channels = [body.feature_info[tap]["num_chs"] for tap in taps]
        self.taps = list(body.prune_intermediate_layers(taps, prune_norm=True, prune_head=True))
        self.body = body
        self.channels = tuple(channels)
        self.strides = tuple(2**level for level in levels)
        self.multiple_px = 32

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        """Return one map a stride, finest first.

        Shapes: H and W of the input are multiples of `multiple_px`.
        """
        return self.body.forward_intermediates(x_NCHW, indices=self.taps, intermediates_only=True)


def probe_input(in_channels: int, size_px: int) -> Tensor:
    """Return an empty image to try a network on."""
    return torch.zeros(1, in_channels, size_px, size_px)
