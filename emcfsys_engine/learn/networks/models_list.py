"""Which backbones there are, for a person who has to choose one."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import timm

from emcfsys_engine.learn.networks.backbones import (
    DEFAULT_BACKBONE,
    count_parameters,
    facts_of,
    known_backbones,
)
from emcfsys_engine.learn.networks.weight_sets import WEIGHT_SETS
from emcfsys_engine.learn.networks.weights import OFFLINE_BACKBONES, weights_here

Recommendation = Literal["fast", "standard", "best"]

# Few names that cover most needs; fast ones also train on a processor.
RECOMMENDED: dict[str, Recommendation] = {
    "tf_efficientnet_lite0": "fast",
    "tf_efficientnet_lite1": "fast",
    "resnet18": "fast",
    "mobilenetv3_large_100": "fast",
    "tf_efficientnet_lite2": "standard",
    "resnet34": "standard",
    "resnet50": "standard",
    "convnext_tiny": "standard",
    "convnextv2_base": "best",
    "swin_small_patch4_window7_224": "best",
    "vit_small_patch16_dinov3": "best",
    "vit_base_patch14_dinov2": "best",
}

# What preset = "best" takes on a GPU where the project names none: the first whose weights are on
# this machine; pyramids of features before plain transformers, and large before small.
STRONGEST = (
    "convnextv2_base",
    "swin_small_patch4_window7_224",
    "vit_base_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "convnext_tiny",
    "resnet50",
    "tf_efficientnet_lite2",
    "resnet34",
    "tf_efficientnet_lite1",
)


def strongest_here() -> str:
    """Return the strongest backbone whose ImageNet weights are on this machine."""
    return next((name for name in STRONGEST if weights_here(name)), DEFAULT_BACKBONE)


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One backbone as `models` shows it."""

    name: str
    parameters: int  # with its classifier
    strides: tuple[int, ...]  # of its own maps; the encoder gives 2 to 32 of any
    weights_here: str  # "package", "copied", "hub cache"; empty: not on this machine
    weights_exist: bool  # whether timm knows of any ImageNet-like weights at all
    named_sets: tuple[str, ...]  # of microscopy weights
    licence: str  # of the default weights, as timm states it; empty: not stated
    recommendation: Recommendation | None


def list_models(pattern: str = "") -> Iterator[ModelRow]:
    """Yield the backbones whose name matches; without a pattern those that we recommend.

    A pattern with * or ? is a glob, any other is looked for anywhere in the name. Rows come one by
    one, each in about a tenth of a second: all of timm takes some minutes.
    """
    for name in names_like(pattern):
        yield _row(name)


def names_like(pattern: str) -> list[str]:
    """Return the names alone that `list_models` would tell of: of all of timm in a moment."""
    if not pattern:
        return [name for name in RECOMMENDED if name in known_backbones()]
    if any(sign in pattern for sign in "*?["):
        return sorted(name for name in known_backbones() if fnmatchcase(name, pattern))
    return sorted(name for name in known_backbones() if pattern.lower() in name)


def _row(name: str) -> ModelRow:
    return ModelRow(
        name=name,
        parameters=count_parameters(name),
        strides=facts_of(name).strides,
        weights_here=weights_here(name),
        weights_exist=name in OFFLINE_BACKBONES or timm.is_model_pretrained(name),
        named_sets=tuple(s.name for s in WEIGHT_SETS.values() if name in dict(s.encoders)),
        licence=_licence(name),
        recommendation=RECOMMENDED.get(name),
    )


def _licence(name: str) -> str:
    cfg = timm.get_pretrained_cfg(name)
    stated = (cfg.license if cfg is not None else None) or ""
    if not stated and name in OFFLINE_BACKBONES:
        return OFFLINE_BACKBONES[name].licence
    return stated
