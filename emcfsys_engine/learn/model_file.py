"""The model file: weights and, in its header, everything needed to use them. No pickle anywhere.

A `.safetensors` file whose metadata holds one JSON text under "emcfsys": a ModelCard.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError, ModelFileError
from emcfsys_engine.files import path_in_utf8, write_whole
from emcfsys_engine.learn.networks.network import SegmentationNetwork, build_network
from emcfsys_engine.model_card import (
    KEY,
    ModelCard,
    TestVector,
    TrainingStatistics,
    digests_of,
    edited_fields,
    read_card,
)

_TEST_PX = 64
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def save_model(file: Path, network: SegmentationNetwork, card: ModelCard) -> None:
    """Write a model file with its test vector; its final name never stands for half a file.

    Raises: OSError when the disk is full; a file of that name from before survives.
    """
    write_whole(file, encode_model(network, card))


def encode_model(network: SegmentationNetwork, card: ModelCard) -> bytes:
    """Return the bytes of a model file; the network is in eval mode, in fp32, on the CPU."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    card = msgspec.structs.replace(
        card,
        test_vector=make_test_vector(network),
        versions={**card.versions, "torch": str(torch.__version__), "timm": timm.__version__},
        weights_digest=_digest(tensors),
    )
    written = json.loads(any_names.encode(msgspec.structs.replace(card, digests={})))
    card = msgspec.structs.replace(card, digests=digests_of(written))
    return save(tensors, {"format": "pt", KEY: any_names.encode(card).decode()})


def load_model(file: Path) -> tuple[SegmentationNetwork, ModelCard]:
    """Return the network, in eval mode on the CPU, and its card.

    Raises: ModelFileError for a file that is damaged, not ours, or of a newer format.
    """
    card = read_card(file)
    tensors = _tensors(file)
    if card.weights_digest and _digest(tensors) != card.weights_digest:
        raise ModelFileError(file, "its weights were changed since it was made", "Copy it again")
    _check_before_it_costs(file, card, tensors)
    try:
        network = build_network(card.network)
    except EmcfError as error:
        remedy = "Install the timm version it was made with"
        made_with = card.versions.get("timm", "an unknown version")
        raise ModelFileError(file, f"{error} (made with timm {made_with})", remedy) from None
    _check_tensors(file, network.state_dict(), tensors)
    _refuse_endless(file, tensors)
    network.load_state_dict(tensors)
    return network.eval(), card


def verify_model(file: Path) -> str:
    """Recompute the digests and the test vector: "identical", "equal to 0.0003" …

    Raises: ModelFileError if the file has no test vector, its card is not as it was written, or the
    outputs differ.
    """
    edited = edited_fields(file)
    if edited:
        what = f"its header was changed since it was made: {', '.join(edited)}"
        raise ModelFileError(file, what, "Take the file of its run again")
    header = "header unchanged" if edited is not None else "no digest of its header: an older file"
    return f"{_verified_vector(file)}; {header}"


def _verified_vector(file: Path) -> str:
    network, card = load_model(file)
    known = card.test_vector
    if known is None:
        raise ModelFileError(file, "has no test vector", "Export it again")
    made = make_test_vector(network, known.seed)
    if made.digest == known.digest:
        return "identical to the bit"
    pairs = zip(made.sample, known.sample, strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    scale = max(1.0, *(abs(value) for value in known.sample))
    if difference > 5e-3 * scale:
        what = f"its test vector differs by {difference:.3g}"
        raise ModelFileError(file, what, "The file is damaged or timm changed this network")
    return f"equal to {difference:.2g} (another processor or version than it was made with)"


def make_test_vector(network: SegmentationNetwork, seed: int = 0) -> TestVector:
    """Run a seeded input through the network, which is in eval mode, in fp32, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    size = (1, network.spec.in_channels, _TEST_PX, _TEST_PX)
    with torch.inference_mode():
        logits = network(torch.randn(size, generator=generator))
    flat = logits.float().contiguous().view(-1)
    places = torch.linspace(0, flat.numel() - 1, 16).long()
    return TestVector(
        seed=seed,
        size_px=_TEST_PX,
        digest=hashlib.sha256(flat.numpy().tobytes()).hexdigest(),
        sample=tuple(round(float(value), 6) for value in flat[places]),
    )


def _why_damaged(file: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return "is damaged: its tensors and its header do not agree"


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        with path_in_utf8(file) as path, safe_open(path, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFileError(file, _why_damaged(file, error), "Copy it again") from None


def _check_before_it_costs(file: Path, card: ModelCard, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that do not fit: a header can name a network of gigabytes in a small file."""
    try:
        with torch.device("meta"):
            wanted = build_network(card.network).state_dict()
    except (EmcfError, NotImplementedError, RuntimeError):
        return  # some cannot be built without numbers: what is wrong is found below
    _check_tensors(file, wanted, tensors)


def _check_tensors(file: Path, wanted: Mapping[str, Tensor], given: Mapping[str, Any]) -> None:
    missing = sorted(wanted.keys() - given.keys())
    extra = sorted(given.keys() - wanted.keys())
    if missing or extra:
        name, word = (missing[0], "lacks") if missing else (extra[0], "has one too many:")
        what = f"{word} the tensor {name} ({len(missing)} missing, {len(extra)} unknown)"
        raise ModelFileError(file, what, "Copy it again, or install the timm it was made with")
    for name, tensor in wanted.items():
        if tensor.shape != given[name].shape:
            what = f"{name} is {tuple(given[name].shape)}, the network wants {tuple(tensor.shape)}"
            raise ModelFileError(file, what, "Install the timm version it was made with")
        made_of = given[name].dtype
        if made_of != tensor.dtype and not (tensor.is_floating_point() and made_of in _FLOATS):
            what = f"{name} is of {made_of}, the network's are of {tensor.dtype}"
            raise ModelFileError(file, what, "Take the file of its run again")


def _refuse_endless(file: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            what = f"{name} holds numbers that are none (NaN or infinite)"
            raise ModelFileError(file, what, "Copy it again, or take the model of another run")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def with_confidence(
    statistics: TrainingStatistics | None, confidences: Sequence[float]
) -> TrainingStatistics | None:
    """Return the statistics with how sure the network was of the validation images."""
    if statistics is None or not confidences:
        return statistics
    mean = sum(confidences) / len(confidences)
    variance = sum((value - mean) ** 2 for value in confidences) / len(confidences)
    return msgspec.structs.replace(statistics, confidence=mean, confidence_deviation=variance**0.5)
