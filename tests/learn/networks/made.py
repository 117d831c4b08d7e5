"""A small network of any head and backbone."""

import torch

from emcfsys_engine.learn.networks.network import (
    SegmentationNetwork,
    build_network,
)
from emcfsys_engine.model_card import Head, NetworkSpec


def network_of(
    head: Head, backbone: str = "resnet10t", *, auxiliary: bool = False, in_channels: int = 1
) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(
        NetworkSpec(
            head=head,
            backbone=backbone,
            num_classes=3,
            auxiliary=auxiliary,
            in_channels=in_channels,
        )
    )
