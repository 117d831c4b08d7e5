"""What the decoders are built of: norms, dilated convolutions, means of regions."""

import copy

import pytest
import torch
from torch import Tensor, nn

from emcfsys_engine.learn.networks.heads import RegionMean
from emcfsys_engine.learn.networks.network import (
    build_network,
    learn_dilated_in_full_precision,
)
from emcfsys_engine.model_card import NetworkSpec


def test_group_norm_leaves_no_batch_norm_in_the_decoder() -> None:
    spec = NetworkSpec(head="deeplabv3plus", backbone="resnet10t", num_classes=2, norm="group")
    decoder = build_network(spec).decoder
    assert not [m for m in decoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 16, 80])
def test_a_dilated_convolution_learns_the_same_in_bfloat16(dilation: int, groups: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(80, 80, 3, padding=dilation, dilation=dilation, groups=groups)
    network = nn.Sequential(convolution).to(memory_format=torch.channels_last)
    learn_dilated_in_full_precision(network)
    x = torch.randn(4, 80, 32, 32).contiguous(memory_format=torch.channels_last)
    towards = torch.randn(4, 80, 32, 32)
    found: list[Tensor] = []
    for is_low in (False, True):
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
            y = network(x)
        (y.float() * towards).sum().backward()
        assert convolution.weight.grad is not None
        found.append(convolution.weight.grad)
    assert (found[0] - found[1]).norm() < 0.02 * found[0].norm()


def test_every_dilated_convolution_of_a_network_is_guarded_and_keeps_its_name() -> None:
    spec = NetworkSpec(head="deeplabv3plus", backbone="convnext_atto", num_classes=2)
    network = copy.deepcopy(build_network(spec))
    dilated = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.dilation) > 1
    ]
    assert len(dilated) > 3
    assert all(type(module).forward is not nn.Conv2d.forward for module in dilated)
    assert {type(module).__name__ for module in dilated} == {"Conv2d"}


@pytest.mark.parametrize("length", [1, 2, 5, 7, 12, 13])
@pytest.mark.parametrize("num_regions", [2, 3, 6])
def test_region_means_as_matrix_products_equal_adaptive_pooling(
    length: int, num_regions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_NCHW = torch.randn(2, 3, length, length + 4, dtype=torch.float64)
    expected_NCHW = torch.nn.functional.adaptive_avg_pool2d(x_NCHW, num_regions)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(RegionMean(num_regions)(x_NCHW), expected_NCHW)
