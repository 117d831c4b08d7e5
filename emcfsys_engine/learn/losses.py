"""Losses for dense labels, all blind to unlabelled pixels.

N images, C classes, H and W pixels, P labelled pixels.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from emcfsys_engine.errors import ShapeError
from emcfsys_engine.project import UNLABELLED, parse_loss

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(text: str, class_weights: Sequence[float] | None = None) -> Loss:
    """Return the weighted sum that a text like "ce+0.5*dice" names.

    `class_weights` enter the pixel-wise terms (ce, focal, ohem); overlap terms weigh classes alike.
    Raises: ValueError for an unknown name, with the nearest known.
    """
    terms = parse_loss(text)
    weights_C = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)

    def loss(logits_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
        _check_shapes(logits_NCHW, target_NHW)
        logits_NCHW = logits_NCHW.float()
        weights = None if weights_C is None else weights_C.to(logits_NCHW.device)
        total = logits_NCHW.new_zeros(())
        for factor, name in terms:
            total = total + factor * _term(name, logits_NCHW, target_NHW, weights)
        return total

    return loss


def _term(name: str, logits_NCHW: Tensor, target_NHW: Tensor, weights_C: Tensor | None) -> Tensor:
    if name in _WEIGHTED:
        return _WEIGHTED[name](logits_NCHW, target_NHW, class_weights_C=weights_C)
    return _PLAIN[name](logits_NCHW, target_NHW)


def cross_entropy_loss(
    logits_NCHW: Tensor, target_NHW: Tensor, *, class_weights_C: Tensor | None = None
) -> Tensor:
    """Return the mean negative log-likelihood of labelled pixels; 0 when none is labelled.

    Shapes: logits are float and not normalised; target holds class indices or 255.
    """
    total = F.cross_entropy(
        logits_NCHW, target_NHW, class_weights_C, ignore_index=UNLABELLED, reduction="sum"
    )
    return total / _weight_of_labelled(target_NHW, class_weights_C)


def focal_loss(
    logits_NCHW: Tensor,
    target_NHW: Tensor,
    *,
    class_weights_C: Tensor | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """Return cross-entropy scaled by (1 - p)^gamma, so that easy pixels count less.

    Shapes: as cross_entropy_loss.
    Source: Lin et al. 2017 (arXiv:1708.02002).
    """
    nll_NHW = F.cross_entropy(logits_NCHW, target_NHW, ignore_index=UNLABELLED, reduction="none")
    scaled_NHW = (1 - torch.exp(-nll_NHW)).clamp_min(0) ** gamma * nll_NHW
    if class_weights_C is not None:
        labelled_NHW = target_NHW != UNLABELLED
        scaled_NHW = scaled_NHW * class_weights_C[target_NHW.where(labelled_NHW, 0)]
    return scaled_NHW.sum() / _weight_of_labelled(target_NHW, class_weights_C)


def ohem_loss(
    logits_NCHW: Tensor,
    target_NHW: Tensor,
    *,
    class_weights_C: Tensor | None = None,
    threshold: float = 0.7,
    keep_at_least: float = 0.0625,
) -> Tensor:
    """Return the mean cross-entropy of the hard pixels: those whose true class has p < threshold.

    At least a sixteenth of the labelled pixels is kept, the hardest first.
    Shapes: as cross_entropy_loss.
    Source: online hard example mining, Shrivastava et al. 2016 (arXiv:1604.03540), pixel-wise.
    """
    nll_P = F.cross_entropy(
        logits_NCHW, target_NHW, class_weights_C, ignore_index=UNLABELLED, reduction="none"
    )[target_NHW != UNLABELLED]
    if not nll_P.numel():
        return logits_NCHW.sum() * 0
    with torch.no_grad():
        plain_P = F.cross_entropy(
            logits_NCHW, target_NHW, ignore_index=UNLABELLED, reduction="none"
        )[target_NHW != UNLABELLED]
        least = max(1, int(keep_at_least * plain_P.numel()))
        floor = plain_P.topk(least).values[-1]
        limit = torch.minimum(floor, -torch.log(plain_P.new_tensor(threshold)))
    return nll_P[plain_P >= limit].mean()


def soft_dice_loss(logits_NCHW: Tensor, target_NHW: Tensor, *, smooth_px: float = 1.0) -> Tensor:
    """Return 1 minus the soft Dice overlap, averaged over classes; 0 is a perfect match.

    Shapes: as cross_entropy_loss.
    Units:  `smooth_px` pixels are added above and below, so an absent, unpredicted class costs 0.
    Source: Milletari et al. 2016 (V-Net, arXiv:1606.04797), with plain sums where it squares.
    """
    guess_NCHW, truth_NCHW = _probabilities_and_truth(logits_NCHW, target_NHW)
    overlap_C = (guess_NCHW * truth_NCHW).sum(dim=(0, 2, 3))
    total_C = (guess_NCHW + truth_NCHW).sum(dim=(0, 2, 3))
    return 1 - ((2 * overlap_C + smooth_px) / (total_C + smooth_px)).mean()


def tversky_loss(
    logits_NCHW: Tensor,
    target_NHW: Tensor,
    *,
    false_positive: float = 0.3,
    false_negative: float = 0.7,
    smooth_px: float = 1.0,
) -> Tensor:
    """Return 1 minus the Tversky index, averaged over classes: misses cost more than false alarms.

    Shapes: as cross_entropy_loss.
    Source: Salehi et al. 2017 (arXiv:1706.05721), alpha 0.3 and beta 0.7.
    """
    guess_NCHW, truth_NCHW = _probabilities_and_truth(logits_NCHW, target_NHW)
    hit_C = (guess_NCHW * truth_NCHW).sum(dim=(0, 2, 3))
    alarm_C = guess_NCHW.sum(dim=(0, 2, 3)) - hit_C
    miss_C = truth_NCHW.sum(dim=(0, 2, 3)) - hit_C
    wrong_C = false_positive * alarm_C + false_negative * miss_C
    return 1 - ((hit_C + smooth_px) / (hit_C + wrong_C + smooth_px)).mean()


def lovasz_loss(logits_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
    """Return the Lovász extension of the Jaccard loss over the classes that occur in the batch.

    Shapes: as cross_entropy_loss.
    Source: Berman et al. 2018 (arXiv:1705.08790), algorithm 1, lovasz-softmax with "present".
    """
    labelled_NHW = target_NHW != UNLABELLED
    target_P = target_NHW[labelled_NHW]
    if not target_P.numel():
        return logits_NCHW.sum() * 0
    guess_PC = logits_NCHW.softmax(dim=1).movedim(1, -1)[labelled_NHW]
    losses = [
        _lovasz_of_class((target_P == index).to(guess_PC.dtype), guess_PC[:, index])
        for index in target_P.unique().tolist()
    ]
    return torch.stack(losses).mean()


def _lovasz_of_class(truth_P: Tensor, guess_P: Tensor) -> Tensor:
    error_P, order_P = (truth_P - guess_P).abs().sort(descending=True)
    sorted_truth_P = truth_P[order_P]
    total = sorted_truth_P.sum()
    intersection_P = total - sorted_truth_P.cumsum(0)
    union_P = total + (1 - sorted_truth_P).cumsum(0)
    jaccard_P = 1 - intersection_P / union_P
    gradient_P = torch.cat([jaccard_P[:1], jaccard_P[1:] - jaccard_P[:-1]])
    return torch.dot(error_P, gradient_P)


def boundary_loss(logits_NCHW: Tensor, target_NHW: Tensor, *, width_px: int = 3) -> Tensor:
    """Return 1 minus the F1 score of soft class boundaries, averaged over the present classes.

    A boundary is where a class differs from its own minimum over a neighbourhood of `width_px`;
    it may lie up to `width_px` pixels beside the true one.
    Shapes: as cross_entropy_loss.
    Source: Bokhovkin & Burnaev 2019 (arXiv:1905.07852), pooled over the batch.
    """
    guess_NCHW, truth_NCHW = _probabilities_and_truth(logits_NCHW, target_NHW)
    labelled_N1HW = (target_NHW != UNLABELLED)[:, None]
    # A border of unlabelled pixels is no boundary: count only where the neighbourhood is labelled.
    inside_N1HW = 1 - F.max_pool2d((~labelled_N1HW).float(), 2 * width_px + 1, 1, width_px)
    guess_edge = (guess_NCHW + F.max_pool2d(-guess_NCHW, 3, 1, 1)) * inside_N1HW
    truth_edge = (truth_NCHW + F.max_pool2d(-truth_NCHW, 3, 1, 1)) * inside_N1HW
    near_truth = F.max_pool2d(truth_edge, 2 * width_px + 1, 1, width_px)
    near_guess = F.max_pool2d(guess_edge, 2 * width_px + 1, 1, width_px)
    precise_C = _ratio((guess_edge * near_truth).sum(dim=(0, 2, 3)), guess_edge.sum(dim=(0, 2, 3)))
    complete_C = _ratio((truth_edge * near_guess).sum(dim=(0, 2, 3)), truth_edge.sum(dim=(0, 2, 3)))
    f1_C = _ratio(2 * precise_C * complete_C, precise_C + complete_C)
    present_C = truth_edge.detach().sum(dim=(0, 2, 3)) > 0
    if not present_C.any():
        return logits_NCHW.sum() * 0
    return 1 - f1_C[present_C].mean()


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return above / (below + 1e-6)


_WEIGHTED: dict[str, Callable[..., Tensor]] = {
    "ce": cross_entropy_loss,
    "focal": focal_loss,
    "ohem": ohem_loss,
}
_PLAIN: dict[str, Callable[..., Tensor]] = {
    "dice": soft_dice_loss,
    "tversky": tversky_loss,
    "lovasz": lovasz_loss,
    "boundary": boundary_loss,
}


def _weight_of_labelled(target_NHW: Tensor, class_weights_C: Tensor | None) -> Tensor:
    labelled_NHW = target_NHW != UNLABELLED
    if class_weights_C is None:
        total = labelled_NHW.sum()
    else:
        total = (class_weights_C[target_NHW.where(labelled_NHW, 0)] * labelled_NHW).sum()
    return total.clamp_min(torch.finfo(torch.float32).tiny if total.is_floating_point() else 1)


def _probabilities_and_truth(logits_NCHW: Tensor, target_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax and one-hot truth, both 0 where a pixel is unlabelled."""
    labelled_NHW = target_NHW != UNLABELLED
    ids_NHW = target_NHW.where(labelled_NHW, 0)  # one_hot accepts no id outside 0..C-1
    classes_C = torch.arange(logits_NCHW.shape[1], device=target_NHW.device)
    truth_NCHW = (ids_NHW[:, None] == classes_C[:, None, None]) & labelled_NHW[:, None]
    guess_NCHW = logits_NCHW.softmax(dim=1) * labelled_NHW[:, None]
    return guess_NCHW, truth_NCHW.to(logits_NCHW.dtype)


def _check_shapes(logits_NCHW: Tensor, target_NHW: Tensor) -> None:
    wanted, given = logits_NCHW[:, 0].shape, target_NHW.shape
    if wanted != given:
        raise ShapeError(f"target is {tuple(given)}, the network's output is {tuple(wanted)}")
