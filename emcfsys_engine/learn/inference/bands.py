"""What a network made of some rows of an image, and a whole image put together from them.

C classes, H and W pixels, h rows.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
