"""Is an image unlike those that its model was trained on? Told by grey values and certainty."""

import math

from emcfsys_engine.learn.inference.bands import OpenImage
from emcfsys_engine.learn.watch.numbers import GreyValues, grey_values
from emcfsys_engine.model_card import ModelCard

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
        own = math.sqrt(math.prod(image.pixel_nm))
        ratio = max(own / card.pixel_nm, card.pixel_nm / own)
        if ratio > _UNLIKE_PIXEL_SIZE:
            found.append(f"pixel size {own:.4g} nm, trained at {card.pixel_nm:.4g} nm")
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
