"""What a model file says of itself: its header, read without torch.

A model file is a `.safetensors` file whose metadata holds one JSON text under "emcfsys".
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import ModelFileError
from emcfsys_engine.files import reading

FORMAT = 2  # 2: it may tell how good a mask is
KEY = "emcfsys"
_LARGEST_PATCH_PX = 1 << 16
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself

Head = Literal["unet", "pspnet", "deeplabv3plus", "upernet"]
Norm = Literal["batch", "group"]


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to build a network again; it is stored in model files for ever."""

    head: Head
    backbone: str
    in_channels: int = 1  # of the image: 1 grey, 3 red, green and blue
    num_classes: int
    num_planes: int = 0  # after the classes: distance and border of objects, or none
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


class ObjectSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How objects are told apart in what a network predicts, as tuned on the validation images."""

    seed: float = 0.3  # of the distance, 0 to 1: what has no higher peak is part of its neighbour
    neck: float = 0.8  # of the lower peak: where the pass between two is higher, they are one
    min_px: int = 1  # smaller ones are part of what they touch, or none


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """By what a mask's IoU is expected without its truth, learned at the end of a training.

    Features of a cell are centred, scaled, turned onto the axes of their PCA and compared with a
    sample of the training images' cells. What is seen of an image is compared with what was seen of
    trials, validation images as they are and made worse, whose IoU is known: it is expected to be
    like that of the trials it resembles, and poor where it resembles none.
    """

    temperatures: tuple[float, ...]  # of each class, where it is the likeliest
    centre: tuple[float, ...]  # F numbers, and so many of `scale`
    scale: tuple[float, ...]
    basis: tuple[tuple[float, ...], ...]  # K axes of F numbers
    spread: tuple[float, ...]  # deviation along each axis
    residual: float  # what is usual off the axes
    sample: tuple[tuple[float, ...], ...]  # cells of training images, in deviations along the axes
    trials: tuple[tuple[float, ...], ...] = ()  # R trials of S signals, scaled
    kinds: tuple[str, ...] = ()  # how each was made worse; empty: as it is
    signal_scale: tuple[float, ...] = ()  # S numbers
    reach: float = 1.0  # how far trials resemble one another
    noise: float = 0.1  # share of the variance that no signal tells
    weights: tuple[tuple[float, ...], ...] = ()  # R numbers: of the mean over classes, then of each
    residuals: tuple[float, float] = (0.0, 0.0)  # nine of ten images left out lie between these
    usual_iou: float = 1.0  # mean IoU of validation images as they are
    num_images: int = 0  # of these


SAME_PIXEL = 0.1  # pixel sizes that differ less, relatively, are one to a network


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to use the weights, and where they come from."""

    format: int = FORMAT
    network: NetworkSpec
    classes: tuple[str, ...]  # in the order of the network's channels
    class_values: tuple[int, ...]  # what each is in a mask
    colours: tuple[tuple[int, int, int], ...]
    instances: tuple[str, ...] = ()  # classes whose objects are told apart
    objects: ObjectSettings = ObjectSettings()
    normaliser: NormaliserSettings = NormaliserSettings()
    pixel_nm: float | None = None  # what the network was trained at
    rescales: bool = False  # images of another known pixel size are brought to it, unasked
    patch_px: int
    step: int = 0
    scores: dict[str, float | None] = {}
    statistics: TrainingStatistics | None = None
    trained_on: dict[str, str] = {}  # image of the project -> digest of its grey values
    validated_on: dict[str, str] = {}  # the same; both are empty in older files
    trust: Trust | None = None  # none in older files, and where too few images are labelled
    no_trust: str = ""  # why there is none; empty in older files
    project: str = ""
    run: str = ""
    created: str = ""  # ISO 8601, UTC
    versions: dict[str, str] = {}
    test_vector: TestVector | None = None
    weights_digest: str = ""  # SHA-256 over all tensors: a flipped byte is found on loading
    digests: dict[str, str] = {}  # of every other field as it was written; empty in older files

    @property
    def cannot_tell(self) -> str:
        """Return in words why it does not tell how good its masks are; empty: it does."""
        if self.trust is not None and self.trust.weights:
            return ""
        return self.no_trust or "it was trained by an older version, or made elsewhere"


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
        card: ModelCard = any_names.decode(text.encode("utf-8", "surrogatepass"), ModelCard)
    except (msgspec.MsgspecError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(file, f"its header is damaged: {error}", "Copy it again") from None
    if why := _why_nonsense(card):
        raise ModelFileError(file, f"its header is damaged: {why}", "Copy it again")
    return card


def digests_of(card: Mapping[str, object]) -> dict[str, str]:
    """Return a digest of each field of a card as it stands in its file, but of these digests."""
    return {
        name: hashlib.blake2b(
            json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass"), digest_size=12
        ).hexdigest()
        for name, value in card.items()
        if name != "digests"
    }


def edited_fields(file: Path) -> tuple[str, ...] | None:
    """Return the fields of a model file's card that are not as they were written.

    None: the file is older than the digests that tell so.
    Raises: as `read_card`.
    """
    known = read_card(file).digests
    now = digests_of(json.loads(read_metadata(file)[KEY]))
    if not known:
        return None
    return tuple(name for name in {**known, **now} if known.get(name) != now.get(name))


def _why_nonsense(card: ModelCard) -> str:
    """Say what in a card no network of ours can have; empty when all of it is sound."""
    counts = (card.network.num_classes, len(card.class_values), len(card.colours))
    if not card.classes or any(count != len(card.classes) for count in counts):
        return f"{len(card.classes)} classes, but {counts} channels, values and colours"
    if len({*card.classes}) < len(card.classes) or len({*card.class_values}) < len(card.classes):
        return "two classes share a name or a value"
    if not all(card.classes) or any("\0" in name for name in card.classes):
        return "a class has no name"
    if not all(0 <= value <= 255 for value in card.class_values):
        return f"class values {card.class_values} do not fit in a mask"
    if not all(0 <= part <= 255 for colour in card.colours for part in colour):
        return "a colour is none"
    if not {*card.instances} <= {*card.classes[1:]}:
        return "the objects of what is no class are told apart"
    if card.network.num_planes != (2 if card.instances else 0):
        return f"{card.network.num_planes} planes for objects of {len(card.instances)} classes"
    if not (0 <= card.objects.seed <= 1 and 0 <= card.objects.neck <= 1):
        return "objects cannot be told apart by shares outside 0 to 1"
    low, high = card.normaliser.low_percentile, card.normaliser.high_percentile
    if not 0 <= low < high <= 100:
        return f"percentiles {low:g} to {high:g} do not exist"
    if card.pixel_nm is not None and not 1e-6 < card.pixel_nm < 1e9:
        return f"a pixel of {card.pixel_nm:g} nm does not exist"
    if not (1 <= card.patch_px <= _LARGEST_PATCH_PX and 1 <= card.network.in_channels <= 64):
        return f"patches of {card.patch_px} px in {card.network.in_channels} channels do not exist"
    if not 0 <= card.network.drop_path < 1:
        return "drop_path is no share"
    return "" if card.trust is None else _why_no_trust(card.trust, len(card.classes))


def _why_no_trust(trust: Trust, num_classes: int) -> str:
    """Say why nothing can be expected by these numbers; empty when they are sound."""
    features, axes = len(trust.centre), len(trust.basis)
    lengths = {len(trust.scale), *map(len, trust.basis)}
    if not features or not axes or lengths != {features} or len(trust.spread) != axes:
        return "its expectation of masks has axes that do not fit"
    if not trust.sample or {*map(len, trust.sample)} != {axes}:
        return "its expectation of masks has a sample that does not fit"
    if len(trust.temperatures) != num_classes or len(trust.weights) not in (0, num_classes + 1):
        return "its expectation of masks is of other classes"
    trials, signals = len(trust.trials), len(trust.signal_scale)
    if {*map(len, trust.trials)} - {signals} or len(trust.kinds) != trials:
        return "its expectation of masks has trials that do not fit"
    if any(len(one) != trials for one in trust.weights if one):
        return "its expectation of masks has weights that do not fit"
    positive = (*trust.temperatures, *trust.scale, *trust.spread, trust.residual, trust.reach)
    positive += (*trust.signal_scale, trust.noise)
    if not all(value > 0 for value in positive):
        return "its expectation of masks divides by nothing"
    return ""


def read_metadata(file: Path) -> Mapping[str, str]:
    """Return the metadata of any safetensors file.

    Raises: ModelFileError for a file that is none.
    Source: the safetensors format: 8 bytes of length, little-endian, then a JSON header.
    """
    try:
        with reading(file) as stream:
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
    except (ValueError, RecursionError):
        what = "is damaged or no safetensors file"
        raise ModelFileError(file, what, "Copy it again, or name a model file") from None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        return {}
    return {name: text for name, text in metadata.items() if isinstance(text, str)}
