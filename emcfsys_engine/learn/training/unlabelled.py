"""What images without labels teach: the averaged network guesses, the other one learns to agree.

The averaged network sees a patch as it is; what it is sure of becomes the labels of the same patch
with other grey values. How sure it has to be is measured class by class, so that a rare class,
which is guessed less surely, teaches as well.
Sources: Sohn et al. 2020 (FixMatch, arXiv:2001.07685); Wang et al. 2022 (FreeMatch,
arXiv:2205.07246), where thresholds follow each class's share of the guesses, here its certainty.
N patches, C classes, P pixels of a patch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from emcfsys_engine.dataset.deals import Fingerprint
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import DataFaults, InputError
from emcfsys_engine.learn.training.batches import Batches
from emcfsys_engine.learn.training.checkpoint import TrainState
from emcfsys_engine.learn.training.dataset import Dataset, PatchSampler
from emcfsys_engine.learn.training.plan import Plan
from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.text import how_many

IN_VAIN = 4  # validations in a row without a gain, after which they teach no more
_FROM, _FULL = 0.1, 0.3  # shares of the run: from here on, and with all their weight
_OPEN_STEPS = {"cpu": 400, "cuda": 2_000}  # taken as the run's length where it has none in steps
WEIGHT = 0.5
_MEMORY = 0.9  # of the certainty of each class, from step to step
_LEAST, _MOST = 0.5, 0.95  # within which a class's threshold lies


class Views(NamedTuple):
    """A step's patches without labels, as they are and with other grey values.

    Shapes: N×C×P×P float32 twice; marks N×P×P int64 (N×K×P×P with planes of objects), 255 where
    nothing is to be learned.
    """

    plain: Tensor
    changed: Tensor
    marks: Tensor


class Guessed(NamedTuple):
    """The labels that the averaged network gives to a step's patches, and what they weigh.

    Shapes: images N×C×P×P float32, labels N×P×P int64 (N×K×P×P with planes of objects), 255 where
    it is not sure; the share is a float32 scalar.
    """

    images: Tensor
    labels: Tensor
    confident: Tensor  # share of the pixels
    weight: float


class Certainty:
    """How sure the averaged network is of the pixels of each class that it finds."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.mean_C = torch.full((num_classes,), 1.0, device=device)

    def thresholds(self) -> Tensor:
        """Return how probable each class must be: about half of its pixels are more so.

        Shapes: C float32, from 0.5 to 0.95.
        """
        return self.mean_C.clamp(_LEAST, _MOST)

    def learn(self, sums_2C: Tensor) -> None:
        """Take in a step's pixels: number and summed probability of each class.

        Shapes: 2×C float32, as `sums_of` gives them.
        """
        number_C, sum_C = sums_2C
        found_C = torch.where(number_C > 0, sum_C / number_C.clamp_min(1), self.mean_C)
        self.mean_C.lerp_(found_C, 1 - _MEMORY)


class UnlabelledPatches:
    """Crops of images without labels, of step after step; they are cut ahead once they are used."""

    def __init__(self, dataset: Dataset | None, plan: Plan, seed: int, own: range) -> None:
        self._dataset = dataset
        self._plan = plan
        self._seed = seed
        self._own = own
        self._batches: Batches | None = None

    def at(self, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return a step's crops and marks, on the device; asked for step after step.

        Shapes: N×C×M×M float32 and N×M×M uint8 (N×K×M×M with planes of objects), 255 where nothing
        teaches.
        """
        if self._batches is None:
            assert self._dataset is not None
            plan, seed = self._plan, self._seed + 2**32  # other places than those with labels
            sampler = PatchSampler(self._dataset, plan.patch_px, plan.batch, seed, self._own)
            self._batches = Batches(sampler, step, device)
        return self._batches.next()

    def close(self) -> None:
        """End what cuts ahead; the next step that is asked for begins anew."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def sums_of(probability_NPP: Tensor, guess_NPP: Tensor, may_NPP: Tensor, number: int) -> Tensor:
    """Return number and summed probability of the pixels of each class, of those that may teach.

    Shapes: probability float32, guess int64 class indices and may bool, N×P×P; 2×C float32 out.
    """
    flat = guess_NPP[may_NPP]
    ones = torch.ones_like(flat, dtype=torch.float32)
    columns = torch.stack([ones, probability_NPP[may_NPP]])
    return columns.new_zeros(2, number).index_add_(1, flat, columns)


def weight_at(plan: Plan, state: TrainState) -> float:
    """Return what images without labels weigh in the next step; 0: they take no part in it."""
    step = state.step + 1
    if not plan.unlabelled_images or state.unlabelled_ended or step < plan.unlabelled_from:
        return 0.0
    span = plan.unlabelled_full - plan.unlabelled_from + 1
    return WEIGHT * min(1.0, (step - plan.unlabelled_from + 1) / span)


def planned(plan: Plan, unlabelled: Sequence[Sample], num_there: int) -> Plan:
    """Return the plan with the images that teach without labels, and since when."""
    if not unlabelled:
        return plan
    steps = plan.total_steps or _OPEN_STEPS[plan.device]
    reason = (
        f"{len(unlabelled)} of {how_many(num_there, 'image')} without labels teach from step "
        f"{max(1, round(_FROM * steps))} on, with all their weight from step "
        f"{max(1, round(_FULL * steps))}"
    )
    return msgspec.structs.replace(
        plan,
        unlabelled_images=tuple(one.name for one in unlabelled),
        unlabelled_from=max(1, round(_FROM * steps)),
        unlabelled_full=max(1, round(_FULL * steps)),
        reasons={**plan.reasons, "unlabelled_images": reason},
    )


def after_validation(plan: Plan, state: TrainState, *, is_best: bool) -> TrainState:
    """Return the state after a validation: without a gain for long they teach no more."""
    if weight_at(plan, state) < WEIGHT:
        return state
    vain = 0 if is_best else state.unlabelled_in_vain + 1
    ended = state.step if vain >= IN_VAIN else 0
    return msgspec.structs.replace(state, unlabelled_in_vain=vain, unlabelled_ended=ended)


def readable(
    dataset: Dataset, val: Dataset, prints: dict[str, Fingerprint]
) -> tuple[Dataset, list[str]]:
    """Return those images that can be read and are none that validates; and why not the others.

    `prints`: of the images with labels; those read here are added.
    """
    validated = {prints[one.name].image for one in val.samples if one.name in prints} - {""}
    kept: list[Sample] = []
    notes: list[str] = []
    for index, sample in enumerate(dataset.samples):
        try:
            found = dataset.check([index])
        except DataFaults as faults:
            notes += [f"Goes on without it: {fault}" for fault in faults.faults]
            continue
        if found[sample.name].image in validated:
            what = "is one of the validation images: it does not teach"
            notes.append(str(InputError(str(sample.image), what)))
            continue
        prints |= found
        kept.append(sample)
    return dataset.renewed(kept, {}), notes


def as_labels(guess_NPP: Tensor, marks: Tensor) -> Tensor:
    """Return guesses as a loss wants them: of objects nothing is guessed.

    Shapes: guess N×P×P int64, marks N×P×P or N×K×P×P int64; the result is int64, as large as marks.
    """
    if marks.ndim == guess_NPP.ndim:
        return guess_NPP
    return torch.cat([guess_NPP[:, None], torch.full_like(marks[:, 1:], UNLABELLED)], 1)
