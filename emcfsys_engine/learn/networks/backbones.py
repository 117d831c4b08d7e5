"""Which timm backbones there are, how each is best trained, and the encoder built from one."""

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from emcfsys_engine.errors import InputError
from emcfsys_engine.model_card import Norm
from emcfsys_engine.project_tables import SHIPPED_BACKBONE

DEFAULT_BACKBONE = SHIPPED_BACKBONE


@dataclass(frozen=True, kw_only=True)
class BackboneDefaults:
    """How one backbone is trained unless the project says otherwise.

    Units: learning rates are for AdamW at an effective batch of 8, before warm-up and decay.
    """

    encoder_lr: float  # of pretrained weights
    decoder_lr: float
    weight_decay: float
    drop_path: float  # stochastic depth at the deepest block, 0 = off
    norm: Norm  # of the decoder
    warmup_steps: int
    mean: tuple[float, ...]  # of the images it was pretrained on, in 0..1; our inputs are z-scored
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BackboneFacts:
    """What can be told of a backbone without computing anything."""

    family: str  # timm's module
    parameters: int  # with its classifier
    strides: tuple[int, ...]  # of the maps it gives, finest first
    has_batch_norm: bool
    is_transformer: bool
    has_drop_path: bool


@cache
def known_backbones() -> frozenset[str]:
    """Return every architecture name that timm can build, without weight tags."""
    return frozenset(timm.list_models())


def check_backbone(backbone: str) -> str:
    """Return the architecture's name (weight tag cut off), or name the nearest one timm knows.

    Raises: InputError for a name timm does not know.
    """
    architecture = backbone.partition(".")[0]
    if architecture in known_backbones():
        return architecture
    near = difflib.get_close_matches(architecture, sorted(known_backbones()), n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]!r}" if near else "List them with: emcfsys-engine models"
    raise InputError(backbone, "timm has no backbone of this name", remedy + ("?" if near else ""))


def defaults_for(backbone: str) -> BackboneDefaults:
    """Return how this backbone is best trained.

    The larger a transformer, the gentler: full fine-tuning of a ViT-L on electron micrographs gives
    Dice .50 at 2e-5 and .16 at 1e-4 (ablation of QuantEM).

    Raises: InputError for a name timm does not know.
    """
    facts = facts_of(backbone)
    cfg = timm.get_pretrained_cfg(check_backbone(backbone))
    is_gentle = facts.is_transformer or not facts.has_batch_norm
    return BackboneDefaults(
        encoder_lr=_gentle_lr(facts) if is_gentle else 3e-4,
        decoder_lr=5e-4 if is_gentle else 1e-3,
        weight_decay=0.05 if is_gentle else 0.01,
        drop_path=_drop_path(facts) if is_gentle else 0.0,
        norm="batch" if facts.has_batch_norm else "group",
        warmup_steps=300 if is_gentle else 100,
        mean=tuple(cfg.mean) if cfg is not None else (),
        std=tuple(cfg.std) if cfg is not None else (),
    )


def _gentle_lr(facts: BackboneFacts) -> float:
    millions = facts.parameters / 1e6
    small, medium = (1e-4, 5e-5) if facts.is_transformer else (2e-4, 1e-4)
    if millions < 40:
        return small
    return medium if millions < 150 else 2e-5


def _drop_path(facts: BackboneFacts) -> float:
    if not facts.has_drop_path:
        return 0.0
    return 0.1 if facts.parameters < 60e6 else 0.2


@cache
def facts_of(backbone: str) -> BackboneFacts:
    """Return what can be told of a backbone; it is built on the meta device, without numbers.

    Raises: InputError for a name timm does not know.
    """
    architecture = check_backbone(backbone)
    network = _on_meta(architecture, {})
    modules = list(network.modules())
    infos: Sequence[dict[str, Any]] = list(getattr(network, "feature_info", ()))
    return BackboneFacts(
        family=type(network).__module__.rpartition(".")[2],
        parameters=count_parameters(architecture),
        strides=tuple(dict.fromkeys(int(info["reduction"]) for info in infos)),
        has_batch_norm=any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in modules),
        is_transformer=any("attention" in type(m).__name__.lower() for m in modules)
        and any(isinstance(m, nn.LayerNorm) for m in modules),
        has_drop_path=_takes_drop_path(architecture),
    )


@cache
def names_of(backbone: str) -> frozenset[str]:
    """Return the names of all tensors of the whole architecture, with its classifier.

    Raises: InputError for a name timm does not know.
    """
    return frozenset(_on_meta(check_backbone(backbone), {}).state_dict())


@cache
def count_parameters(backbone: str) -> int:
    """Return how many parameters the backbone has, with its classifier.

    Raises: InputError for a name timm does not know.
    """
    return sum(each.numel() for each in _on_meta(check_backbone(backbone), {}).parameters())


def _takes_drop_path(architecture: str) -> bool:
    try:
        _on_meta(architecture, {"drop_path_rate": 0.1})
    except TypeError:
        return False
    return True


def _on_meta(architecture: str, options: dict[str, Any]) -> nn.Module:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says of its options is said when it is built
        return timm.create_model(architecture, pretrained=False, **options)
