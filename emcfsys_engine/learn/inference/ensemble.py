"""Several model files as one: the mean of their probabilities, the first one's card.

M members, C classes, H and W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from emcfsys_engine.errors import InputError, ModelFileError
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.model_card import ModelCard, read_card

_SAME_PIXEL = 0.1  # pixel sizes this close, relative, are one: as for images


def check_members(models: Sequence[Path]) -> ModelCard:
    """Return the card that an ensemble goes by: the first one's.

    Raises: ModelFileError for a file that is none of ours, or whose classes, normalisation or
    pixel size are not the first one's; InputError when there is no file at all.
    """
    if not models:
        raise InputError("models", "no model file is named", "Name at least one")
    cards = [read_card(model) for model in models]
    for model, card in zip(models[1:], cards[1:], strict=True):
        _check_alike(models[0], cards[0], model, card)
    return cards[0]


def load_members(models: Sequence[Path]) -> tuple[list[SegmentationNetwork], ModelCard]:
    """Return the networks, in eval mode on the CPU, and the card they go by.

    Raises: as `check_members`.
    """
    card = check_members(models)
    return [load_model(model)[0] for model in models], card


def merged(logits_KHW: Tensor, num_members: int) -> Tensor:
    """Return the logits of an ensemble: the logarithm of the mean of its members' probabilities.

    Shapes: K = M·C, member after member; the result is C×H×W, and for one member its own logits.
    """
    if num_members == 1:
        return logits_KHW
    logits_MCHW = logits_KHW.unflatten(0, (num_members, -1))
    return torch.log_softmax(logits_MCHW, dim=1).logsumexp(dim=0)  # softmax takes no offset amiss


def _check_alike(first: Path, one: ModelCard, file: Path, other: ModelCard) -> None:
    remedy = "Join models that were trained on one project"
    if (one.classes, one.class_values) != (other.classes, other.class_values):
        what = f"its classes are {_classes(other)}, those of {first.name} {_classes(one)}"
        raise ModelFileError(file, what, remedy)
    if one.normaliser != other.normaliser:
        raise ModelFileError(file, f"normalises images otherwise than {first.name}", remedy)
    if one.pixel_nm and other.pixel_nm and abs(other.pixel_nm / one.pixel_nm - 1) > _SAME_PIXEL:
        what = f"was trained at {other.pixel_nm:.4g} nm, {first.name} at {one.pixel_nm:.4g} nm"
        raise ModelFileError(file, what, remedy)


def _classes(card: ModelCard) -> str:
    pairs = zip(card.classes, card.class_values, strict=True)
    return ", ".join(f"{name} = {value}" for name, value in pairs)
