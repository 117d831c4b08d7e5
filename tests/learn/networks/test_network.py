"""Every head on every kind of backbone gives scores for each pixel of any image."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.networks.network import (
    SegmentationNetwork,
    build_network,
    parameter_groups,
)
from emcfsys_engine.model_card import Head, NetworkSpec
from tests.learn.networks.made import network_of

HEADS: tuple[Head, ...] = get_args(Head)


# Dilated, plain, without fine maps, in tiles: one of each way to be fed.
KINDS = ["resnet10t", "vit_tiny_patch16_224", "efficientvit_m0", "levit_128s"]


@pytest.fixture(scope="module", params=HEADS)
def small_network(request: pytest.FixtureRequest) -> SegmentationNetwork:
    return network_of(request.param).eval()


@settings(max_examples=8, deadline=None)
@given(height=st.integers(32, 150), width=st.integers(32, 150))
def test_logits_have_the_size_of_the_image(
    small_network: SegmentationNetwork, height: int, width: int
) -> None:
    with torch.no_grad():
        assert small_network(torch.randn(1, 1, height, width)).shape == (1, 3, height, width)


def test_padding_by_hand_changes_nothing(small_network: SegmentationNetwork) -> None:
    x_NCHW = torch.randn(1, 1, 70, 91)
    padded_NCHW = torch.nn.functional.pad(x_NCHW, (0, 5, 0, 26), mode="replicate")
    with torch.no_grad():
        expected_NCHW = small_network(padded_NCHW)[..., :70, :91]
        torch.testing.assert_close(small_network(x_NCHW), expected_NCHW)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", KINDS)
def test_every_trained_parameter_gets_a_gradient(backbone: str, head: Head) -> None:
    network = network_of(head, backbone, auxiliary=True)
    logits_NCHW, auxiliary_NCHW = network.forward_with_auxiliary(torch.randn(2, 1, 40, 70))
    assert auxiliary_NCHW is not None
    assert logits_NCHW.shape == auxiliary_NCHW.shape == (2, 3, 40, 70)
    (logits_NCHW.square().mean() + auxiliary_NCHW.square().mean()).backward()
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert [name for name, each in trained.items() if each.grad is None] == []


def test_a_network_that_can_be_pruned_only_once_is_built() -> None:
    assert network_of("pspnet", "legacy_xception").encoder.strides == (16,)


def test_without_an_auxiliary_head_there_are_no_auxiliary_logits() -> None:
    network = network_of("unet").eval()
    x_NCHW = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        logits_NCHW, auxiliary_NCHW = network.forward_with_auxiliary(x_NCHW)
        assert auxiliary_NCHW is None
        assert torch.equal(logits_NCHW, network(x_NCHW))


@pytest.mark.parametrize(
    "backbone", ["resnet10t", "test_vit", "test_convnext", "test_efficientnet"]
)
@pytest.mark.parametrize("head", ["unet", "pspnet", "deeplabv3plus", "upernet"])
def test_without_its_auxiliary_head_a_network_predicts_the_same(head: Head, backbone: str) -> None:
    trained = network_of(head, backbone, auxiliary=True).eval()
    plain = network_of(head, backbone).eval()
    wanted = plain.state_dict()
    kept = trained.inference_state()
    plain.load_state_dict({name: tensor for name, tensor in kept.items() if name in wanted})
    x_NCHW = torch.randn(1, 1, 64, 96)
    with torch.inference_mode():
        assert torch.equal(plain(x_NCHW), trained(x_NCHW))


def test_the_auxiliary_head_does_not_change_the_logits_of_a_prediction() -> None:
    network = network_of("upernet", auxiliary=True).eval()
    x_NCHW = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(x_NCHW), network.forward_with_auxiliary(x_NCHW)[0])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["resnet10t", "resnest14d"])
def test_a_lone_small_image_can_be_trained_on(backbone: str, head: Head) -> None:
    network = network_of(head, backbone).train()
    assert network(torch.randn(1, 1, 32, 32)).isfinite().all()


def test_parameter_groups_hold_each_parameter_once_and_decay_no_vector() -> None:
    network = network_of("upernet", "vit_tiny_patch16_224")
    groups = parameter_groups(network, weight_decay=0.05)
    grouped = [each for group in groups for each in group["params"]]
    assert len(grouped) == len({id(each) for each in grouped})
    assert len(grouped) == sum(p.requires_grad for p in network.parameters())
    assert {group["name"]: group["weight_decay"] for group in groups} == {
        "decoder/decay": 0.05,
        "decoder/plain": 0.0,
        "encoder/decay": 0.05,
        "encoder/plain": 0.0,
    }
    for group in groups:
        assert all((p.ndim > 1) == group["name"].endswith("/decay") for p in group["params"])


@pytest.mark.parametrize("backbone", KINDS)
def test_low_precision_and_channels_last_stay_close(backbone: str) -> None:
    network = network_of("unet", backbone).eval()
    x_NCHW = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        expected_NCHW = network(x_NCHW)
        last = network.to(memory_format=torch.channels_last)  # pyright: ignore
        given_NCHW = last(x_NCHW.to(memory_format=torch.channels_last))
        torch.testing.assert_close(given_NCHW, expected_NCHW, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low_NCHW = network(x_NCHW)
    spread = expected_NCHW.std()
    assert (low_NCHW.float() - expected_NCHW).abs().mean() < 0.1 * spread


@pytest.mark.long
def test_a_network_compiles_without_a_break_in_its_graph() -> None:
    network = network_of("unet", auxiliary=True)
    compiled = torch.compile(network.forward_with_auxiliary, fullgraph=True, backend="eager")
    logits_NCHW, _ = compiled(torch.randn(2, 1, 64, 96))
    assert logits_NCHW.shape == (2, 3, 64, 96)


@pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning")  # it is only slower
@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224"])
def test_distributed_training_finds_no_unused_parameter(tmp_path: Path, backbone: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        network = DistributedDataParallel(network_of("deeplabv3plus", backbone))
        for _ in range(2):  # a parameter without gradient is told by the second step
            network(torch.randn(2, 1, 64, 64)).square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()


def test_a_typo_in_the_backbone_is_told_before_any_work() -> None:
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        build_network(NetworkSpec(head="unet", backbone="resnet_18", num_classes=2))


def test_the_same_seed_builds_the_same_network() -> None:
    def first_weight() -> Tensor:
        return next(network_of("unet").parameters()).detach()

    assert torch.equal(first_weight(), first_weight())


@pytest.mark.parametrize(
    ("head", "backbone", "is_local"),
    [
        ("unet", "resnet18", True),
        ("unet", "convnext_atto", True),
        ("pspnet", "resnet18", False),
        ("unet", "vit_tiny_patch16_224", False),
        ("unet", "swin_tiny_patch4_window7_224", False),
    ],
)
def test_a_network_is_local_without_attention_and_pyramids(
    head: str, backbone: str, is_local: bool
) -> None:
    with torch.device("meta"):
        network = build_network(NetworkSpec(head=head, backbone=backbone, num_classes=2))
    assert network.is_local == is_local
