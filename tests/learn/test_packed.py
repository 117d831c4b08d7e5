"""Packed convolutions answer as the plain ones did."""

import pytest
import torch
from torch import Tensor, nn

from emcfsys_engine.learn.folding import folded
from emcfsys_engine.learn.network import build_network
from emcfsys_engine.learn.packed import packed
from emcfsys_engine.model_card import NetworkSpec

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN"
)


def _plain(network: nn.Module) -> int:
    return sum(type(part) is nn.Conv2d for part in network.modules())


def _ready(network: nn.Module, precision: torch.dtype) -> nn.Module:
    return network.eval().to(memory_format=torch.channels_last).to(precision)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_every_pixel_keeps_its_class_at_any_size(backbone: str, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(head="unet", backbone=backbone, num_classes=3)
    network = _ready(folded(build_network(spec).eval()), precision)
    made = packed(network, 1)
    assert _plain(network) > 25  # the given one is left as it was
    assert _plain(made) == 0
    for size in ((1, 1, 64, 64), (3, 1, 96, 160), (2, 1, 41, 77)):
        image = torch.randn(size).to(precision)
        with torch.inference_mode():
            before, after = network(image).float(), made(image).float()
        torch.testing.assert_close(after, before, atol=0.02 * float(before.abs().max()), rtol=0)
        # An untrained network is undecided at many pixels: only ties to rounding may turn over.
        best = before.topk(2, dim=1).values
        decided = best[:, 0] - best[:, 1] > 0.01 * before.abs().max()
        assert not ((after.argmax(1) != before.argmax(1)) & decided).any()


class _Forked(nn.Module):
    """What the convolution gives is read beside the activation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        made = self.convolution(x)
        return self.activation(made) - made


class _Shared(nn.Module):
    """One activation after two convolutions; one convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        made = self.activation(self.first(x))
        return self.second(self.activation(self.second(made)))


@pytest.mark.parametrize("kind", [_Forked, _Shared])
def test_an_activation_that_is_not_one_convolutions_alone_stays(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = _ready(kind(), torch.float32)
    image = torch.randn(1, 1, 20, 30)
    with torch.inference_mode():
        torch.testing.assert_close(packed(network, 1)(image), network(image))


def test_without_these_operations_the_network_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no such attribute")

    network = _ready(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.float32)
    assert _plain(packed(network, 1)) == 0
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", missing)
    assert packed(network, 1) is network
