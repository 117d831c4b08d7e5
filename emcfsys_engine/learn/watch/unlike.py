"""Is an image unlike those that its model was trained on? Told by grey values and certainty."""

import math

import numpy as np

from emcfsys_engine.learn.inference.bands import OpenImage
from emcfsys_engine.model_card import ModelCard

_UNLIKE_DEVIATIONS = 4.0
_UNLIKE_PIXEL_SIZE = 1.25


def unlike_training(image: OpenImage, confidence: float, card: ModelCard) -> str:
    """Tell why an image is unlike those the model was trained on; empty: it is not.

    Grey values are compared by 4 deviations of the training images and half their contrast, so
    that a handful of very equal training images does not flag everything.
    """
    known = card.statistics
    if known is None:
        return ""
    found: list[str] = []
    if card.pixel_nm and image.pixel_nm and not card.rescales:
        own = math.sqrt(math.prod(image.pixel_nm))
        ratio = max(own / card.pixel_nm, card.pixel_nm / own)
        if ratio > _UNLIKE_PIXEL_SIZE:
            found.append(f"pixel size {own:.4g} nm, trained at {card.pixel_nm:.4g} nm")
    mean, contrast = _mean_and_deviation(image)
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


def _mean_and_deviation(image: OpenImage) -> tuple[float, float]:
    """Return both of the specimen's grey values, read in bands; what is no number is left out."""
    number, total, squares, offset = 0, 0.0, 0.0, None
    height, rows = image.size[0] - image.survey.info_bar_rows, image.rows
    step = height if rows.in_memory else rows.block_rows
    for first in range(0, height, max(1, step)):
        grey = image.survey.grey(rows.read(first, min(height, first + step))).astype(np.float64)
        grey = grey[np.isfinite(grey)]
        if offset is None and grey.size:
            offset = float(grey.mean())  # near the mean, squares lose no digits
        grey -= offset or 0.0
        number, total = number + grey.size, total + float(grey.sum())
        squares += float(np.square(grey).sum())
    if not number:
        return math.nan, math.nan
    mean = total / number
    return mean + (offset or 0.0), math.sqrt(max(0.0, squares / number - mean * mean))
