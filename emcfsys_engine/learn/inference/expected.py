"""From what was gathered of an image to the IoU its mask is expected to have, and why so low.

C classes.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from emcfsys_engine.learn.inference.evidence import OF_CELLS, OF_CLASS
from emcfsys_engine.model_card import Trust

_EDGE = 0.01  # IoUs nearer to 0 and 1 are as near as this: the logarithm of their odds ends there
_LOW = 0.8  # of the usual: below it a reason is told
_SIGNALS = ("overlap", "certainty", "far", "off", "near")
_WORDS = {
    "overlap": "unsure of many pixels",
    "certainty": "unsure along many borders",
    "far": "unlike the training images",
    "off": "texture or sharpness unlike the training images",
    "near": "like none of the training images",
}


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """How good a mask is likely to be; nine of ten lie between low and high."""

    iou: float  # mean over the classes
    low: float
    high: float
    classes: dict[str, float] = {}  # IoU of each class that was found
    reason: str = ""  # why it is low; empty: it is not


def in_event(found: Expected | None) -> dict[str, Any]:
    """Return what an event of an image says of it."""
    if found is None:
        return {}
    return {
        "expected_iou": found.iou,
        "expected_low": found.low,
        "expected_high": found.high,
        "expected_class_iou": found.classes,
        "expected_reason": found.reason,
    }


def expected(
    trusts: Sequence[Trust], evidence_MX: np.ndarray, classes: Sequence[str]
) -> Expected | None:
    """Return what is expected of an image; None where nothing of it was seen.

    Of an ensemble it is the mean of what is expected of its members.
    Shapes: evidence is M×(4·C + 4), sums over the image, a row a member.
    """
    if not trusts or not trusts[0].weights or not np.isfinite(evidence_MX).all():
        return None
    each = [_of_one(one, row, classes) for one, row in zip(trusts, evidence_MX, strict=True)]
    known = [one for one in each if one is not None]
    if len(known) < len(each):
        return None
    names = [name for name in classes if all(name in one.classes for one in known)]
    return Expected(
        iou=float(np.mean([one.iou for one in known])),
        low=min(one.low for one in known),
        high=max(one.high for one in known),
        classes={name: float(np.mean([one.classes[name] for one in known])) for name in names},
        reason=min(known, key=lambda one: one.iou).reason,
    )


def _of_one(trust: Trust, evidence_X: np.ndarray, classes: Sequence[str]) -> Expected | None:
    numbers = signals(evidence_X)
    if numbers is None:
        return None
    mean = numbers[0] @ np.array(trust.weights[0][1:]) + trust.weights[0][0]
    told: dict[str, float] = {}
    for name, row, weights in zip(classes, numbers[1:], trust.weights[1:], strict=True):
        if weights and np.isfinite(row).all():
            told[name] = float(share(row @ np.array(weights[1:]) + weights[0]))
    iou = float(share(mean))
    return Expected(
        iou=iou,
        low=float(share(mean + trust.residuals[0])),
        high=float(share(mean + trust.residuals[1])),
        classes=told,
        reason=_reason(trust, numbers[0]) if iou < _LOW * trust.usual_iou else "",
    )


def _reason(trust: Trust, row: np.ndarray) -> str:
    """Return in words the signals that lower the expectation most."""
    lowers = (np.array(trust.usual) - row) * np.array(trust.weights[0][1:])
    order = np.argsort(-lowers)
    most = lowers[order[0]]
    if most <= 0:
        return ""
    return ", ".join(
        _WORDS[_SIGNALS[number]] for number in order[:2] if lowers[number] > max(0.0, 0.5 * most)
    )


def signals(evidence_X: np.ndarray) -> np.ndarray | None:
    """Return the signals of the whole image, then of each class; more is better in all of them.

    Shapes: (1 + C)×5; rows of classes that were not found are not finite.
    """
    of_classes, cells = evidence_X[:-OF_CELLS].reshape(-1, OF_CLASS), evidence_X[-OF_CELLS:]
    pixels, sure, total, _ = of_classes.T
    if pixels.sum() == 0 or cells[0] == 0:
        return None
    found = pixels > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap_C = np.where(found, sure / (pixels + total - sure), np.nan)
        sure_C = np.where(found, sure / pixels, np.nan)
    distances = -np.clip(cells[1:] / cells[0], -10, 10)
    rows = [(odds(np.nanmean(overlap_C)), odds(sure.sum() / pixels.sum()))]
    rows += [(odds(one), odds(other)) for one, other in zip(overlap_C, sure_C, strict=True)]
    return np.array([[*row, *distances] for row in rows])


def odds(part: float | np.ndarray) -> float | np.ndarray:
    """Return the logarithm of the odds of a share."""
    inside = np.clip(part, _EDGE, 1 - _EDGE)
    return np.log(inside / (1 - inside))


def share(log_odds: float | np.ndarray) -> float | np.ndarray:
    """Return the share whose odds have this logarithm."""
    return 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
