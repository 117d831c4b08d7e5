"""A network that passes by its norms and activations tells of its maps what it tells with them."""

import pytest
import torch
from torch import Tensor, nn

from emcfsys_engine.learn.networks import encoder, encoder_plan
from emcfsys_engine.learn.networks.only_shapes import compute_only_shapes


def _plan_and_findings(backbone: str, stride: int | None) -> tuple[object, object]:
    plan = encoder_plan.plan_encoder.__wrapped__(backbone, 1, stride)
    found = encoder._inspect_on("meta", plan, tuple(tap.index for tap in plan.taps))
    return plan, vars(found)


# With batch norms on 1×1 maps, unused parameters, and a norm that pruning cuts off.
@pytest.mark.parametrize(
    ("backbone", "stride"),
    [("resnest14d", None), ("mobilenetv3_small_050", 8), ("test_vit", None), ("levit_128s", None)],
)
def test_the_plan_of_a_backbone_is_the_one_that_all_its_layers_make(
    backbone: str, stride: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = _plan_and_findings(backbone, stride)
    for module in (encoder, encoder_plan):
        monkeypatch.setattr(module, "compute_only_shapes", lambda network: None)
    assert _plan_and_findings(backbone, stride) == quick


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.bend = nn.PReLU()
        self.unused = nn.LayerNorm(4)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.first(x_NCHW)
        gate_NCHW = torch.sigmoid(x_NCHW) * x_NCHW
        bent_NCHW = self.bend(self.norm(x_NCHW))
        bent_NCHW += gate_NCHW  # written into: what a layer was given must stay
        self.unused(bent_NCHW.movedim(1, -1))
        return self.last(bent_NCHW)


def test_shapes_gradients_and_hooks_are_those_of_the_whole_network() -> None:
    with torch.device("meta"):
        network, seen = _Small(), list[Tensor]()
        network.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        compute_only_shapes(network)
        y_NCHW = network(torch.zeros(2, 1, 33, 41))
        y_NCHW.sum().backward()
    assert y_NCHW.shape == (2, 2, 16, 20)
    assert [each.shape for each in seen] == [(2, 4, 16, 20)]
    without = [name for name, each in network.named_parameters() if each.grad is None]
    assert without == ["unused.weight", "unused.bias"]
