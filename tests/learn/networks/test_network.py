"""Every head on every kind of backbone gives scores for each pixel of any image."""

import copy
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.networks.network import (
    SegmentationNetwork,
    build_network,
    learn_dilated_in_full_precision,
    parameter_groups,
)
from emcfsys_engine.model_card import Head, NetworkSpec

HEADS: tuple[Head, ...] = get_args(Head)
# Dilated, plain, without fine maps, in tiles: one of each way to be fed.
KINDS = ["resnet10t", "vit_tiny_patch16_224", "efficientvit_m0", "levit_128s"]


def network_of(
    head: Head, backbone: str = "resnet10t", *, auxiliary: bool = False, in_channels: int = 1
) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(
        NetworkSpec(
            head=head,
            backbone=backbone,
            num_classes=3,
            auxiliary=auxiliary,
            in_channels=in_channels,
        )
    )


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
    logits_NCHW, auxiliary_NCHW = network.forward_with_auxiliary(torch.randn(2, 1, 70, 100))
    assert auxiliary_NCHW is not None
    assert logits_NCHW.shape == auxiliary_NCHW.shape == (2, 3, 70, 100)
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


def test_the_detail_stem_of_a_transformer_learns_with_the_decoder() -> None:
    network = network_of("unet", "vit_tiny_patch16_224")
    decoder = [g for g in parameter_groups(network, 0.1) if g["name"].startswith("decoder")]
    held = {id(each) for group in decoder for each in group["params"]}
    assert all(id(each) in held for each in network.encoder.pyramid.parameters())


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


def test_a_spec_survives_a_file() -> None:
    spec = NetworkSpec(head="pspnet", backbone="resnet18", num_classes=2, norm="group")
    assert msgspec.json.decode(msgspec.json.encode(spec), type=NetworkSpec) == spec


def test_the_oldest_spec_can_still_be_read() -> None:
    old = b'{"head": "unet", "backbone": "resnet18", "num_classes": 2}'
    spec = msgspec.json.decode(old, type=NetworkSpec)
    assert (spec.in_channels, spec.auxiliary, spec.norm, spec.drop_path) == (1, False, "batch", 0)


def test_a_typo_in_the_backbone_is_told_before_any_work() -> None:
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        build_network(NetworkSpec(head="unet", backbone="resnet_18", num_classes=2))


def test_stochastic_depth_is_refused_where_there_is_none() -> None:
    with pytest.raises(InputError, match=r"drop_path: vgg11 has no stochastic depth"):
        build_network(NetworkSpec(head="unet", backbone="vgg11", num_classes=2, drop_path=0.1))


def test_stochastic_depth_reaches_the_backbone() -> None:
    spec = NetworkSpec(head="unet", backbone="convnext_atto", num_classes=2, drop_path=0.5)
    network = build_network(spec)
    dropped = [m for m in network.modules() if type(m).__name__ == "DropPath"]
    assert max(getattr(m, "drop_prob", 0.0) for m in dropped) == pytest.approx(0.5)


def test_group_norm_leaves_no_batch_norm_in_the_decoder() -> None:
    spec = NetworkSpec(head="deeplabv3plus", backbone="resnet10t", num_classes=2, norm="group")
    decoder = build_network(spec).decoder
    assert not [m for m in decoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_the_same_seed_builds_the_same_network() -> None:
    def first_weight() -> Tensor:
        return next(network_of("unet").parameters()).detach()

    assert torch.equal(first_weight(), first_weight())


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 16, 80])
def test_a_dilated_convolution_learns_the_same_in_bfloat16(dilation: int, groups: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(80, 80, 3, padding=dilation, dilation=dilation, groups=groups)
    network = nn.Sequential(convolution).to(memory_format=torch.channels_last)
    learn_dilated_in_full_precision(network)
    x = torch.randn(4, 80, 32, 32).contiguous(memory_format=torch.channels_last)
    towards = torch.randn(4, 80, 32, 32)
    found: list[Tensor] = []
    for is_low in (False, True):
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
            y = network(x)
        (y.float() * towards).sum().backward()
        assert convolution.weight.grad is not None
        found.append(convolution.weight.grad)
    assert (found[0] - found[1]).norm() < 0.02 * found[0].norm()


def test_every_dilated_convolution_of_a_network_is_guarded_and_keeps_its_name() -> None:
    spec = NetworkSpec(head="deeplabv3plus", backbone="convnext_atto", num_classes=2)
    network = copy.deepcopy(build_network(spec))
    dilated = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.dilation) > 1
    ]
    assert len(dilated) > 3
    assert all(type(module).forward is not nn.Conv2d.forward for module in dilated)
    assert {type(module).__name__ for module in dilated} == {"Conv2d"}


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
