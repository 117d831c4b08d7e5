"""Exported networks give the numbers of the network they came from."""

import json
from pathlib import Path

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame

from emcfsys_engine.learn import export
from emcfsys_engine.learn.export import export_onnx, export_torchscript
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.networks.rewrites import with_fixed_padding
from emcfsys_engine.model_card import Head, NetworkSpec
from tests.learn.made import METADATA, network_of


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("head", "backbone"),
    [
        ("unet", "resnet10t"),
        pytest.param("upernet", "vit_tiny_patch16_224", marks=pytest.mark.long),
        pytest.param("pspnet", "convnext_atto", marks=pytest.mark.long),
    ],
)
def test_torchscript_gives_the_same_logits_at_any_size(
    tmp_path: Path, head: Head, backbone: str
) -> None:
    network = network_of(head, backbone)
    report = export_torchscript(network, tmp_path / "net.pt", METADATA)
    assert report.any_size
    assert report.max_difference < 1e-5
    extra = {"metadata.json": ""}
    torch.jit.load(report.file, _extra_files=extra)
    assert json.loads(extra["metadata.json"])["class_names"] == ["grain", "grain boundary"]


@pytest.mark.long
@pytest.mark.parametrize("head", ["upernet"])
def test_onnx_gives_the_same_logits_at_other_sizes(tmp_path: Path, head: Head) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    report = export_onnx(network_of(head, "resnet10t"), tmp_path / "net.onnx", METADATA)
    assert report.any_size
    assert report.max_difference < 1e-4
    properties = {each.key: each.value for each in onnx.load(report.file).metadata_props}
    assert "percentiles 0.5 and 99.5" in properties["normalisation"]


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
@pytest.mark.parametrize("to", ["pt", pytest.param("onnx", marks=pytest.mark.long)])
def test_what_a_network_says_of_objects_is_an_output_of_its_own(tmp_path: Path, to: str) -> None:
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    torch.manual_seed(0)
    spec = NetworkSpec(head="unet", backbone="resnet10t", num_classes=2, num_planes=2)
    write = export_torchscript if to == "pt" else export_onnx
    report = write(build_network(spec).eval(), tmp_path / f"net.{to}", METADATA)
    assert report.any_size
    assert report.max_difference < 1e-4
    if to == "pt":
        logits, objects = torch.jit.load(report.file)(torch.randn(1, 1, 64, 96))
        assert logits.shape == objects.shape == (1, 2, 64, 96)
        assert 0 <= objects.min() <= objects.max() <= 1


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "tf_mobilenetv3_small_minimal_100"])
def test_convolutions_that_pad_by_a_constant_give_the_same_numbers(backbone: str) -> None:
    network = network_of("unet", backbone)
    fixed = with_fixed_padding(network)
    assert any(isinstance(each, Conv2dSame) for each in network.modules())
    assert not any(isinstance(each, Conv2dSame) for each in fixed.modules())
    for size in ((64, 96), (75, 130)):
        x_NCHW = torch.randn(1, 1, *size)
        with torch.no_grad():
            assert torch.equal(fixed(x_NCHW), network(x_NCHW))


def test_memory_that_is_short_is_no_reason_to_export_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A MemoryError has no words of its own, and says nothing about the network."""
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name)

    def too_little(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(export, "_made_onnx", too_little)
    with pytest.raises(MemoryError):
        export_onnx(network_of("unet", "resnet10t"), tmp_path / "net.onnx", METADATA)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_the_default_backbone_is_exported_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    network = network_of("unet", "tf_efficientnet_lite0")
    report = export_onnx(network, tmp_path / "net.onnx", METADATA)
    assert report.any_size
    assert report.max_difference < 1e-4
