"""Maps at the strides that a head reads, whatever the backbone gives."""

import pytest
import torch
from torch import nn

from emcfsys_engine.learn.networks.encoder_plan import plan_encoder
from emcfsys_engine.learn.networks.pyramid import Pyramid, group_norm, plan_levels, use_group_norm


@pytest.mark.parametrize(
    ("backbone", "from_image"),
    [("resnet10t", []), ("swin_tiny_patch4_window7_224", [1]), ("vit_tiny_patch16_224", [1])],
)
def test_every_level_has_its_stride(backbone: str, from_image: list[int]) -> None:
    levels = plan_levels(plan_encoder(backbone, 1), (1, 2, 3, 4, 5))
    assert [one.stride for one in levels] == [2, 4, 8, 16, 32]
    assert [one.level for one in levels if one.tap is None] == from_image


def test_a_dilated_backbone_is_never_coarser_than_its_stride() -> None:
    levels = plan_levels(plan_encoder("resnet10t", 1, 16), (2, 5))
    assert [one.stride for one in levels] == [4, 16]


def test_maps_have_the_size_of_their_level() -> None:
    plan = plan_encoder("resnet10t", 1)
    levels = plan_levels(plan, (1, 2, 3, 4, 5))
    pyramid = Pyramid(levels, in_channels=1, normalise=False)
    maps = {
        number: torch.zeros(1, tap.channels, 64 // tap.stride, 64 // tap.stride)
        for number, tap in enumerate(plan.taps)
    }
    found = pyramid(torch.zeros(1, 1, 64, 64), maps)
    assert [tuple(one.shape[2:]) for one in found] == [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 16), (12, 2), (7, 1)])
def test_groups_have_at_least_four_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_only_norms_behind_a_global_pooling_are_replaced_unless_all_are_asked_for() -> None:
    def network() -> nn.Module:
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))
        return nn.ModuleDict({"plain": nn.Sequential(nn.BatchNorm2d(8)), "pooled": pooled})

    def kinds(module: nn.Module) -> list[str]:
        return [type(one).__name__ for one in module.modules() if "Norm" in type(one).__name__]

    some, every = network(), network()
    use_group_norm(some, everywhere=False)
    use_group_norm(every, everywhere=True)
    assert kinds(some) == ["BatchNorm2d", "GroupNorm"]
    assert kinds(every) == ["GroupNorm", "GroupNorm"]
