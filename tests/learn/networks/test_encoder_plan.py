"""What a backbone can be fed with, told from its architecture alone."""

import pytest

from emcfsys_engine.learn.networks.encoder_plan import plan_encoder


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
