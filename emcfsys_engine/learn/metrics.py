"""Numbers from one confusion matrix over a whole data set: IoU, F1, precision, recall, accuracy."""

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from emcfsys_engine.project import UNLABELLED


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

    def score(self, best_by: str) -> float | None:
        """Return the number that `training.best_by` names."""
        if best_by == "mean_iou":
            return self.mean_iou
        if best_by == "mean_foreground_iou":
            return self.mean_foreground_iou
        return self.iou[best_by.partition(":")[2]]


def confusion_matrix(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true class (row) and predicted class (column); unlabelled ones are left out.

    Shapes: both integer class indices of one shape; the result is int64, C×C.
    """
    labelled = truth != UNLABELLED
    pairs = truth[labelled].to(torch.int64) * num_classes + predicted[labelled]
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(matrix_CC: Tensor, class_names: Sequence[str]) -> Scores:
    """Return all scores of one confusion matrix (rows: truth, columns: prediction)."""
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
    )


def _named(names: Sequence[str], above_C: Tensor, below_C: Tensor) -> dict[str, float | None]:
    pairs = zip(names, above_C.tolist(), below_C.tolist(), strict=True)
    return {name: above / below if below else None for name, above, below in pairs}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
