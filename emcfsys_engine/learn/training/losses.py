"""Losses for dense labels, all blind to unlabelled pixels.

N images, C classes, H and W pixels, P labelled pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from emcfsys_engine.dataset.objects import FULL
from emcfsys_engine.errors import ShapeError
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.project import UNLABELLED, parse_loss

_ALONE = Ranks()
_DISTANCE_WEIGHT, _BORDER_WEIGHT = 2.0, 0.5  # of objects, beside the loss of the classes


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one process found in its share of a batch; sums of several make the batch's loss.

    Shapes: sums are float32 vectors, logits N×C×H×W float32 of classes alone, target N×H×W int64.
    """

    sums: tuple[Tensor, ...]  # one vector a term that is made of sums, the planes' at last
    logits_NCHW: Tensor
    target_NHW: Tensor


class Loss:
    """A weighted sum of loss terms over a batch that may be spread over several processes.

    Every term is that of the whole batch: sums are added over the processes before they are
    divided; terms that sort pixels (lovasz, ohem) gather the logits of all. Where targets have
    planes of objects, what the network says of these is a term more; an auxiliary head has none.
    """

    def __init__(
        self,
        text: str,
        class_weights: Sequence[float] | None = None,
        ranks: Ranks = _ALONE,
        num_classes: int = 0,  # 0: all channels but those of the planes that targets have
    ) -> None:
        self._num_classes = num_classes
        self._terms = parse_loss(text)
        self._weights_C = None if class_weights is None else torch.tensor(class_weights)
        self._ranks = ranks

    def __call__(self, logits_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
        """Return the loss: `value` of `measure`.

        Shapes: logits are of any float type and not normalised, target int64 class indices or 255,
        sizes as in `measure`; a float32 scalar out.
        """
        return self.value(self.measure(logits_NCHW, target_NHW))

    def measure(self, logits_NCHW: Tensor, target_NHW: Tensor) -> Measured:
        """Compute what is this process's own: here memory is needed, and nobody is waited for.

        Shapes: logits N×C×H×W of any float type, target N×H×W int64 of class indices or 255; with
        planes of objects after the classes the target is N×K×H×W, class indices first.
        """
        planes: Tensor | None = None
        if target_NHW.ndim == logits_NCHW.ndim:
            planes, target_NHW = target_NHW[:, 1:], target_NHW[:, 0]
            logits_NCHW, guessed = self._parted(logits_NCHW, planes.shape[1])
            planes = None if guessed is None else plane_sums(guessed.float(), planes)
        _check_shapes(logits_NCHW, target_NHW)
        logits_NCHW = logits_NCHW.float()
        sums = [
            SUMMED[name][0](logits_NCHW, target_NHW, self._weights_on(logits_NCHW.device))
            for _, name in self._terms
            if name in SUMMED
        ]
        sums += [] if planes is None else [planes]
        return Measured(sums=tuple(sums), logits_NCHW=logits_NCHW, target_NHW=target_NHW)

    def _parted(self, logits_NCHW: Tensor, num_planes: int) -> tuple[Tensor, Tensor | None]:
        """Return the logits of classes and of planes; an auxiliary head has only classes."""
        num_classes = self._num_classes or logits_NCHW.shape[1] - num_planes
        if logits_NCHW.shape[1] == num_classes:
            return logits_NCHW, None
        return logits_NCHW[:, :num_classes], logits_NCHW[:, num_classes:]

    def value(self, measured: Measured) -> Tensor:
        """Return the loss over the shares of all processes, the same on each of them.

        Shapes: a float32 scalar.
        """
        total = measured.logits_NCHW.new_zeros(())
        weights_C = self._weights_on(total.device)
        pooled = iter(self._pooled(measured.sums))
        logits_NCHW, target_NHW = measured.logits_NCHW, measured.target_NHW
        if any(name in SORTED for _, name in self._terms):
            logits_NCHW = self._ranks.gathered(logits_NCHW)
            target_NHW = self._ranks.gathered(target_NHW)
        for factor, name in self._terms:
            if name in SUMMED:
                term = SUMMED[name][1](next(pooled))
            else:
                term = SORTED[name](logits_NCHW, target_NHW, weights_C)
            total = total + factor * term
        for sums in pooled:
            total = total + planes_of_sums(sums)
        return total

    def running(self) -> "RunningLoss":
        """Return a sum over the bands of one image."""
        return RunningLoss(self)

    def of_sums(self, sums: Sequence[Tensor], whole: Mapping[str, Tensor]) -> Tensor:
        """Return the loss from the sums of its terms, and the values of those that sort pixels.

        Shapes: vectors and scalars of one float type in, a scalar of it out.
        """
        pooled = iter(sums)
        terms = [
            factor * (SUMMED[name][1](next(pooled)) if name in SUMMED else whole[name])
            for factor, name in self._terms
        ]
        terms += [planes_of_sums(sums) for sums in pooled]
        return torch.stack(terms).sum()

    def sorted_terms(self, measured: Measured) -> dict[str, Tensor]:
        """Return the values of the terms that sort pixels, of what one process has.

        Shapes: a float32 scalar a term.
        """
        weights_C = self._weights_on(measured.logits_NCHW.device)
        return {
            name: SORTED[name](measured.logits_NCHW, measured.target_NHW, weights_C)
            for _, name in self._terms
            if name in SORTED
        }

    def _pooled(self, sums: Sequence[Tensor]) -> Sequence[Tensor]:
        """Add each vector over all processes, in one message."""
        if self._ranks.world == 1 or not sums:
            return sums
        return self._ranks.pooled(torch.cat(list(sums))).split([len(each) for each in sums])

    def _weights_on(self, device: torch.device) -> Tensor | None:
        if self._weights_C is not None and self._weights_C.device != device:
            self._weights_C = self._weights_C.to(device)  # once
        return self._weights_C


class RunningLoss:
    """The loss of an image that goes by in bands: only a handful of numbers of each are kept.

    Sums are those of the whole image, but for boundaries that lie on the edge of a band. Terms
    that sort pixels (lovasz, ohem) are means over the bands, by their labelled pixels.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._sums: list[Tensor] = []
        self._sorted: dict[str, Tensor] = {}
        self._labelled = 0

    def add(self, logits_CHW: Tensor, target_HW: Tensor, labelled: int) -> None:
        """Add a band of which so many pixels are labelled.

        Shapes: logits C×h×W of any float type, target h×W int64 of class indices or 255, K×h×W with
        planes of objects.
        """
        if not labelled:
            return
        measured = self._loss.measure(logits_CHW[None], target_HW[None])
        fresh = [each.double() for each in measured.sums]
        self._sums = (
            [a + b for a, b in zip(self._sums, fresh, strict=True)] if self._sums else fresh
        )
        for name, value in self._loss.sorted_terms(measured).items():
            known = self._sorted.get(name, torch.zeros_like(value, dtype=torch.float64))
            self._sorted[name] = known + value.double() * labelled
        self._labelled += labelled

    def value(self) -> Tensor:
        """Return the loss of all bands so far, on the device.

        Shapes: a float64 scalar.
        """
        whole = {name: total / self._labelled for name, total in self._sorted.items()}
        return self._loss.of_sums(self._sums, whole)


def build_loss(
    text: str,
    class_weights: Sequence[float] | None = None,
    ranks: Ranks = _ALONE,
    num_classes: int = 0,
) -> Loss:
    """Return the weighted sum that a text like "ce+0.5*dice" names.

    `class_weights` enter the pixel-wise terms (ce, focal, ohem); overlap terms weigh classes alike.
    Raises: ValueError for an unknown name, with the nearest known.
    """
    return Loss(text, class_weights, ranks, num_classes)


def cross_entropy_sums(
    logits_NCHW: Tensor, target_NHW: Tensor, class_weights_C: Tensor | None
) -> Tensor:
    """Return the negative log-likelihood of the labelled pixels, and their number, both weighted.

    Shapes: logits N×C×H×W float32, not normalised; target N×H×W int64, class indices or 255;
    weights C float32; 2 float32 out.
    """
    total = F.cross_entropy(
        logits_NCHW, target_NHW, class_weights_C, ignore_index=UNLABELLED, reduction="sum"
    )
    return torch.stack([total, _weight_of_labelled(total, target_NHW, class_weights_C)])


def mean_of_sums(sums_2: Tensor) -> Tensor:
    """Return a weighted mean from the weighted sum and the sum of weights; 0 without weight.

    Shapes: 2 of any float type in, a scalar of it out.
    """
    return sums_2[0] / sums_2[1].clamp_min(torch.finfo(sums_2.dtype).tiny)


def focal_sums(
    logits_NCHW: Tensor, target_NHW: Tensor, class_weights_C: Tensor | None, gamma: float = 2.0
) -> Tensor:
    """Return cross-entropy scaled by (1 - p)^gamma, so that easy pixels count less, and the weight.

    Shapes: as cross_entropy_sums, dtypes as well.
    Source: Lin et al. 2017 (arXiv:1708.02002).
    """
    nll_NHW = F.cross_entropy(logits_NCHW, target_NHW, ignore_index=UNLABELLED, reduction="none")
    scaled_NHW = (1 - torch.exp(-nll_NHW)).clamp_min(0) ** gamma * nll_NHW
    if class_weights_C is not None:
        labelled_NHW = target_NHW != UNLABELLED
        scaled_NHW = scaled_NHW * class_weights_C[target_NHW.where(labelled_NHW, 0)]
    total = scaled_NHW.sum()
    return torch.stack([total, _weight_of_labelled(total, target_NHW, class_weights_C)])


def ohem_loss(
    logits_NCHW: Tensor,
    target_NHW: Tensor,
    class_weights_C: Tensor | None = None,
    *,
    threshold: float = 0.7,
    keep_at_least: float = 0.0625,
) -> Tensor:
    """Return the mean cross-entropy of the hard pixels: those whose true class has p < threshold.

    At least a sixteenth of the labelled pixels is kept, the hardest first.
    Shapes: as cross_entropy_sums; a float32 scalar out.
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


def overlap_sums(
    logits_NCHW: Tensor, target_NHW: Tensor, class_weights_C: Tensor | None = None
) -> Tensor:
    """Return pixels by class: both agree, predicted, true, one class after the other.

    Shapes: as cross_entropy_sums; 3C float32 out. Overlap terms weigh classes alike.
    """
    guess_NCHW, truth_NCHW = _probabilities_and_truth(logits_NCHW, target_NHW)
    overlap_C = (guess_NCHW * truth_NCHW).sum(dim=(0, 2, 3))
    return torch.cat([overlap_C, guess_NCHW.sum(dim=(0, 2, 3)), truth_NCHW.sum(dim=(0, 2, 3))])


def dice_of_sums(sums_3C: Tensor, smooth_px: float = 1.0) -> Tensor:
    """Return 1 minus the soft Dice overlap, averaged over classes; 0 is a perfect match.

    Shapes: those of overlap_sums in, of any float type; a scalar of it out.
    Units:  `smooth_px` pixels are added above and below, so an absent, unpredicted class costs 0.
    Source: Milletari et al. 2016 (V-Net, arXiv:1606.04797), with plain sums where it squares.
    """
    overlap_C, guess_C, truth_C = sums_3C.chunk(3)
    total_C = guess_C + truth_C
    return 1 - ((2 * overlap_C + smooth_px) / (total_C + smooth_px)).mean()


def tversky_of_sums(
    sums_3C: Tensor,
    false_positive: float = 0.3,
    false_negative: float = 0.7,
    smooth_px: float = 1.0,
) -> Tensor:
    """Return 1 minus the Tversky index, averaged over classes: misses cost more than false alarms.

    Shapes: those of overlap_sums in, of any float type; a scalar of it out.
    Source: Salehi et al. 2017 (arXiv:1706.05721), alpha 0.3 and beta 0.7.
    """
    hit_C, guess_C, truth_C = sums_3C.chunk(3)
    wrong_C = false_positive * (guess_C - hit_C) + false_negative * (truth_C - hit_C)
    return 1 - ((hit_C + smooth_px) / (hit_C + wrong_C + smooth_px)).mean()


def lovasz_loss(
    logits_NCHW: Tensor, target_NHW: Tensor, _class_weights_C: Tensor | None = None
) -> Tensor:
    """Return the Lovász extension of the Jaccard loss over the classes that occur in the batch.

    Shapes: as cross_entropy_sums; a float32 scalar out.
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


def boundary_sums(
    logits_NCHW: Tensor, target_NHW: Tensor, class_weights_C: Tensor | None, width_px: int = 3
) -> Tensor:
    """Return boundary pixels by class: predicted near true ones, predicted, and the reverse.

    A boundary is where a class differs from its own minimum over its neighbours; it may lie up to
    `width_px` pixels beside the true one.
    Shapes: as cross_entropy_sums; 4C float32 out.
    """
    guess_NCHW, truth_NCHW = _probabilities_and_truth(logits_NCHW, target_NHW)
    labelled_N1HW = (target_NHW != UNLABELLED)[:, None]
    # A border of unlabelled pixels is no boundary: count only where the neighbourhood is labelled.
    inside_N1HW = 1 - F.max_pool2d((~labelled_N1HW).float(), 2 * width_px + 1, 1, width_px)
    guess_edge = (guess_NCHW + F.max_pool2d(-guess_NCHW, 3, 1, 1)) * inside_N1HW
    truth_edge = (truth_NCHW + F.max_pool2d(-truth_NCHW, 3, 1, 1)) * inside_N1HW
    near_truth = F.max_pool2d(truth_edge, 2 * width_px + 1, 1, width_px)
    near_guess = F.max_pool2d(guess_edge, 2 * width_px + 1, 1, width_px)
    parts = (guess_edge * near_truth, guess_edge, truth_edge * near_guess, truth_edge)
    return torch.cat([part.sum(dim=(0, 2, 3)) for part in parts])


def boundary_of_sums(sums_4C: Tensor) -> Tensor:
    """Return 1 minus the F1 score of soft class boundaries, averaged over the present classes.

    Shapes: those of boundary_sums in, of any float type; a scalar of it out.
    Source: Bokhovkin & Burnaev 2019 (arXiv:1905.07852), pooled over the batch.
    """
    guess_hit_C, guess_C, truth_hit_C, truth_C = sums_4C.chunk(4)
    precise_C, complete_C = _ratio(guess_hit_C, guess_C), _ratio(truth_hit_C, truth_C)
    f1_C = _ratio(2 * precise_C * complete_C, precise_C + complete_C)
    present_C = truth_C.detach() > 0
    if not present_C.any():
        return sums_4C.sum() * 0
    return 1 - f1_C[present_C].mean()


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return above / (below + 1e-6)


def plane_sums(logits_N2HW: Tensor, target_N2HW: Tensor) -> Tensor:
    """Return what distance and border of objects cost, summed over the pixels where they are known.

    Of each plane the divergence of the predicted share from the true one, and how many pixels; then
    of the border both, predicted and true.
    Shapes: logits N×2×H×W float32; targets N×2×H×W of any integer dtype, 0 … 254, or 255 where
    unlabelled; 7 float32 out.
    """
    known_N2HW = (target_N2HW != UNLABELLED).to(logits_N2HW.dtype)
    truth_N2HW = target_N2HW.clamp_max(FULL).to(logits_N2HW.dtype) / FULL
    cost_N2HW = F.binary_cross_entropy_with_logits(logits_N2HW, truth_N2HW, reduction="none")
    # A share's own entropy is nothing that could be learned: without it a perfect match costs 0.
    least_N2HW = torch.special.entr(truth_N2HW) + torch.special.entr(1 - truth_N2HW)
    cost_2 = ((cost_N2HW - least_N2HW) * known_N2HW).sum(dim=(0, 2, 3))
    number_2 = known_N2HW.sum(dim=(0, 2, 3))
    guess_NHW = logits_N2HW[:, 1].sigmoid() * known_N2HW[:, 1]
    border_NHW = truth_N2HW[:, 1] * known_N2HW[:, 1]
    overlap = [(guess_NHW * border_NHW).sum(), guess_NHW.sum(), border_NHW.sum()]
    return torch.cat([cost_2, number_2, torch.stack(overlap)])


def planes_of_sums(sums_7: Tensor) -> Tensor:
    """Return the loss of distance and border: of both the mean divergence, of the border Dice too.

    Distance weighs 2, border ½. After 80 steps these had a PQ of 0.45 on images kept aside, 1 and 1
    0.48, 4 and ½ 0.49, with other orders by sizes: one seed is no proof (tests/bench/RESULTS.md).
    Shapes: those of plane_sums in, of any float type; a scalar of it out.
    """
    mean_2 = sums_7[:2] / sums_7[2:4].clamp_min(1)
    overlap, guess, truth = sums_7[4:]
    dice = 1 - (2 * overlap + 1) / (guess + truth + 1)
    return _DISTANCE_WEIGHT * mean_2[0] + _BORDER_WEIGHT * (mean_2[1] + 0.5 * dice)


# Terms made of sums over pixels: what is summed, and the loss that the sums give.
SUMMED: dict[
    str, tuple[Callable[[Tensor, Tensor, Tensor | None], Tensor], Callable[[Tensor], Tensor]]
] = {
    "ce": (cross_entropy_sums, mean_of_sums),
    "focal": (focal_sums, mean_of_sums),
    "dice": (overlap_sums, dice_of_sums),
    "tversky": (overlap_sums, tversky_of_sums),
    "boundary": (boundary_sums, boundary_of_sums),
}
# Terms that sort the pixels of the whole batch.
SORTED: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "lovasz": lovasz_loss,
    "ohem": ohem_loss,
}


def _weight_of_labelled(like: Tensor, target_NHW: Tensor, class_weights_C: Tensor | None) -> Tensor:
    labelled_NHW = target_NHW != UNLABELLED
    if class_weights_C is None:
        return labelled_NHW.sum().to(like.dtype)
    weights_NHW = class_weights_C[target_NHW.where(labelled_NHW, 0)] * labelled_NHW
    return weights_NHW.sum().to(like.dtype)


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
