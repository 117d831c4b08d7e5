"""Whole classes that a mask calls others than before: masks that were saved by new numbers."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from emcfsys_engine.project import UNLABELLED

_WHOLE = 0.95  # of a class's pixels, before and now: the rest may be corrected besides
_MOSTLY = 0.7  # where a model says what they were: it is never wholly right
_LENGTH = UNLABELLED + 1
Moves = dict[int, int]  # class before -> class now


def moved_classes(before: np.ndarray, now: np.ndarray, whole: float = _WHOLE) -> Moves:
    """Return the classes that became another one as a whole.

    Shapes: class indices, uint8 H×W, 255 where unlabelled; of another size nothing is known.
    Units: `whole` is the share of both that has to be the same pixels.
    """
    if before.shape != now.shape:
        return {}
    pairs = before.ravel().astype(np.int32) * _LENGTH + now.ravel()
    counts = np.bincount(pairs, minlength=_LENGTH**2).reshape(_LENGTH, _LENGTH)
    were, are = counts.sum(1), counts.sum(0)
    found: Moves = {}
    for one in np.flatnonzero(were[:UNLABELLED]).tolist():
        other = int(counts[one].argmax())
        share = counts[one, other]
        if other not in (one, UNLABELLED) and share >= whole * max(were[one], are[other]):
            found[one] = other
    return found


def moved_from(guess: np.ndarray, labels: np.ndarray) -> Moves:
    """Return the classes of a new mask that are others than a good model takes them for.

    At least two moved at once: where a model only takes one class for another, it errs itself.
    Shapes: class indices, uint8 H×W; 255 where nothing is labelled, or guessed.
    """
    found = moved_classes(np.where(labels == UNLABELLED, UNLABELLED, guess), labels, _MOSTLY)
    return found if len(found) > 1 else {}


def numbered_anew(moves: Mapping[str, Moves]) -> dict[str, Moves]:
    """Return the masks of those given, by name, that look as if saved by new numbers.

    Two classes that moved at once in one mask do, and a class that moved in several alike. A
    single one that moved in one mask is what a person mends who had named it wrongly.
    """
    often = Counter(move for one in moves.values() for move in one.items())
    return {
        name: one
        for name, one in moves.items()
        if len(one) > 1 or any(often[move] > 1 for move in one.items())
    }
