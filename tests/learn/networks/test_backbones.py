"""Backbones are named, planned and described without computing anything."""

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.networks.backbones import (
    check_backbone,
    defaults_for,
    facts_of,
)


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
