"""A bioimage.io package says what others need to run it."""

import importlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.export import ExportMetadata, exported, quiet
from emcfsys_engine.learn.export_bioimageio import (
    channel_names,
    export_bioimageio,
    normalised,
)
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.model_card import NetworkSpec
from tests.learn.made import METADATA, network_of


def test_the_normalisation_of_a_package_clips_and_centres() -> None:
    image_NCHW = np.random.default_rng(0).normal(1000, 50, (1, 1, 64, 64)).astype(np.float32)
    image_NCHW[0, 0, 0, 0] = 65535  # a hot pixel
    given_NCHW = normalised(image_NCHW)
    assert abs(given_NCHW.mean()) < 1e-4
    assert abs(given_NCHW.std() - 1) < 1e-3
    assert given_NCHW.max() < 4


def test_a_network_that_centres_reads_a_clipped_image_as_ours_reads_a_normalised_one() -> None:
    network = network_of("unet", "resnet10t").eval()
    image_NCHW = np.random.default_rng(0).normal(1000, 50, (1, 1, 64, 96)).astype(np.float32)
    image_NCHW[0, 0, 0, 0] = 65535  # a hot pixel
    low, high = np.percentile(image_NCHW, (0.5, 99.5))
    scaled_NCHW = np.clip((image_NCHW - low) / (high - low), 0, 1).astype(np.float32)
    centring = exported(network, replace(METADATA, centres=True))
    with torch.no_grad():
        torch.testing.assert_close(
            centring(torch.from_numpy(scaled_NCHW)),
            network(torch.from_numpy(normalised(image_NCHW))),
            rtol=1e-3,
            atol=1e-3,
        )
        assert centring(torch.zeros(1, 1, 64, 64)).isfinite().all()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # files that bioimageio leaves open
@pytest.mark.parametrize("num_planes", [0, 2])
def test_a_bioimageio_package_is_run_by_bioimageio_core(tmp_path: Path, num_planes: int) -> None:
    pytest.importorskip("bioimageio.core")
    spec = NetworkSpec(head="unet", backbone="resnet10t", num_classes=2, num_planes=num_planes)
    network = build_network(spec).eval()
    example_HW = np.random.default_rng(1).normal(100, 10, (70, 90)).astype(np.float32)
    file = tmp_path / "model.zip"
    parting = {"seed": 0.15, "neck": 0.65, "min_px": 40}
    # The format wants five characters.
    metadata = replace(METADATA, name="demo", objects=parting if num_planes else {})
    report = export_bioimageio(network, file, metadata, example_HW=example_HW, with_onnx=False)
    assert report.file == file
    assert file.is_file()
    words = zipfile.ZipFile(file).read("README.md").decode()
    assert ("top is below 0.15" in words and "fewer than 40 pixels" in words) == bool(num_planes)
    assert [each.name for each in tmp_path.iterdir()] == ["model.zip"]
    image_NCHW = np.random.default_rng(2).gamma(4, 30, (1, 1, 96, 128)).astype(np.float32)
    with torch.no_grad():
        wanted_NCHW = network(torch.from_numpy(normalised(image_NCHW)))[:, :2].softmax(1).numpy()
    core, told = (
        importlib.import_module("bioimageio.core"),
        importlib.import_module("bioimageio.spec"),
    )
    with quiet():
        given = core.predict(model=told.load_model_description(file), inputs={"image": image_NCHW})
    # As a stranger runs it, who has the package alone.
    found_NCHW = np.asarray(given.members["probabilities"].data)
    np.testing.assert_allclose(found_NCHW, wanted_NCHW, atol=1e-3)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_licence_that_does_not_exist_gives_one_line(tmp_path: Path) -> None:
    pytest.importorskip("bioimageio.core")
    wrong = ExportMetadata(name="grain boundaries", class_names=("a", "b"), licence="free")
    with pytest.raises(InputError, match="the format does not allow it") as caught:
        export_bioimageio(
            network_of("unet", "resnet10t"), tmp_path / "m.zip", wrong, with_onnx=False
        )
    assert "\n" not in str(caught.value)


def test_no_two_channels_of_a_package_have_one_name() -> None:
    assert channel_names(["matrix", "α", "β", "pore 1", "2nd"]) == [
        *("matrix", "__1", "__2", "pore_1", "class_2nd")
    ]
