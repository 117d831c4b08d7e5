"""What a backbone can be fed with, told from its architecture alone."""

import pytest
import torch
from torch import Tensor, nn

from emcfsys_engine.learn.networks import encoder, encoder_plan
from emcfsys_engine.learn.networks.encoder_plan import compute_only_shapes, plan_encoder


def test_convolutional_networks_read_any_size_and_can_be_dilated() -> None:
    plan = plan_encoder("resnet10t", 1, 16)
    assert plan.dilated_stride == 16
    assert [tap.stride for tap in plan.taps] == [2, 4, 8, 16, 16]
    assert (plan.multiple_px, plan.tile_px) == (32, None)


def test_swin_reads_any_size() -> None:
    plan = plan_encoder("swin_tiny_patch4_window7_224", 1)
    assert (plan.multiple_px, plan.tile_px) == (32, None)


def test_maxvit_reads_multiples_of_its_windows() -> None:
    plan = plan_encoder("maxvit_pico_rw_256", 1)
    assert (plan.multiple_px, plan.tile_px) == (256, None)


@pytest.mark.parametrize("backbone", ["beit_base_patch16_224", "gmlp_ti16_224", "mvitv2_tiny"])
def test_networks_of_one_input_size_are_fed_in_tiles(backbone: str) -> None:
    assert plan_encoder(backbone, 1).tile_px == 224


def test_patches_of_14_pixels_are_brought_onto_16() -> None:
    plan = plan_encoder("vit_small_patch14_dinov2", 1)
    assert plan.shrink == (14, 16)
    assert plan.body_px(320) == 280
    assert {tap.stride for tap in plan.taps} == {16}


def test_a_network_that_insists_on_colour_gets_three_channels() -> None:
    assert plan_encoder("csatv2", 1).body_channels == 3


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
