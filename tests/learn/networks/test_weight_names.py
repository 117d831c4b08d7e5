"""Tensors of other programs find their layers, whatever the names they come under."""

from collections.abc import Callable
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision

from emcfsys_engine.errors import WeightsError
from emcfsys_engine.learn.networks.weight_names import best_match, with_channels
from emcfsys_engine.learn.networks.weights import load_weights
from tests.learn.networks.weight_files import Tensors, deepest_map, network_of, timm_tensors


def test_a_space_to_depth_stem_keeps_its_groups_of_colours() -> None:
    stem_OIHW = torch.arange(12.0).reshape(1, 12, 1, 1)
    assert with_channels(stem_OIHW, 4).flatten().tolist() == [3.0, 12.0, 21.0, 30.0]
    assert with_channels(torch.ones(1, 3, 1, 1), 2).flatten().tolist() == [1.5, 1.5]


def test_a_network_of_greys_gives_its_whole_encoder_to_one_of_colours(tmp_path: Path) -> None:
    grey, colour = (network_of("resnet10t", in_channels=number) for number in (1, 3))
    torch.save(grey.encoder.body.state_dict(), tmp_path / "grey.pth")
    assert load_weights(colour, str(tmp_path / "grey.pth")).missing == ()
    x_NCHW = torch.randn(1, 1, 96, 96)
    torch.testing.assert_close(
        deepest_map(grey, x_NCHW), deepest_map(colour, x_NCHW.repeat(1, 3, 1, 1))
    )


def test_a_stem_of_other_channels_is_said_to_be_missing(tmp_path: Path) -> None:
    tensors = timm_tensors()
    tensors["conv1.0.weight"] = tensors["conv1.0.weight"].repeat(1, 2, 1, 1)
    torch.save(tensors, tmp_path / "six.pth")
    for channels in (1, 3):
        network = network_of("resnet10t", in_channels=channels)
        assert load_weights(network, str(tmp_path / "six.pth")).missing == ("conv1.0.weight",)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"state_dict": t, "epoch": 3},
        lambda t: {"state_dict": {f"module.{n}": v for n, v in t.items()}},
        lambda t: {"model": {f"module.encoder.model.{n}": v for n, v in t.items()}},
        lambda t: {f"backbone.{n}": v for n, v in t.items()} | {"decoder.weight": torch.ones(3)},
        lambda t: {"student": {n: v * 0 for n, v in t.items()}, "teacher": t},
    ],
    ids=["timm", "nested", "parallel", "smp-timm", "emcfsys", "dino"],
)
def test_prefixes_and_nesting_are_seen_through(
    tmp_path: Path, wrap: Callable[[Tensors], object]
) -> None:
    tensors = timm_tensors()
    torch.save(wrap(tensors), tmp_path / "weights.pth")
    network = network_of("resnet10t")
    report = load_weights(network, str(tmp_path / "weights.pth"))
    assert (report.share, report.missing) == (1.0, ())
    assert torch.equal(
        network.encoder.body.state_dict()["layer4.0.conv1.weight"], tensors["layer4.0.conv1.weight"]
    )


def test_a_whole_smp_network_gives_its_encoder(tmp_path: Path) -> None:
    theirs = smp.Unet("resnet18", encoder_weights=None)
    torch.save(theirs.state_dict(), tmp_path / "unet.pth")
    network = network_of("resnet18")
    load_weights(network, str(tmp_path / "unet.pth"))
    x_NCHW = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected_NCHW = theirs.encoder.eval()(x_NCHW)[-1]
    assert torch.equal(deepest_map(network, x_NCHW), expected_NCHW)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("resnet18", "resnet18"),
        ("convnext_tiny", "convnext_tiny"),
        pytest.param("swin_t", "swin_tiny_patch4_window7_224", marks=pytest.mark.long),
        pytest.param("swin_v2_t", "swinv2_tiny_window8_256", marks=pytest.mark.long),
    ],
)
def test_torchvision_weights_give_torchvision_features(theirs: str, ours: str) -> None:
    model = getattr(torchvision.models, theirs)(weights=None).eval()
    network = network_of(ours)
    match = best_match([model.state_dict()], network.encoder.body, network.encoder.plan)
    assert match.share == 1.0
    network.encoder.body.load_state_dict(match.chosen, strict=False)
    # At other sizes timm shifts the windows of the last stage differently.
    edge_px = 224 if theirs == "swin_t" else 256
    x_NCHW = torch.randn(1, 3, edge_px, edge_px)
    if theirs == "resnet18":
        features = torch.nn.Sequential(*list(model.children())[:-2])
    else:
        features = model.features
    with torch.no_grad():
        expected = features(x_NCHW)
    channels_last = theirs.startswith("swin")
    expected_NCHW = expected.permute(0, 3, 1, 2) if channels_last else expected
    torch.testing.assert_close(deepest_map(network, x_NCHW), expected_NCHW)


def test_layers_listed_in_the_same_order_are_recognised_under_other_names() -> None:
    theirs = torchvision.models.mobilenet_v2(weights=None).state_dict()
    network = network_of("mobilenetv2_100", in_channels=1)
    match = best_match([theirs], network.encoder.body, network.encoder.plan)
    assert (match.share, match.missing) == (1.0, ())


def test_position_embeddings_of_another_image_size_are_resampled(tmp_path: Path) -> None:
    torch.save(timm_tensors("vit_tiny_patch16_224", img_size=128), tmp_path / "small.pth")
    network = network_of("vit_tiny_patch16_224")
    report = load_weights(network, str(tmp_path / "small.pth"))
    assert (report.share, report.missing) == (1.0, ())
    assert "pos_embed" in report.matched


def test_another_network_is_refused_unless_a_part_is_enough(tmp_path: Path) -> None:
    tensors = {n: t for n, t in timm_tensors().items() if not n.startswith("layer4")}
    torch.save(tensors, tmp_path / "part.pth")
    network = network_of("resnet10t")
    with pytest.raises(WeightsError, match=r"only 2\d% of the parameters of resnet10t"):
        load_weights(network, str(tmp_path / "part.pth"))
    report = load_weights(network, str(tmp_path / "part.pth"), allow_partial=True)
    assert "layer4.0.conv1.weight" in report.missing


def test_a_larger_network_of_the_same_names_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "large.pth")
    network = network_of("resnet18")
    with pytest.raises(WeightsError, match=r"only 5\d% of its layers.*allow_partial = true"):
        load_weights(network, str(tmp_path / "large.pth"))
    assert load_weights(network, str(tmp_path / "large.pth"), allow_partial=True).share == 1.0


@pytest.mark.parametrize(
    "backbone",
    ["mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "efficientnet_lite0"],
)
def test_an_architectures_own_weights_are_never_too_large_for_it(
    tmp_path: Path, backbone: str
) -> None:
    torch.save(timm.create_model(backbone).state_dict(), tmp_path / "own.pth")
    assert load_weights(network_of(backbone), str(tmp_path / "own.pth")).share > 0.9
