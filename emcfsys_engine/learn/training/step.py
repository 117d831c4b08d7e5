"""One optimiser step: augment, gather the gradients in parts that fit, step, average the weights.

N patches, C channels, M pixels of a crop.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager

import msgspec
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from emcfsys_engine.learn.device import autocast
from emcfsys_engine.learn.faults import is_out_of_memory
from emcfsys_engine.learn.networks.network import SegmentationNetwork, parameter_groups
from emcfsys_engine.learn.training.augment import augment, two_views
from emcfsys_engine.learn.training.checkpoint import TrainState
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.losses import Loss, Measured, build_loss
from emcfsys_engine.learn.training.plan import Plan
from emcfsys_engine.learn.training.unlabelled import Certainty, Guessed, Views, as_labels, sums_of
from emcfsys_engine.project import UNLABELLED

_WARM_SHARE = 0.05  # of the run: the warm-up is over by then, however few its steps
_DECAY_SHARE = 0.2  # of the run, at the end of a trapezoid
_FLOOR = 0.01  # of the learning rate, at the end of the run


def make_optimizer(
    network: SegmentationNetwork, plan: Plan, device: torch.device
) -> torch.optim.Optimizer:
    """Return AdamW with the plan's rates for encoder and decoder."""
    groups = parameter_groups(network, plan.weight_decay)
    for group in groups:
        is_encoder = group["name"].startswith("encoder")
        group["lr"] = plan.encoder_lr if is_encoder else plan.decoder_lr
    return torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))


def rate_factor(plan: Plan, step: int, progress: float) -> float:
    """Return what the learning rates are multiplied with: warm-up, then the plan's schedule.

    A trapezoid stays at the top until its last fifth, so that a run which is extended goes on as if
    it had been longer from the start; the cosine falls all the way.
    Units: `progress` is the share of the run that is done, 0 to 1.
    Source: Hägele et al. 2024 (arXiv:2405.18392): constant, then 1-sqrt over 20 %.
    """
    progress = min(1.0, progress)
    warm = min(1.0, max(step / plan.warmup_steps, progress / _WARM_SHARE))
    if plan.schedule == "trapezoid":
        left = 1 - math.sqrt(max(0.0, progress - (1 - _DECAY_SHARE)) / _DECAY_SHARE)
        return warm * (_FLOOR + (1 - _FLOOR) * max(0.0, left))
    return warm * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))


UNLABELLED_STREAM = 2**40  # added to a step's number: other patches, other changes
_AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's loss; Zhao et al. 2017 (PSPNet)


class DoesNotFitError(Exception):
    """A part of the batch needs more memory than the device has."""


class Stepper:
    """Does optimiser steps on one network, and keeps the average of its weights."""

    def __init__(
        self,
        network: SegmentationNetwork,
        averaged: SegmentationNetwork,
        loss: Loss,
        plan: Plan,
        seed: int,
        ranks: Ranks,
    ) -> None:
        self.plan = plan
        self.ranks = ranks
        self.device = ranks.device(plan.device)
        self.precision: torch.dtype = getattr(torch, plan.precision)
        self.network = network
        self.averaged = averaged
        self.learn_by(loss, plan)
        self.seed = seed
        self.certainty = Certainty(plan.network.num_classes, self.device)
        self.optimizer = make_optimizer(network, plan, self.device)
        # In fp16 small gradients would become 0: the loss is enlarged, the gradients made smaller.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision == torch.float16
        )
        self._num_skipped = torch.zeros((), device=self.device)  # steps whose gradients overflowed
        self._coupled = ranks.are_coupled(self.device)
        self._parameters = list(network.parameters())
        self._averages = self._paired()
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]

    def learn_by(self, loss: Loss, plan: Plan) -> None:
        """Take the loss of labels, and that of guesses, for the classes' weights of a plan.

        Guesses have no Dice: a rare class that is guessed nowhere would be unlearned by it.
        """
        self.loss = loss
        num_classes = plan.network.num_classes
        self.guess_loss = build_loss("ce", plan.class_weights, self.ranks, num_classes)

    @property
    def learning_rate(self) -> float:
        """The highest rate of the last step."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def prepare(self, crops_NCMM: Tensor, labels_NMM: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return this process's patches of the step, augmented.

        Each step seeds its own random numbers: a resumed run draws what it would have drawn. So
        does each patch: it is the same one whichever process has it.
        Shapes: N×C×M×M float32 and N×M×M uint8 in, N×C×P×P float32 and N×P×P int64 out; labels are
        N×K×M×M and N×K×P×P with planes of objects.
        """
        seed = mixed(self.seed, step)
        torch.manual_seed(seed + self.ranks.rank)  # dropout differs between processes
        own = self.ranks.own(self._batch_of(crops_NCMM))
        seeds = [mixed(seed, number) for number in own]
        images, labels = augment(
            crops_NCMM, labels_NMM, self.plan.patch_px, self.plan.strengths, seeds
        )
        return images.contiguous(memory_format=torch.channels_last), labels

    def views(self, crops_NCMM: Tensor, marks_NMM: Tensor, step: int) -> Views:
        """Return this process's patches without labels, as they are and changed.

        Shapes: N×C×M×M float32 and N×M×M uint8, or N×K×M×M with planes of objects.
        """
        seed = mixed(self.seed, UNLABELLED_STREAM + step)
        own = self.ranks.own(self._batch_of(crops_NCMM))
        seeds = [mixed(seed, number) for number in own]
        plain, changed, marks = two_views(
            crops_NCMM, marks_NMM, self.plan.patch_px, self.plan.strengths, seeds
        )
        layout = torch.channels_last
        return Views(
            plain.contiguous(memory_format=layout), changed.contiguous(memory_format=layout), marks
        )

    @torch.no_grad()
    def guess(self, views: Views, micro_batch: int, weight: float) -> Guessed:
        """Let the averaged network label a step's patches, where it is sure enough.

        Raises: DoesNotFitError, on every process.
        """
        probability, guess = self._guessed(views.plain, -(-micro_batch // self.ranks.world))
        may = (views.marks if views.marks.ndim == guess.ndim else views.marks[:, 0]) != UNLABELLED
        may[len(range(self.ranks.rank, self._batch_of(may), self.ranks.world)) :] = False
        self.certainty.learn(
            self.ranks.sum(sums_of(probability, guess, may, self.plan.network.num_classes))
        )
        sure = may & (probability >= self.certainty.thresholds()[guess])
        counts = self.ranks.sum(torch.stack([sure.sum(), may.sum()]).float())
        labels = as_labels(guess.where(sure, UNLABELLED), views.marks)
        return Guessed(views.changed, labels, counts[0] / counts[1].clamp_min(1), weight)

    def _guessed(self, images: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return the averaged network's classes of patches, so many at a time, and how probable.

        Shapes: N×P×P float32 and int64.
        """
        found: list[tuple[Tensor, Tensor]] = []
        fits = True
        try:
            for some in images.split(number):
                with autocast(self.device, self.precision):
                    logits = self.averaged(some)[:, : self.plan.network.num_classes]
                highest = logits.float().softmax(1).max(1)
                found.append((highest.values, highest.indices))
        except RuntimeError as error:
            self._refuse_unless_it_may_fit(error)
            fits = False
        self._agree_that_it_fits(fits)
        return torch.cat([each[0] for each in found]), torch.cat([each[1] for each in found])

    def accumulate_gradients(
        self, images: Tensor, labels: Tensor, micro_batch: int, guessed: Guessed | None = None
    ) -> tuple[Tensor, Tensor]:
        """Gather the batch's gradients, so many patches at a time; return its mean loss.

        `guessed`: patches without labels, whose loss is the second one that is returned.

        With several processes each computes its own of every part, and all get the same sums:
        gradients are added here rather than by DistributedDataParallel, because all processes must
        agree that the batch fits before any of them waits for the others' gradients.
        Shapes: N×C×P×P float32 and N×P×P int64 (N×K×P×P with planes of objects), of this process; a
        loss is a float32 scalar.
        Raises: DoesNotFitError, on every process, with gradients that are worth nothing.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss, fits = self._gather(images, labels, micro_batch, self.loss)
        taught = torch.zeros_like(loss)
        if guessed is not None:
            weight = guessed.confident * guessed.weight
            with _norms_at_rest(self.network):
                taught, fits = self._gather(
                    guessed.images, guessed.labels, micro_batch, self.guess_loss, weight, fits=fits
                )
        self._agree_that_it_fits(fits)
        self.ranks.sum_gradients(self._parameters)
        return loss, taught

    def _gather(
        self,
        images: Tensor,
        labels: Tensor,
        micro_batch: int,
        criterion: Loss,
        weight: Tensor | None = None,
        *,
        fits: bool = True,
    ) -> tuple[Tensor, bool]:
        """Add patches to the gradients, so many at a time; return their mean loss.

        `fits`: whether all did that came before them; what is returned: whether the last ones did.
        """
        total = torch.zeros((), device=self.device)
        batch = self._batch_of(images)
        for first in range(0, batch, micro_batch):
            last = min(first + micro_batch, batch)
            part = self.ranks.part(images, labels, first, last)
            measured = self._measured(*part, criterion) if fits else []
            self._agree_that_it_fits(bool(measured))
            loss, guided = self._value(measured, criterion)
            share = (last - first) / batch
            fits = self._backward(guided * share if weight is None else guided * share * weight)
            total += loss.detach() * share
        return total, fits

    def _batch_of(self, own: Tensor) -> int:
        """Return how many patches a step has, of which some are here."""
        return len(own) if self.ranks.world == 1 else self.plan.batch

    def _measured(self, images: Tensor, labels: Tensor, criterion: Loss) -> list[Measured]:
        """Return what the network's heads make of some patches; nothing when they do not fit."""
        try:
            with autocast(self.device, self.precision):
                logits, auxiliary = self.network.forward_with_auxiliary(images)
            heads = [logits] if auxiliary is None else [logits, auxiliary]
            return [criterion.measure(head, labels) for head in heads]
        except RuntimeError as error:
            self._refuse_unless_it_may_fit(error)
            return []

    def _value(self, measured: list[Measured], criterion: Loss) -> tuple[Tensor, Tensor]:
        """Return the loss of the head, and the one to learn from, with that of a second head."""
        try:
            loss = guided = criterion.value(measured[0])
            for auxiliary in measured[1:]:
                guided = guided + _AUXILIARY_WEIGHT * criterion.value(auxiliary)
        except RuntimeError as error:
            self._refuse_unless_it_may_fit(error)
            if self.ranks.world > 1:  # the others wait for this process's statistics: no way back
                raise
            raise DoesNotFitError from None
        return loss, guided

    def _backward(self, loss: Tensor) -> bool:
        try:
            self.scaler.scale(loss).backward()
        except RuntimeError as error:
            self._refuse_unless_it_may_fit(error)
            return False
        return True

    def _refuse_unless_it_may_fit(self, error: RuntimeError) -> None:
        """Do nothing where fewer patches at a time can help, and all processes can agree on it.

        Raises: DoesNotFitError where the others already wait within the network; else the error.
        """
        if not is_out_of_memory(error):
            raise error
        if self._coupled:
            raise DoesNotFitError from None

    def _agree_that_it_fits(self, fits: bool) -> None:
        """Go on when every process had memory enough; else none does."""
        if self.ranks.most(not fits)[0]:
            raise DoesNotFitError

    def step(self, factor: float, step: int, *, head_only: bool = False) -> None:
        """Move the weights by the gathered gradients, with `factor` times the plan's rates.

        In fp16 a step whose gradients were too large moves nothing, and is counted: they are added
        over all processes by then, so that all leave it out.
        """
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            rests = head_only and group["name"].startswith("encoder")
            group["lr"] = 0.0 if rests else rate * factor
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.plan.clip_norm)
        if self.scaler.is_enabled():
            self._num_skipped += ~norm.isfinite()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average(step)

    @property
    def skipped(self) -> int:
        """How many steps moved no weight, since their gradients were too large for fp16."""
        return int(self._num_skipped) if self.scaler.is_enabled() else 0

    def with_scaling(self, state: TrainState) -> TrainState:
        """Return the state of the run with that of the loss's scale; only fp16 has one."""
        found = self.scaler.state_dict()
        if not found:
            return state
        return msgspec.structs.replace(
            state,
            loss_scale=found["scale"],
            loss_scale_steps=found["_growth_tracker"],
            num_skipped=self.skipped,
        )

    def restore_scaling(self, state: TrainState) -> None:
        """Go on with the loss's scale of a checkpoint, where it has one."""
        self._num_skipped.fill_(state.num_skipped)
        if self.scaler.is_enabled() and state.loss_scale:
            now = self.scaler.state_dict()
            kept = {"scale": state.loss_scale, "_growth_tracker": state.loss_scale_steps}
            self.scaler.load_state_dict({**now, **kept})

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Move the averaged weights towards the current ones, faster at the start."""
        decay = min(self.plan.ema_decay, (1 + step) / (10 + step))
        floats, counts = self._averages
        torch._foreach_lerp_(*floats, 1 - decay)  # pyright: ignore[reportPrivateUsage]
        if counts[0]:
            torch._foreach_copy_(*counts)  # pyright: ignore[reportPrivateUsage]

    def _paired(
        self,
    ) -> tuple[tuple[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]:
        """Return averaged and own tensors: those with a mean, and those that are copied.

        Listed once: on a GPU two state dicts a step take the host longer than the device.
        """
        own = self.network.state_dict()
        found: dict[bool, tuple[list[Tensor], list[Tensor]]] = {True: ([], []), False: ([], [])}
        for name, mean in self.averaged.state_dict().items():
            pair = found[mean.dtype.is_floating_point]
            pair[0].append(mean)
            pair[1].append(own[name])
        return found[True], found[False]


@contextmanager
def _norms_at_rest(network: torch.nn.Module) -> Generator[None]:
    """Leave the means of batch norms as they are: those of greys that no microscope gives are none.

    Each batch is normalised by its own, as ever.
    """
    norms = [one for one in network.modules() if isinstance(one, _BatchNorm)]
    momenta = [one.momentum for one in norms]
    try:
        for one in norms:
            one.momentum = 0.0
        yield
    finally:
        for one, momentum in zip(norms, momenta, strict=True):
            one.momentum = momentum


def mixed(seed: int, step: int) -> int:
    """Return one 63-bit number for a seed and a step (splitmix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value ^= value >> 31
    return (value * 0x94D049BB133111EB & (2**64 - 1)) >> 1
