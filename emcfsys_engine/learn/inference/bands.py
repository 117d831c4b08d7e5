"""What a network made of some rows of an image, and a whole image put together from them.

C classes, H and W pixels, h rows.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from emcfsys_engine.errors import ImageError, InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser, stretched
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.images.rows import PlaneRows, Survey, open_rows, rows_of, survey
from emcfsys_engine.learn.inference.expected import Expected, expected
from emcfsys_engine.learn.inference.objects import find_objects, values_of
from emcfsys_engine.learn.pixels_on_device import OwnRows, own_rows
from emcfsys_engine.model_card import ModelCard, Trust
from emcfsys_engine.regions import Region, region_in, whole_of


@dataclass(frozen=True, kw_only=True)
class WantedMaps:
    """What is made besides the mask."""

    probabilities: bool = False
    uncertainty: bool = False


@dataclass(frozen=True, kw_only=True)
class Band:
    """Some rows of a prediction.

    Shapes: mask is h×W uint8 with class values; probabilities C×h×W uint8 (255 = certain);
    uncertainty h×W uint8: the entropy of the probabilities, 255 where all classes are as likely;
    planes 2×h×W uint8: distance and border of objects, of a model that tells them apart; counts C
    int64; evidence float64.
    """

    first: int
    mask: np.ndarray
    counts: np.ndarray  # pixels of each class, of the specimen: an info bar's are not counted
    sure: float  # sum over these pixels of the probability of the chosen class
    probabilities: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    planes: np.ndarray | None = None
    evidence: np.ndarray | None = None  # of how good the mask is: sums, a row a member


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the network made of one image.

    Shapes: mask is H×W uint8 with class values; probabilities C×H×W uint8 (255 = certain) or None;
    uncertainty H×W uint8 or None; instances H×W uint32, the number of each pixel's object from 1,
    or None of a model that tells none apart; evidence float64.
    """

    mask: np.ndarray
    confidence: float  # mean probability of the chosen class
    shares: dict[str, float]  # area fraction of each class
    probabilities: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    instances: np.ndarray | None = None
    evidence: np.ndarray | None = None  # what that is told by: sums, a row a member
    expected: Expected | None = None  # how good the mask is; None: its models cannot tell


_FEW_CLASSES = 16  # a pass over the pixels for each


class Sent:
    """A band on its way from the device to the host, which need not wait for it yet."""

    def __init__(self, first: int, made: dict[str, Tensor]) -> None:
        self._first = first
        self._host = {name: each.to("cpu", non_blocking=True) for name, each in made.items()}
        self._arrived = None
        if made["mask"].device.type == "cuda":
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def band(self) -> Band:
        """Wait for it. What is returned has memory of its own: a GPU's is soon written again."""
        arrays = {name: each.numpy() for name, each in self._host.items()}
        if self._arrived is not None:
            self._arrived.synchronize()
            arrays = {name: each.copy() for name, each in arrays.items()}
        return Band(
            first=self._first,
            mask=arrays["mask"],
            counts=arrays["counts"],
            sure=float(arrays["sure"]),
            probabilities=arrays.get("probabilities"),
            uncertainty=arrays.get("uncertainty"),
            planes=arrays.get("planes"),
            evidence=arrays.get("evidence"),
        )


def sent(
    first: int,
    logits_CHW: Tensor,
    values_C: Tensor,
    specimen_rows: int,
    wanted: WantedMaps,
    evidence: Tensor | None = None,
) -> Sent:
    """Send what logits mean; rows from `specimen_rows` on are an info bar: the first class.

    What is counted is the specimen: a bar's share of the area is no class's.

    `values_C`: the classes' values in a mask, on the device. The host waits for nothing.
    Shapes: logits are C×h×W float32, the class values C uint8; channels after those are planes of
    objects; evidence is float64, a row a member.
    """
    bar = max(0, specimen_rows - first)
    logits_CHW, planes_PHW = logits_CHW.tensor_split((len(values_C),))
    shares_CHW = logits_CHW.softmax(dim=0)
    sure_HW, best_HW = _largest(shares_CHW)
    best_HW[bar:] = 0
    made = {
        "mask": values_C.index_select(0, best_HW.reshape(-1).int()).reshape(best_HW.shape),
        "counts": _counts(best_HW[:bar], len(values_C)),
        "sure": sure_HW[:bar].sum(dtype=torch.float64),
    }
    if len(planes_PHW):
        made["planes"] = (planes_PHW.sigmoid() * 255).round().to(torch.uint8)
    if wanted.uncertainty:
        made["uncertainty"] = _entropy(shares_CHW)
        made["uncertainty"][bar:] = 0
    if wanted.probabilities:
        made["probabilities"] = (shares_CHW * 255).round().to(torch.uint8)
    if evidence is not None:
        made["evidence"] = evidence
    return Sent(first, made)


def _largest(shares_CHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest share of each pixel, and the first class that has it, uint8.

    A processor is twenty times as fast at this as at torch.max, which also looks for the place.
    """
    if len(shares_CHW) > _FEW_CLASSES:
        sure_HW, best_HW = shares_CHW.max(dim=0)
        return sure_HW, best_HW.to(torch.uint8)
    sure_HW = shares_CHW[0]
    best_HW = torch.zeros_like(sure_HW, dtype=torch.uint8)
    for number, share_HW in enumerate(shares_CHW[1:], 1):
        is_larger_HW = (share_HW > sure_HW).view(torch.uint8)
        best_HW = torch.maximum(best_HW, is_larger_HW.mul_(number))
        sure_HW = torch.maximum(sure_HW, share_HW)
    return sure_HW, best_HW


def _counts(best_HW: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of each class. The host would wait for a GPU's bincount."""
    if best_HW.device.type == "cpu":
        return torch.bincount(best_HW.reshape(-1), minlength=num_classes)
    return torch.stack([(best_HW == number).sum() for number in range(num_classes)])


class ImageTally:
    """What is known of a whole image when all its bands went by."""

    def __init__(self, card: ModelCard, trusts: Sequence[Trust] = ()) -> None:
        """`trusts`: by what each model expects how good a mask is, where all can."""
        self._card, self._trusts = card, trusts
        self.evidence: np.ndarray | None = None
        self._counts = np.zeros(len(card.classes), np.int64)
        self._sure = 0.0

    def add(self, band: Band) -> None:
        """Count a band."""
        self._counts += band.counts
        self._sure += band.sure
        if band.evidence is not None:
            known = 0 if self.evidence is None else self.evidence
            self.evidence = known + band.evidence

    @property
    def expected(self) -> Expected | None:
        """How good the mask is likely to be; None where its models cannot tell."""
        if self.evidence is None:
            return None
        return expected(self._trusts, self.evidence, self._card.classes)

    @property
    def confidence(self) -> float:
        """Mean probability of the chosen class."""
        return self._sure / max(1, int(self._counts.sum()))

    @property
    def shares(self) -> dict[str, float]:
        """Area fraction of each class."""
        total = max(1, int(self._counts.sum()))
        pairs = zip(self._card.classes, self._counts.tolist(), strict=True)
        return {name: count / total for name, count in pairs}


def whole(
    bands: Iterable[Band], card: ModelCard, size_HW: tuple[int, int], trusts: Sequence[Trust] = ()
) -> Prediction:
    """Return an image's prediction, put together from all its bands as they come."""
    tally, made = ImageTally(card, trusts), dict[str, np.ndarray]()
    for band in bands:
        tally.add(band)
        for name in ("mask", "probabilities", "uncertainty", "planes"):
            part: np.ndarray | None = getattr(band, name)
            if part is not None:
                if name not in made:
                    made[name] = np.empty((*part.shape[:-2], *size_HW), part.dtype)
                made[name][..., band.first : band.first + part.shape[-2], :] = part
    return Prediction(
        mask=made["mask"],
        confidence=tally.confidence,
        shares=tally.shares,
        probabilities=made.get("probabilities"),
        uncertainty=made.get("uncertainty"),
        instances=find_objects(made["mask"], made["planes"], values_of(card), card.objects)
        if "planes" in made
        else None,
        evidence=tally.evidence,
        expected=tally.expected,
    )


def _entropy(shares_CHW: Tensor) -> Tensor:
    """Return the entropy over that of equal shares, as uint8. Source: Shannon 1948."""
    classes = shares_CHW.shape[0]
    if classes == 1:
        return torch.zeros_like(shares_CHW[0], dtype=torch.uint8)
    total_HW = torch.special.entr(shares_CHW).sum(dim=0) / math.log(classes)
    return (total_HW * 255).round().clamp(0, 255).to(torch.uint8)


LARGE_PX = 24_000_000  # 4096² stays in memory, read ahead of its turn


@dataclass(kw_only=True)
class OpenImage:
    """An image whose statistics are known."""

    ref: ImageRef
    rows: PlaneRows
    survey: Survey
    normaliser: Normaliser
    is_large: bool
    region: Region | None = None  # that is wanted of it; None: all
    _held: np.ndarray | None = None  # all of it, in its own type or normalised
    _again: PlaneRows | None = None
    _resources: ExitStack = field(default_factory=ExitStack)
    _window: tuple[tuple[int, int], PlaneRows] | None = None  # columns that are read

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is wanted, in pixels."""
        return self.whole_size if self.region is None else self.region.size

    @property
    def whole_size(self) -> tuple[int, int]:
        """Height and width of the whole image in pixels."""
        return self.rows.height, self.rows.width

    @property
    def pixel_nm(self) -> tuple[float, float] | None:
        """The size of a pixel, (y, x)."""
        return self.rows.pixel_nm

    def read(self, first: int, last: int) -> np.ndarray | OwnRows:
        """Return rows for the network: the camera's own, or normalised.

        Shapes: h×W or h×W×3, uint8 or uint16 as `OwnRows`, else float32.
        """
        return self.read_part(first, last, 0, self.rows.width)

    def read_part(self, first: int, last: int, left: int, right: int) -> np.ndarray | OwnRows:
        """Return some columns of rows; those of a large image are the same in all calls.

        Shapes: as `read`.
        """
        if self._held is None:
            if self._window is None or self._window[0] != (left, right):
                self._window = (left, right), self.rows.columns(left, right)
            pixels = self.survey.read_as(self._window[1].read(first, last))
        else:
            pixels = self._held[first:last, left:right]
        rows = own_rows(pixels, self.survey.per_channel)
        if rows is not None or self._held is not None:
            return pixels if rows is None else rows
        return self.normaliser.apply_all(pixels, self.survey.per_channel)

    def view(self, first: int, last: int) -> np.ndarray:
        """Return rows of what is wanted as people see them. Shapes: h×W uint8.

        It has an open file of its own: while rows go to the network, those above are drawn.
        """
        region = self.region or whole_of(self.whole_size)
        rows = self.rows
        if self.is_large:
            if self._again is None and (opened := open_rows(self.ref)) is not None:
                self._resources.callback(opened.close)
                self._again = opened.columns(*region.columns)
            rows = self._again or rows
        if rows.width != region.size[1]:
            rows = rows.columns(*region.columns)
        low, high, _, _ = self.survey.statistics
        pixels = rows.read(first + region.top, last + region.top)
        return stretched(self.survey.grey(pixels), low, high)

    def close(self) -> None:
        """Close its files."""
        self._window = self._again = None
        self.rows.close()
        self._resources.close()


def open_image(
    ref: ImageRef,
    normaliser: Normaliser,
    channels: int = 1,
    *,
    region: str = "",
    known: Survey | None = None,
) -> OpenImage:
    """Return an image, its statistics found; a large one is read in bands where its format can.

    `channels`: 3 for a network that reads colours; `region`: as `regions.written` returns it, all
    that is wanted; `known`: what a survey of the image found before.
    Raises: ImageError for what is no micrograph, is damaged or has no pixels; InputError for a
    region that leaves the image.
    """
    image = _opened(ref, normaliser, channels, known)
    if region:
        try:
            image.region = region_in(region, image.whole_size, str(ref))
        except InputError:
            image.close()
            raise
    return image


def _opened(
    ref: ImageRef, normaliser: Normaliser, channels: int, known: Survey | None
) -> OpenImage:
    facts = probe(ref.path)
    rows, exact = None, ref
    if facts.planes == 1 or ref.plane is not None:  # of a stack without a plane, reading says so
        exact = ImageRef(path=ref.path, plane=ref.plane or 0)
        # Of one that was surveyed a region is wanted: the rest need not be read.
        is_large = math.prod(facts.shape[:2]) > LARGE_PX or known is not None
        rows = open_rows(exact) if is_large else None
    if rows is not None:
        try:
            found = known or survey(rows, normaliser, channels=channels)
        except BaseException:
            rows.close()
            raise
        return OpenImage(ref=ref, rows=rows, survey=found, normaliser=normaliser, is_large=True)
    micrograph = read_micrograph(exact)
    rows = rows_of(micrograph)
    if not micrograph.pixels.size:
        raise ImageError(ref.path, "has no pixels", "Leave it out")
    bar = micrograph.info_bar_rows
    found = known or survey(rows, normaliser, info_bar_rows=bar, channels=channels)
    image = OpenImage(ref=ref, rows=rows, survey=found, normaliser=normaliser, is_large=False)
    if rows.height * rows.width <= LARGE_PX:
        made = image.read(0, rows.height)
        held = made.raw if isinstance(made, OwnRows) else made
        image._held = held  # pyright: ignore[reportPrivateUsage]
    return image
