"""A small network and what a package says of it."""

import torch

from emcfsys_engine.learn.export import ExportMetadata
from emcfsys_engine.learn.networks.network import SegmentationNetwork, build_network
from emcfsys_engine.model_card import Head, NetworkSpec

METADATA = ExportMetadata(name="grain boundaries", class_names=("grain", "grain boundary"))


def network_of(head: Head, backbone: str) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(NetworkSpec(head=head, backbone=backbone, num_classes=2)).eval()
