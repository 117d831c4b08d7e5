"""Any backbone behind any decoder: channels, sizes and depth that it insists on."""

import pytest
import torch

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.networks.network import (
    build_network,
    parameter_groups,
)
from emcfsys_engine.model_card import NetworkSpec
from tests.learn.networks.made import network_of


def test_a_network_of_one_input_size_sees_each_tile_alone() -> None:
    encoder = network_of("upernet", "levit_128s").encoder.eval()
    left_NCHW, right_NCHW = torch.randn(2, 1, 1, 224, 224).unbind()
    with torch.no_grad():
        whole = encoder(torch.cat([left_NCHW, right_NCHW], dim=3))[-1]
        alone = encoder(left_NCHW)[-1]
    torch.testing.assert_close(whole[..., :7], alone)


@pytest.mark.parametrize("in_channels", [2, 5])
def test_any_number_of_channels_can_be_read(in_channels: int) -> None:
    network = network_of("unet", in_channels=in_channels).eval()
    with torch.no_grad():
        assert network(torch.randn(1, in_channels, 40, 40)).shape == (1, 3, 40, 40)


def test_the_detail_stem_of_a_transformer_learns_with_the_decoder() -> None:
    network = network_of("unet", "vit_tiny_patch16_224")
    decoder = [g for g in parameter_groups(network, 0.1) if g["name"].startswith("decoder")]
    held = {id(each) for group in decoder for each in group["params"]}
    assert all(id(each) in held for each in network.encoder.pyramid.parameters())


def test_stochastic_depth_is_refused_where_there_is_none() -> None:
    with pytest.raises(InputError, match=r"drop_path: vgg11 has no stochastic depth"):
        build_network(NetworkSpec(head="unet", backbone="vgg11", num_classes=2, drop_path=0.1))


def test_stochastic_depth_reaches_the_backbone() -> None:
    spec = NetworkSpec(head="unet", backbone="convnext_atto", num_classes=2, drop_path=0.5)
    network = build_network(spec)
    dropped = [m for m in network.modules() if type(m).__name__ == "DropPath"]
    assert max(getattr(m, "drop_prob", 0.0) for m in dropped) == pytest.approx(0.5)
