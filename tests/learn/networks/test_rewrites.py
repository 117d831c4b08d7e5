"""Folded networks answer as they did."""

import pytest
import torch
from torch import nn

from emcfsys_engine.learn.networks import rewrites
from emcfsys_engine.learn.networks.network import SegmentationNetwork, build_network
from emcfsys_engine.learn.networks.rewrites import folded, is_only_convolutions
from emcfsys_engine.model_card import NetworkSpec


def _trained(head: str, backbone: str) -> SegmentationNetwork:
    """Return a network whose norms have statistics, as after training."""
    torch.manual_seed(0)
    network = build_network(NetworkSpec(head=head, backbone=backbone, num_classes=3)).eval()  # type: ignore[arg-type]
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
    return network


def _norms(network: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


@pytest.mark.parametrize(
    ("head", "backbone"),
    [
        ("unet", "resnet18"),
        ("unet", "tf_efficientnet_lite0"),
        ("deeplabv3plus", "resnet18"),
        ("upernet", "mobilenetv3_small_050"),
        ("pspnet", "regnetx_002"),
    ],
)
def test_norms_go_and_every_pixel_keeps_its_class(head: str, backbone: str) -> None:
    network = _trained(head, backbone)
    assert _norms(network) > 15
    image = torch.randn(1, 1, 224, 320)
    with torch.inference_mode():
        before = network(image)
    made = folded(network)
    assert _norms(made) <= 2
    assert is_only_convolutions(made) == (head == "unet")
    with torch.inference_mode():
        after = made(image)
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)
    # An untrained network is undecided at many pixels: only ties to rounding may turn over.
    other = after.argmax(1) != before.argmax(1)
    best = before.topk(2, dim=1).values
    assert not (other & (best[:, 0] - best[:, 1] > 1e-5 * before.abs().max())).any()
    assert other.float().mean() <= 5e-5


def test_a_network_without_batch_norms_is_left_alone() -> None:
    network = build_network(
        NetworkSpec(head="unet", backbone="convnext_atto", num_classes=2)
    ).eval()
    made = folded(network)
    assert not is_only_convolutions(made)  # layer norms compute in fp32: autocast knows which


def test_a_convolution_that_others_read_too_is_not_folded() -> None:
    class Odd(SegmentationNetwork):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.spec = NetworkSpec(head="unet", backbone="resnet18", num_classes=4)
            self.convolution = nn.Conv2d(1, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = self.convolution(x)
            return self.norm(seen) + seen

    odd = Odd().eval()
    nn.init.uniform_(odd.norm.running_var, 2, 3)  # type: ignore[arg-type]
    assert folded(odd) is odd


def test_where_a_folded_network_answers_otherwise_it_is_as_it_was_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = _trained("unet", "mobilenetv3_small_050")
    before, num_norms = {k: v.clone() for k, v in network.state_dict().items()}, _norms(network)
    monkeypatch.setattr(rewrites, "_TOLERANCE", -1.0)
    made = folded(network)
    assert made is network and _norms(made) == num_norms
    after = made.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
