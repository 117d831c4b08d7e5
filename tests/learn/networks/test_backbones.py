"""Backbones are named, planned and described without computing anything."""

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.networks.backbones import (
    DEFAULT_BACKBONE,
    check_backbone,
    defaults_for,
    facts_of,
)
from emcfsys_engine.learn.networks.encoder_plan import plan_encoder
from emcfsys_engine.learn.networks.models_list import RECOMMENDED, list_models


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"resnet43: timm has no.*'resnet\d+'"):
        check_backbone("resnet43")


def test_a_weight_tag_is_no_part_of_the_architecture() -> None:
    assert check_backbone("resnet18.a1_in1k") == "resnet18"


def test_larger_transformers_learn_more_gently() -> None:
    tiny, large = defaults_for("vit_tiny_patch16_224"), defaults_for("vit_large_patch16_224")
    assert large.encoder_lr == 2e-5 < tiny.encoder_lr < defaults_for("resnet18").encoder_lr


def test_decoders_get_group_norm_where_the_backbone_has_no_batch_norm() -> None:
    assert defaults_for("resnet18").norm == "batch"
    assert defaults_for("convnext_atto").norm == "group"


def test_plain_networks_have_no_stochastic_depth_by_default() -> None:
    assert defaults_for("vgg11").drop_path == 0.0
    assert not facts_of("vgg11").has_drop_path


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


def test_without_a_pattern_the_recommended_backbones_are_listed() -> None:
    rows = {row.name: row for row in list_models()}
    assert rows.keys() == RECOMMENDED.keys()
    default = rows[DEFAULT_BACKBONE]
    assert (default.weights_here, default.licence, default.recommendation) == (
        "package",
        "apache-2.0",
        "fast",
    )
    assert default.parameters == 4_652_008
    assert default.strides == (2, 4, 8, 16, 32)


def test_a_pattern_is_a_glob_or_a_part_of_the_name() -> None:
    assert [row.name for row in list_models("resnet1?")] == ["resnet18"]
    assert "convnext_atto" in [row.name for row in list_models("next_atto")]
