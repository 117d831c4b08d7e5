"""Networks and tensors that the tests of weights load."""

import timm
import torch
from torch import Tensor

from emcfsys_engine.learn.networks.encoder_plan import maps_of
from emcfsys_engine.learn.networks.network import SegmentationNetwork, build_network
from emcfsys_engine.model_card import NetworkSpec


def network_of(backbone: str, in_channels: int = 3) -> SegmentationNetwork:
    torch.manual_seed(1)
    spec = NetworkSpec(head="unet", backbone=backbone, num_classes=2, in_channels=in_channels)
    return build_network(spec).eval()


Tensors = dict[str, Tensor]


def deepest_map(network: SegmentationNetwork, x_NCHW: Tensor) -> Tensor:
    with torch.no_grad():
        return maps_of(network.encoder.body, x_NCHW, network.encoder.taps)[-1]


def timm_tensors(backbone: str = "resnet10t", **options: object) -> Tensors:
    torch.manual_seed(2)
    return timm.create_model(backbone, pretrained=False, **options).state_dict()
