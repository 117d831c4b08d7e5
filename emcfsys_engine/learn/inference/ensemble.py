"""Several models that predict as one: their cards agree, and their logits are joined."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from emcfsys_engine.errors import InputError, ModelFileError
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.model_card import SAME_PIXEL, ModelCard, read_card


def check_members(models: Sequence[Path]) -> ModelCard:
    """Return the card that an ensemble goes by: the first one's.

    Raises: ModelFileError for a file that is none of ours, or whose classes, normalisation or
    pixel size are not the first one's; InputError when there is no file at all.
    """
    if not models:
        raise InputError("models", "no model file is named", "Name at least one")
    cards = [read_card(model) for model in models]
    _check_all_alike(models, cards)
    return cards[0]


def load_members(models: Sequence[Path]) -> tuple[list[SegmentationNetwork], list[ModelCard]]:
    """Return the networks, in eval mode on the CPU, and their cards: they go by the first one's.

    A file may be replaced at any moment: a card is of the very weights that were loaded.
    Raises: as `check_members`.
    """
    check_members(models)  # before gigabytes are read
    loaded = [load_model(model) for model in models]
    cards = [card for _, card in loaded]
    _check_all_alike(models, cards)
    return [network for network, _ in loaded], cards


def merged(logits_KHW: Tensor, num_members: int, num_planes: int = 0) -> Tensor:
    """Return the logits of an ensemble: the logarithm of the mean of its members' probabilities.

    Planes of objects, the last of each member's channels, are the mean of its members', too.
    Shapes: K×H×W of any float type, which is kept, K = M·C, member after member; the result is
    C×H×W, and for one member its own logits.
    """
    if num_members == 1:
        return logits_KHW
    logits_MCHW = logits_KHW.unflatten(0, (num_members, -1))
    if num_planes:
        planes_MPHW = logits_MCHW[:, -num_planes:]
        planes_PHW = planes_MPHW.sigmoid().mean(dim=0).logit(eps=1e-6)
        return torch.cat(
            (merged(logits_MCHW[:, :-num_planes].flatten(0, 1), num_members), planes_PHW)
        )
    return torch.log_softmax(logits_MCHW, dim=1).logsumexp(dim=0)


def _check_all_alike(models: Sequence[Path], cards: Sequence[ModelCard]) -> None:
    for model, card in zip(models[1:], cards[1:], strict=True):
        _check_alike(models[0], cards[0], model, card)


def _check_alike(first: Path, one: ModelCard, file: Path, other: ModelCard) -> None:
    remedy = "Join models that were trained on one project"
    if (one.classes, one.class_values) != (other.classes, other.class_values):
        what = f"its classes are {_classes(other)}, those of {first.name} {_classes(one)}"
        raise ModelFileError(file, what, remedy)
    if one.instances != other.instances:
        its, theirs = _listed(other.instances), _listed(one.instances)
        what = f"tells apart objects of {its}, {first.name} of {theirs}"
        raise ModelFileError(file, what, remedy)
    if one.network.in_channels != other.network.in_channels:
        what = "one reads colours and the other greys"
        raise ModelFileError(file, f"is unlike {first.name}: {what}", remedy)
    if one.normaliser != other.normaliser:
        raise ModelFileError(file, f"normalises images otherwise than {first.name}", remedy)
    if one.pixel_nm and other.pixel_nm and abs(other.pixel_nm / one.pixel_nm - 1) > SAME_PIXEL:
        what = f"was trained at {other.pixel_nm:.4g} nm, {first.name} at {one.pixel_nm:.4g} nm"
        raise ModelFileError(file, what, remedy)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no class"


def _classes(card: ModelCard) -> str:
    pairs = zip(card.classes, card.class_values, strict=True)
    return ", ".join(f"{name} = {value}" for name, value in pairs)
