"""Means over a fixed number of regions of a map of any size, in a form that can be exported.

N images, C channels, H and W pixels of a map, P regions an axis.
"""

from typing import Any

import torch
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPBlock
from torch import Tensor, nn
from torch.nn import functional


class RegionMean(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling whose exported graph still follows the size of the map.

    ONNX has no adaptive pooling: exporters write down the example's windows, which are silently
    wrong at another size. As two matrix products it has no windows.
    """

    def __init__(self, num_regions: int) -> None:
        super().__init__(num_regions)
        self.num_regions = num_regions

    def forward(self, input: Tensor) -> Tensor:
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
        """Return the means over regions, enlarged to the map's size."""
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
