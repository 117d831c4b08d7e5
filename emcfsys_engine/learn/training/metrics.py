"""Numbers over a whole data set: IoU, F1, precision, recall, accuracy, and F1 of boundaries.

C classes, H and W pixels.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emcfsys_engine.project import UNLABELLED

BOUNDARY_TOLERANCE_PX = 2.0
_BITS = 8
_STRIP_ROWS = 1024  # boundaries are looked for in so many rows at a time: memory has few of them


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """How well prediction and truth agree; None where a class is in neither."""

    iou: dict[str, float | None]
    f1: dict[str, float | None]
    precision: dict[str, float | None]
    recall: dict[str, float | None]
    accuracy: float
    mean_iou: float | None
    mean_foreground_iou: float | None  # without the first class
    pixels: int  # labelled pixels compared
    boundary_f1: dict[str, float | None] = {}  # within a tolerance; empty: not looked at
    cl_dice: dict[str, float | None] = {}  # of middle lines, for thin structures; the same

    def score(self, best_by: str) -> float | None:
        """Return the number that `training.best_by` names."""
        if best_by == "mean_iou":
            return self.mean_iou
        if best_by == "mean_foreground_iou":
            return self.mean_foreground_iou
        return self.iou[best_by.partition(":")[2]]


def confusion_matrix(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true class (row) and predicted class (column); unlabelled ones are left out.

    Shapes: both class indices of one shape, of any integer dtype; the result is int64, C×C.
    """
    none = num_classes**2  # one more place, for pixels without a label
    pairs = (truth.to(torch.int64) * num_classes + predicted).where(truth != UNLABELLED, none)
    counts = torch.bincount(pairs.flatten(), minlength=none + 1)
    return counts[:none].reshape(num_classes, num_classes)


def boundary_counts(
    predicted_HW: Tensor, truth_HW: Tensor, num_classes: int, tolerance_px: float
) -> Tensor:
    """Count boundary pixels by class: predicted, of them near a true one, true, near a predicted.

    A boundary pixel has a direct neighbour of another class; where either is unlabelled there is
    none. Near is a Euclidean distance of at most `tolerance_px` to a boundary pixel of its class.
    Shapes: both H×W class indices, of any integer dtype; the result is int64, C×4: add it up over
    the images.
    Source: Csurka et al. 2013 (What is a good evaluation measure for semantic segmentation?).
    """
    height, halo = truth_HW.shape[0], int(tolerance_px) + 1
    counts_C4 = torch.zeros(num_classes, 4, dtype=torch.int64, device=truth_HW.device)
    for first in range(0, height, _STRIP_ROWS):
        last, above = min(height, first + _STRIP_ROWS), max(0, first - halo)
        rows, own = slice(above, last + halo), slice(first - above, last - above)
        counts_C4 += _boundary_counts_of(
            predicted_HW[rows], truth_HW[rows], num_classes, tolerance_px, own
        )
    return counts_C4


def _boundary_counts_of(
    predicted_HW: Tensor, truth_HW: Tensor, num_classes: int, tolerance_px: float, own: slice
) -> Tensor:
    """Count the boundary pixels of some rows; those around them are only looked at."""
    labelled_HW = truth_HW != UNLABELLED
    counts_4C = torch.zeros(4, num_classes, dtype=torch.int64, device=truth_HW.device)
    planes = [plane.byte().where(labelled_HW, UNLABELLED) for plane in (predicted_HW, truth_HW)]
    edges = [_edges(plane) for plane in planes]
    for first in range(0, num_classes, _BITS):  # a class a bit: all are dilated at once
        guess, truth = (
            _as_bits(plane, edge, first) for plane, edge in zip(planes, edges, strict=True)
        )
        near = (guess & _dilated(truth, tolerance_px), truth & _dilated(guess, tolerance_px))
        for row, (plane, bits) in enumerate(
            zip((0, 0, 1, 1), (guess, near[0], truth, near[1]), strict=True)
        ):
            classes = planes[plane][own][bits[own] != 0]
            counts_4C[row] += torch.bincount(classes, minlength=num_classes)
    return counts_4C.T


def _edges(classes_HW: Tensor) -> Tensor:
    """Tell where a labelled pixel has a direct, labelled neighbour of another class."""
    edges = torch.zeros_like(classes_HW, dtype=torch.bool)
    labelled = classes_HW != UNLABELLED
    for axis in (0, 1):
        length = classes_HW.shape[axis] - 1
        first, second = (classes_HW.narrow(axis, start, length) for start in (0, 1))
        differs = first != second
        for start in (0, 1):
            differs = differs & labelled.narrow(axis, start, length)
        for start in (0, 1):
            edges.narrow(axis, start, length).logical_or_(differs)
    return edges


def _as_bits(classes_HW: Tensor, edges_HW: Tensor, first: int) -> Tensor:
    """Return bit n where a boundary pixel is of class `first` + n."""
    mine_HW = edges_HW & (classes_HW >= first) & (classes_HW < first + _BITS)
    return mine_HW.byte().bitwise_left_shift((classes_HW - first).where(mine_HW, 0))


def _dilated(bits_HW: Tensor, radius_px: float) -> Tensor:
    """Return the bits that are set anywhere in a disc around each pixel."""
    reach = int(radius_px)
    height, width = bits_HW.shape
    padded = F.pad(bits_HW, (reach, reach, reach, reach))
    result = torch.zeros_like(bits_HW)
    for y in range(-reach, reach + 1):
        for x in range(-reach, reach + 1):
            if y * y + x * x <= radius_px * radius_px:
                result |= padded[reach + y : reach + y + height, reach + x : reach + x + width]
    return result


def middle_line_counts(predicted_HW: Tensor, truth_HW: Tensor, num_classes: int) -> Tensor:
    """Count pixels of middle lines by class: predicted, of them in the true class, and the reverse.

    Their F1 is clDice, which asks of thin structures whether they hang together, not how wide they
    are. Where nothing is labelled there is no line.
    Shapes: both H×W class indices, of any integer dtype; the result is int64, C×4: add it up over
    the images.
    Source: Shit et al. 2021 (arXiv:2003.07311), with the skeletons of skimage.
    """
    from skimage.morphology import skeletonize  # takes a moment that only this needs

    guess, truth = predicted_HW.cpu().numpy(), truth_HW.cpu().numpy()
    labelled = truth != UNLABELLED
    counts_C4 = torch.zeros(num_classes, 4, dtype=torch.int64)
    for index in range(num_classes):
        planes = (guess == index) & labelled, (truth == index) & labelled
        lines = [np.asarray(skeletonize(plane), bool) for plane in planes]
        found = (lines[0], lines[0] & planes[1], lines[1], lines[1] & planes[0])
        counts_C4[index] = torch.tensor([int(each.sum()) for each in found])
    return counts_C4


def boundary_f1(counts_C4: Tensor, class_names: Sequence[str]) -> dict[str, float | None]:
    """Return each class's F1 from its counts of lines; None where neither has any.

    Shapes: counts are C×4 int64, of `boundary_counts` or `middle_line_counts`.
    """
    found: dict[str, float | None] = {}
    for name, row in zip(class_names, counts_C4.tolist(), strict=True):
        guess, guess_near, truth, truth_near = row
        precision, recall = guess_near / max(1, guess), truth_near / max(1, truth)
        both = precision + recall
        f1 = 2 * precision * recall / both if both else 0.0
        found[name] = f1 if guess or truth else None
    return found


def scores(
    matrix_CC: Tensor,
    class_names: Sequence[str],
    boundary_C4: Tensor | None = None,
    middle_C4: Tensor | None = None,
) -> Scores:
    """Return all scores of one confusion matrix (rows: truth, columns: prediction).

    `boundary_C4`: of `boundary_counts`, where boundaries were looked at; `middle_C4`: of
    `middle_line_counts`.
    Shapes: C×C, and C×4 of boundaries and of middle lines, all int64.
    """
    counts = matrix_CC.cpu().to(torch.float64)
    hit_C = counts.diagonal()
    truth_C, guess_C = counts.sum(1), counts.sum(0)
    iou = _named(class_names, hit_C, truth_C + guess_C - hit_C)
    present = [value for value in iou.values() if value is not None]
    foreground = [iou[name] for name in class_names[1:]]
    return Scores(
        iou=iou,
        f1=_named(class_names, 2 * hit_C, truth_C + guess_C),
        precision=_named(class_names, hit_C, guess_C),
        recall=_named(class_names, hit_C, truth_C),
        accuracy=float(hit_C.sum() / counts.sum()) if counts.sum() else 0.0,
        mean_iou=_mean(present),
        mean_foreground_iou=_mean([value for value in foreground if value is not None]),
        pixels=int(counts.sum()),
        boundary_f1={} if boundary_C4 is None else boundary_f1(boundary_C4, class_names),
        cl_dice={} if middle_C4 is None else boundary_f1(middle_C4, class_names),
    )


def _named(names: Sequence[str], above_C: Tensor, below_C: Tensor) -> dict[str, float | None]:
    pairs = zip(names, above_C.tolist(), below_C.tolist(), strict=True)
    return {name: above / below if below else None for name, above, below in pairs}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
