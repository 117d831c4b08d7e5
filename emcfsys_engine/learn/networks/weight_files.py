"""Read other people's checkpoints without running their code."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from emcfsys_engine.errors import WeightsError

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

    Raises: WeightsError for a file that is none, or whose pickle would have to run code.
    """
    if not file.is_file():
        raise WeightsError(file, "there is no such file", "Give the path of a checkpoint")
    content: object = _safetensors(file) if file.suffix == ".safetensors" else _pickle(file)
    found = list(_networks(content, depth=0))
    if not found:
        raise WeightsError(file, "it holds no weights", "Save the network's state_dict")
    return found


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(file, f"no safetensors file ({error})", "Copy it again") from error


def _pickle(file: Path) -> Any:
    try:
        # DINO and MAE save their plain settings beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise WeightsError(file, "no PyTorch checkpoint", "Copy it again") from error
        raise WeightsError(
            file,
            f"its pickle wants to run code ({wanted[1]})",
            "Save only the state_dict, best as .safetensors",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(file, f"no PyTorch checkpoint ({_first_line(error)})") from error


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
