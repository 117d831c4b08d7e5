"""What a model file says of itself: its header, read without torch.

A model file is a `.safetensors` file whose metadata holds one JSON text under "emcfsys".
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine.errors import ModelFileError

FORMAT = 1
KEY = "emcfsys"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself

Head = Literal["unet", "pspnet", "deeplabv3plus", "upernet"]
Norm = Literal["batch", "group"]


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to build a network again; it is stored in model files for ever."""

    head: Head
    backbone: str
    in_channels: int = 1
    num_classes: int
    auxiliary: bool = False  # a second head on the stride-16 map, used in training only
    norm: Norm = "batch"  # of the decoder; "group" where a micro-batch can be 1
    drop_path: float = 0.0  # stochastic depth of the backbone, where it has one


class NormaliserSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How grey values are made alike: clipped at percentiles of the whole image, then z-scored."""

    low_percentile: float = 0.5
    high_percentile: float = 99.5
    kind: Literal["percentile_zscore"] = "percentile_zscore"


class TestVector(msgspec.Struct, frozen=True, kw_only=True):
    """A seeded input and what the network made of it, so that anyone can verify the file."""

    seed: int
    size_px: int
    digest: str  # SHA-256 of the float32 logits: equal on the machine that made it
    sample: tuple[float, ...]  # a few logits, for other machines: equal to about 1e-3


class TrainingStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Grey values of the training images, against which new ones are compared."""

    num_images: int
    mean: float  # of the images' means, raw grey values
    mean_deviation: float  # of the images' means
    contrast: float  # mean of the images' standard deviations
    contrast_deviation: float
    confidence: float | None = None  # mean on the validation images
    confidence_deviation: float | None = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to use the weights, and where they come from."""

    format: int = FORMAT
    network: NetworkSpec
    classes: tuple[str, ...]  # in the order of the network's channels
    class_values: tuple[int, ...]  # what each is in a mask
    colours: tuple[tuple[int, int, int], ...]
    normaliser: NormaliserSettings = NormaliserSettings()
    pixel_nm: float | None = None  # what the network was trained at
    patch_px: int
    step: int = 0
    scores: dict[str, float | None] = {}
    statistics: TrainingStatistics | None = None
    trained_on: dict[str, str] = {}  # image of the project -> digest of its grey values
    validated_on: dict[str, str] = {}  # the same; both are empty in older files
    project: str = ""
    run: str = ""
    created: str = ""  # ISO 8601, UTC
    versions: dict[str, str] = {}
    test_vector: TestVector | None = None
    weights_digest: str = ""  # SHA-256 over all tensors: a flipped byte is found on loading


def read_card(file: Path) -> ModelCard:
    """Read a model file's header only.

    Raises: ModelFileError for a file that is damaged, not ours, or of a newer format.
    """
    text = read_metadata(file).get(KEY)
    if text is None:
        remedy = "Import bare weights with model.weights in project.toml"
        raise ModelFileError(file, "holds weights, but is no model file of ours", remedy)
    try:
        number = json.loads(text).get("format")
        if not isinstance(number, int) or number > FORMAT:
            what = f"has format {number}, this version knows up to {FORMAT}"
            raise ModelFileError(file, what, "Update emcfsys-tui")
        return msgspec.json.decode(text, type=ModelCard)
    except (msgspec.MsgspecError, ValueError, AttributeError) as error:
        raise ModelFileError(file, f"its header is damaged: {error}", "Copy it again") from None


def read_metadata(file: Path) -> Mapping[str, str]:
    """Return the metadata of any safetensors file.

    Raises: ModelFileError for a file that is none.
    Source: the safetensors format: 8 bytes of length, little-endian, then a JSON header.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
            size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not start:
                raise ModelFileError(file, "is empty", "Copy it again")
            if not 2 <= size <= _MAX_HEADER_BYTES:
                raise ModelFileError(file, "is no safetensors file", "Name a model file")
            header = json.loads(stream.read(size))
    except FileNotFoundError:
        raise ModelFileError(file, "there is no such file", "Mend the path") from None
    except PermissionError:
        raise ModelFileError(file, "may not be read", "Ask its owner for permission") from None
    except IsADirectoryError:
        raise ModelFileError(file, "is a folder", "Name a model file in it") from None
    except OSError as error:
        raise ModelFileError(file, f"cannot be read: {error.strerror}", "Try again") from None
    except ValueError:
        what = "is damaged or no safetensors file"
        raise ModelFileError(file, what, "Copy it again, or name a model file") from None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}
