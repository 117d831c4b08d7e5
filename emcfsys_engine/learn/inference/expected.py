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
_DIGITS = 9
_LOW = 0.8  # of the usual: below it a reason is told
_ALIKE = 0.3  # below it an image is like no trial
_DISTANCES = slice(3, 6)  # of the signals
_DISAGREE = "the models disagree"
_WORDS = {"": "unsure of many pixels", "empty": "no specimen", "defocus": "blurred"}


UNKNOWN = float(np.log(0.1 / 0.9))  # odds of an image that resembles nothing: IoU 0.1


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

    Of an ensemble it is the mean of what its members expect of their own masks, or less where their
    joint mask is another one: it cannot be as good as one that it differs from (see `_at_most`).
    Shapes: evidence is M×(OF_CLASS·C + OF_CELLS) float64, sums over the image, a row a member.
    """
    if not trusts or not trusts[0].weights or not np.isfinite(evidence_MX).all():
        return None
    each = [_of_one(one, row, classes) for one, row in zip(trusts, evidence_MX, strict=True)]
    known = [one for one in each if one is not None]
    if len(known) < len(each):
        return None
    if len(known) == 1:
        return known[0]
    alike_MC = _agreement(evidence_MX)
    names = [name for name in classes if all(name in one.classes for one in known)]
    mean = float(np.mean([one.iou for one in known]))
    iou = _at_most([one.iou for one in known], np.nanmean(alike_MC, axis=1))
    reason = min(known, key=lambda one: one.iou).reason
    if iou < mean and iou < _LOW * float(np.mean([one.usual_iou for one in trusts])):
        reason = _DISAGREE
    return Expected(
        iou=iou,
        low=min(iou, *(one.low for one in known)),
        high=max(one.high for one in known),
        classes={
            name: _at_most([one.classes[name] for one in known], _alike_in(alike_MC, number))
            for number, name in enumerate(classes)
            if name in names
        },
        reason=reason,
    )


def _agreement(evidence_MX: np.ndarray) -> np.ndarray:
    """Return each member's overlap with the joint mask; NaN: a class is in neither. Shapes: M×C."""
    of_classes_MC6 = evidence_MX[:, :-OF_CELLS].reshape(len(evidence_MX), -1, OF_CLASS)
    pixels_MC, joint_MC, shared_MC = of_classes_MC6[..., (0, 4, 5)].transpose(2, 0, 1)
    union_MC = pixels_MC + joint_MC - shared_MC
    return np.where(union_MC > 0, shared_MC / np.maximum(union_MC, 1e-9), np.nan)


def _alike_in(alike_MC: np.ndarray, place: int) -> np.ndarray:
    """Return each member's overlap with the joint mask in one class; both without it: 1."""
    return np.nan_to_num(alike_MC[:, place], nan=1.0)


def _at_most(ious_M: Sequence[float], alike_M: np.ndarray) -> float:
    """Return the mean of IoUs of members' masks, but no more than the joint mask can have.

    1 - IoU is a distance: a mask that lies 0.5 from a member's cannot be nearer to the truth than
    0.5 less what the member's own is away. Source: Kosub 2019 (arXiv:1612.02696), of the Jaccard
    distance's triangle inequality.
    """
    most = min(1 - iou + alike for iou, alike in zip(ious_M, alike_M, strict=True))
    return float(min(np.mean(ious_M), max(0.0, most)))


def _of_one(trust: Trust, evidence_X: np.ndarray, classes: Sequence[str]) -> Expected | None:
    seen_S = signals(evidence_X)
    if seen_S is None:
        return None
    seen_S, trials_RS = seen_S / np.array(trust.signal_scale), np.array(trust.trials)
    alike_R = resemblance(_no_nearer(seen_S, trials_RS, trust)[None], trials_RS, trust.reach)[0]
    told = [UNKNOWN + alike_R @ np.array(one) if one else None for one in trust.weights]
    if (mean := told[0]) is None:
        return None
    iou = _told(mean)
    pixels_C = evidence_X[:-OF_CELLS].reshape(-1, OF_CLASS)[:, 0]
    return Expected(
        iou=iou,
        low=_told(mean + trust.residuals[0]),
        high=_told(mean + trust.residuals[1]),
        classes={
            name: _told(each)
            for name, each, pixels in zip(classes, told[1:], pixels_C, strict=True)
            if each is not None and pixels
        },
        reason=_reason(trust, alike_R) if iou < _LOW * trust.usual_iou else "",
    )


def _no_nearer(seen_S: np.ndarray, trials_RS: np.ndarray, trust: Trust) -> np.ndarray:
    """Return signals whose distances are at least the usual ones of images shown as they are.

    An image that the network was trained on is nearer than any it is judged by, and no worse.
    """
    as_they_are_R = np.array([not kind for kind in trust.kinds])
    least_3 = trials_RS[as_they_are_R, _DISTANCES].mean(axis=0)
    made_S = seen_S.copy()
    made_S[_DISTANCES] = np.maximum(seen_S[_DISTANCES], least_3)
    return made_S


def _reason(trust: Trust, alike_R: np.ndarray) -> str:
    """Return in words what the image is like: damage that was tried, or nothing known."""
    if alike_R.max() < _ALIKE:
        return "unlike the training images"
    votes: dict[str, float] = {}
    for kind, alike in zip(trust.kinds, alike_R, strict=True):
        votes[kind] = votes.get(kind, 0.0) + alike**2
    kind = max(votes, key=votes.__getitem__)
    return _WORDS.get(kind, f"like images with {kind}")


def signals(evidence_X: np.ndarray) -> np.ndarray | None:
    """Return what was seen of an image as numbers to compare; None: nothing was.

    They are the expected overlap of mask and truth by the calibrated probabilities, their
    certainty, three distances, the overlap of each class, and the place among the training images.
    Shapes: OF_CLASS·C + OF_CELLS float64 in, S float64 out.
    """
    of_classes, cells = evidence_X[:-OF_CELLS].reshape(-1, OF_CLASS), evidence_X[-OF_CELLS:]
    pixels, sure, total, unsure = of_classes.T[:4]
    if pixels.sum() == 0 or cells[0] == 0:
        return None
    overlap_C = sure / np.maximum(pixels + total - sure, 1e-9)
    mean = overlap_C[pixels > 0].mean()
    overlap_C = np.where(pixels > 0, overlap_C, mean)
    distances, places = cells[1:4] / cells[0], cells[4:] / cells[0]
    parts = [mean, sure.sum() / pixels.sum(), 1 - unsure.sum() / pixels.sum()]
    return np.concatenate((odds(np.array(parts)), distances, odds(overlap_C), places))


def resemblance(some_RS: np.ndarray, others_QS: np.ndarray, reach: float) -> np.ndarray:
    """Return how alike images are, 0 to 1. Shapes: R×S and Q×S float64 in, R×Q float64 out.

    Source: the Matérn kernel of order 3/2 (Rasmussen and Williams 2006, chapter 4).
    """
    apart = np.square(some_RS[:, None] - others_QS[None]).sum(-1)
    far = np.sqrt(3 * apart) / reach
    return (1 + far) * np.exp(-far)


def odds(part: float | np.ndarray) -> np.ndarray:
    """Return the logarithm of the odds of a share. Shapes: any, of a float type; both kept."""
    inside = np.clip(part, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside / (1 - inside)))


def _told(log_odds: float) -> float:
    """Return an IoU as it is told: the last digits are those of the threads that reckoned it."""
    return round(float(share(log_odds)), _DIGITS)


def share(log_odds: float | np.ndarray) -> np.ndarray:
    """Return the share whose odds have this logarithm. Shapes: any, of a float type; both kept."""
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -30, 30))))
