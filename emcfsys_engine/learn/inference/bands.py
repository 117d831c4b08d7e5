"""What a network made of some rows of an image, and a whole image put together from them.

C classes, H and W pixels, h rows.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser, stretched
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.images.rows import PlaneRows, Survey, open_rows, rows_of, survey
from emcfsys_engine.model_card import ModelCard


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is made besides the mask."""

    probabilities: bool = False
    uncertainty: bool = False


@dataclass(frozen=True, kw_only=True)
class Band:
    """Some rows of a prediction.

    Shapes: mask is h×W uint8 with class values; probabilities C×h×W uint8 (255 = certain);
    uncertainty h×W uint8: the entropy of the probabilities, 255 where all classes are as likely.
    """

    first: int
    mask: np.ndarray
    counts: np.ndarray  # pixels of each class
    sure: float  # sum over pixels of the probability of the chosen class
    probabilities: np.ndarray | None = None
    uncertainty: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the network made of one image.

    Shapes: mask is H×W uint8 with class values; probabilities C×H×W uint8 (255 = certain) or None;
    uncertainty H×W uint8 or None.
    """

    mask: np.ndarray
    confidence: float  # mean probability of the chosen class
    shares: dict[str, float]  # area fraction of each class
    probabilities: np.ndarray | None = None
    uncertainty: np.ndarray | None = None


def band_of(
    first: int, logits_CHW: Tensor, card: ModelCard, specimen_rows: int, wanted: Wanted
) -> Band:
    """Return what logits mean; rows from `specimen_rows` on are an info bar: the first class."""
    shares_CHW = logits_CHW.softmax(dim=0)
    best = shares_CHW.max(dim=0)
    indices = best.indices.to(torch.uint8).cpu().numpy()
    entropy = None
    if wanted.uncertainty:
        entropy = _entropy(shares_CHW).cpu().numpy()
        entropy[max(0, specimen_rows - first) :] = 0
    indices[max(0, specimen_rows - first) :] = 0
    probabilities = None
    if wanted.probabilities:
        probabilities = (shares_CHW * 255).round().to(torch.uint8).cpu().numpy()
    values = np.asarray(card.class_values, np.uint8)
    return Band(
        first=first,
        mask=values[indices],
        counts=np.bincount(indices.ravel(), minlength=len(card.classes)),
        sure=float(best.values.sum(dtype=torch.float64)),
        probabilities=probabilities,
        uncertainty=entropy,
    )


class Tally:
    """What is known of a whole image when all its bands went by."""

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self._counts = np.zeros(len(card.classes), np.int64)
        self._sure = 0.0

    def add(self, band: Band) -> None:
        """Count a band."""
        self._counts += band.counts
        self._sure += band.sure

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


def whole(bands: Iterable[Band], card: ModelCard) -> Prediction:
    """Return an image's prediction, put together from all its bands."""
    tally, every = Tally(card), list(bands)
    for band in every:
        tally.add(band)
    entropies = [band.uncertainty for band in every if band.uncertainty is not None]
    shares = [band.probabilities for band in every if band.probabilities is not None]
    return Prediction(
        mask=_joined([band.mask for band in every]),
        confidence=tally.confidence,
        shares=tally.shares,
        probabilities=_joined(shares, axis=1) if shares else None,
        uncertainty=_joined(entropies) if entropies else None,
    )


def _joined(parts: list[np.ndarray], axis: int = 0) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)


def _entropy(shares_CHW: Tensor) -> Tensor:
    """Return the entropy over that of equal shares, as uint8. Source: Shannon 1948."""
    classes = shares_CHW.shape[0]
    if classes == 1:
        return torch.zeros(shares_CHW.shape[1:], dtype=torch.uint8)
    total_HW = torch.special.entr(shares_CHW).sum(dim=0) / math.log(classes)
    return (total_HW * 255).round().clamp(0, 255).to(torch.uint8)


LARGE_PX = 24_000_000  # 4096² stays in memory, normalised ahead of its turn


@dataclass(kw_only=True)
class OpenImage:
    """An image whose statistics are known."""

    ref: ImageRef
    rows: PlaneRows
    survey: Survey
    normaliser: Normaliser
    is_large: bool
    _normalised: np.ndarray | None = None
    _again: PlaneRows | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rows.height, self.rows.width

    @property
    def pixel_nm(self) -> tuple[float, float] | None:
        """The size of a pixel, (y, x)."""
        return self.rows.pixel_nm

    def read(self, first: int, last: int) -> np.ndarray:
        """Return rows for the network. Shapes: h×W float32."""
        if self._normalised is not None:
            return self._normalised[first:last]
        grey = self.survey.grey(self.rows.read(first, last))
        return self.normaliser.apply_known(grey, self.survey.statistics)

    def view(self, first: int, last: int) -> np.ndarray:
        """Return rows as people see them. Shapes: h×W uint8.

        It has an open file of its own: while rows go to the network, those above are drawn.
        """
        rows = self.rows
        if self.is_large:
            self._again = self._again or open_rows(self.ref)
            rows = self._again or rows
        low, high, _, _ = self.survey.statistics
        return stretched(self.survey.grey(rows.read(first, last)), low, high)

    def close(self) -> None:
        """Close its files."""
        self.rows.close()
        if self._again is not None:
            self._again.close()


def open_image(ref: ImageRef, normaliser: Normaliser) -> OpenImage:
    """Return an image, its statistics found; a large one is read in bands where its format can.

    Raises: ImageError for what is no micrograph, is damaged or has no pixels.
    """
    facts = probe(ref.path)
    rows, exact = None, ref
    if facts.planes == 1 or ref.plane is not None:  # of a stack without a plane, reading says so
        exact = ImageRef(path=ref.path, plane=ref.plane or 0)
        rows = open_rows(exact) if math.prod(facts.shape[:2]) > LARGE_PX else None
    if rows is not None:
        try:
            found = survey(rows, normaliser)
        except BaseException:
            rows.close()
            raise
        return OpenImage(ref=ref, rows=rows, survey=found, normaliser=normaliser, is_large=True)
    micrograph = read_micrograph(exact)
    rows = rows_of(micrograph)
    if not micrograph.pixels.size:
        raise ImageError(ref.path, "has no pixels", "Leave it out")
    found = survey(rows, normaliser, info_bar_rows=micrograph.info_bar_rows)
    image = OpenImage(ref=ref, rows=rows, survey=found, normaliser=normaliser, is_large=False)
    if rows.height * rows.width <= LARGE_PX:
        image._normalised = image.read(0, rows.height)  # pyright: ignore[reportPrivateUsage]
    return image
