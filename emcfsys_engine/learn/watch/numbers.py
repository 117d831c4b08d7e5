"""The numbers of an arriving image that limits and comparisons speak of: of pixels and of masks."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from emcfsys_engine.images.micrograph import sides_words
from emcfsys_engine.learn.inference.bands import OpenImage
from emcfsys_engine.learn.inference.expected import Expected
from emcfsys_engine.learn.watch.measurements import Line, area_of
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.verdicts import number_of_class

_APART = 2  # pixels between those whose difference tells how sharp an image is


@dataclass(frozen=True, kw_only=True)
class GreyValues:
    """What the specimen's grey values are like; NaN where there is no number among them.

    `sharpness`: the mean square of the difference of pixels two apart, over twice the variance:
    near 0 where all is smooth, 1 for noise. `saturation`: the share of pixels that have the darkest
    or the brightest value of the image, 0 to 1.
    Source: Brenner et al. 1976 (J. Histochem. Cytochem. 24:100), divided by the variance so that
    contrast does not count, in both directions where theirs is in one.
    """

    mean: float
    contrast: float  # deviation
    sharpness: float
    saturation: float

    def named(self) -> dict[str, float]:
        """Return those that are known, by the names that limits have for them."""
        found = {
            "mean": self.mean,
            "contrast": self.contrast,
            "sharpness": self.sharpness,
            "saturation": self.saturation,
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}


def grey_values(image: OpenImage) -> GreyValues:
    """Read the specimen in bands; what is no number is left out."""
    number, total, squares, offset = 0, 0.0, 0.0, None
    focus, ends = _Focus(), _Ends()
    for grey_hW in _bands(image):
        focus.add(grey_hW)
        grey = grey_hW[np.isfinite(grey_hW)]
        ends.add(grey)
        if offset is None and grey.size:
            offset = float(grey.mean())  # near the mean, squares lose no digits
        grey -= offset or 0.0
        number, total = number + grey.size, total + float(grey.sum())
        squares += float(np.square(grey).sum())
    if not number:
        return GreyValues(mean=math.nan, contrast=math.nan, sharpness=math.nan, saturation=math.nan)
    mean = total / number
    variance = max(0.0, squares / number - mean * mean)
    return GreyValues(
        mean=mean + (offset or 0.0),
        contrast=math.sqrt(variance),
        sharpness=focus.mean / (2 * variance) if variance > 0 else 0.0,
        saturation=ends.number / number,
    )


def numbers_of(
    pixel_nm: tuple[float, float] | None, confidence: float, shares: Mapping[str, float]
) -> dict[str, float]:
    """Return what is known of every image that was predicted."""
    area_nm2 = area_of(pixel_nm)
    found = {"confidence": confidence} if math.isfinite(confidence) else {}
    if area_nm2 is not None:
        found["pixel_nm"] = math.sqrt(area_nm2)
    return found | {number_of_class(name, "fraction"): share for name, share in shares.items()}


def shares_of(classes: Mapping[str, Line]) -> dict[str, float]:
    """Return the share of each class in the pixels that have one."""
    total = sum(int(told["px"]) for told in classes.values())
    return {
        number_of_class(name, "fraction"): int(told["px"]) / total
        for name, told in classes.items()
        if total
    }


def numbers_expected(found: Expected | None) -> dict[str, float]:
    """Return how good the mask is expected to be; nothing where its model cannot tell."""
    if found is None:
        return {}
    told = {number_of_class(name, "expected_iou"): iou for name, iou in found.classes.items()}
    return {"expected_iou": found.iou} | told


def numbers_of_objects(classes: Mapping[str, Line]) -> dict[str, float]:
    """Return how many objects each class has and how large they are; what is not known is out."""
    return {
        number_of_class(name, word): float(told[word])
        for name, told in classes.items()
        for word in ("objects", "diameter_nm", "diameter_px")
        if told.get(word, "") != ""
    }


def _bands(image: OpenImage) -> Iterator[np.ndarray]:
    height, rows = image.size[0] - image.survey.info_bar_rows, image.rows
    step = height if rows.in_memory else rows.block_rows
    for first in range(0, height, max(1, step)):
        last = min(height, first + step)
        yield image.survey.grey(rows.read(first, last)).astype(np.float64)


@dataclass
class _Focus:
    """Differences of pixels two apart, also across the border of two bands."""

    total: float = 0.0
    number: int = 0
    above: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def mean(self) -> float:
        """Return their mean square; 0 where there are none."""
        return self.total / max(1, self.number)

    def add(self, grey_hW: np.ndarray) -> None:
        both = np.concatenate([self.above, grey_hW]) if self.above.size else grey_hW
        for apart in (
            grey_hW[:, _APART:] - grey_hW[:, :-_APART],
            both[_APART:] - both[:-_APART],
        ):
            known = apart[np.isfinite(apart)]
            self.total += float(np.square(known).sum())
            self.number += known.size
        self.above = both[-_APART:].copy()


@dataclass
class _Ends:
    """How many pixels have the lowest and the highest value so far."""

    low: tuple[float, int] = (math.inf, 0)
    high: tuple[float, int] = (-math.inf, 0)

    @property
    def number(self) -> int:
        """Return how many there are of both; of one value alone they are the same pixels."""
        return self.low[1] if self.low[0] == self.high[0] else self.low[1] + self.high[1]

    def add(self, grey: np.ndarray) -> None:
        if not grey.size:
            return
        low, high = float(grey.min()), float(grey.max())
        if low <= self.low[0]:
            self.low = low, int((grey == low).sum()) + self.low[1] * (low == self.low[0])
        if high >= self.high[0]:
            self.high = high, int((grey == high).sum()) + self.high[1] * (high == self.high[0])


_UNLIKE_DEVIATIONS = 4.0
_UNLIKE_PIXEL_SIZE = 1.25


def unlike_training(
    image: OpenImage, confidence: float, card: ModelCard, grey: GreyValues | None = None
) -> str:
    """Tell why an image is unlike those the model was trained on; empty: it is not.

    `grey`: its grey values, where they are known already.

    Grey values are compared by 4 deviations of the training images and half their contrast, so
    that a handful of very equal training images does not flag everything.
    """
    known = card.statistics
    if known is None:
        return ""
    found: list[str] = []
    if card.pixel_nm and image.pixel_nm and not card.rescales:
        ratio = max(max(own / card.pixel_nm, card.pixel_nm / own) for own in image.pixel_nm)
        if ratio > _UNLIKE_PIXEL_SIZE:
            found.append(
                f"pixel size {sides_words(image.pixel_nm)} nm, trained at {card.pixel_nm:.4g} nm"
            )
    grey = grey or grey_values(image)
    mean, contrast = grey.mean, grey.contrast
    limit = _UNLIKE_DEVIATIONS * known.mean_deviation + 0.5 * known.contrast
    if abs(mean - known.mean) > limit:
        found.append(f"mean {mean:.4g}, training {known.mean:.4g} ± {known.mean_deviation:.2g}")
    limit = _UNLIKE_DEVIATIONS * known.contrast_deviation + 0.5 * known.contrast
    if abs(contrast - known.contrast) > limit:
        found.append(f"contrast {contrast:.4g}, training {known.contrast:.4g}")
    if known.confidence is not None:
        spread = max(_UNLIKE_DEVIATIONS * (known.confidence_deviation or 0.0), 0.1)
        if confidence < known.confidence - spread:
            found.append(f"confidence {confidence:.2f}, validation {known.confidence:.2f}")
    return "; ".join(found)
