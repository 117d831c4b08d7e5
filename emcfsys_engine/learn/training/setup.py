"""What a training works with, and how it ended."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.learn.run_disk import RunDisk
from emcfsys_engine.learn.training.checkpoint import TrainState
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.plan import Plan
from emcfsys_engine.model_card import ModelCard, TrainingStatistics
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import Event
from emcfsys_engine.run.folder import Run

# What the images of a data set are taken for, by name: class indices, uint8 H×W.
Guesses = Callable[[Dataset], dict[str, np.ndarray]]


@dataclass(kw_only=True)
class TrainingSetup:
    """What the loop works with, made by the worker."""

    run: Run
    project: Project
    plan: Plan
    card: ModelCard
    network: SegmentationNetwork
    train: Dataset
    val: Dataset
    unlabelled: Dataset | None = None  # images that teach without labels
    emit: Callable[[Event], None]
    disk: RunDisk
    stop_request: Callable[[], str | None]  # "cancel", "stop", "pause" or "terminated"
    ranks: Ranks = field(default_factory=Ranks)
    # What a training that follows the labels goes on with after a step; None: nothing is new.
    new_labels: "Callable[[TrainingSetup, int, Guesses], TrainingSetup | None] | None" = None
    val_digest: str = ""  # names what is validated on: images, their pixels and their labels


@dataclass(kw_only=True)
class Ending:
    """Why the loop ended, and with what."""

    reason: str  # steps | minutes | early_stopping | stopped | cancelled | paused | terminated
    step: int
    score: float | None

    @property
    def keeps(self) -> bool:
        """Whether it came to its end, and its best model stays."""
        return self.reason not in ("cancelled", "paused", "terminated")


@dataclass(kw_only=True)
class Since:
    """What was counted since the last event of a kind. Shapes: the loss is a float32 scalar."""

    loss: Tensor
    steps: int = 0
    started: float = field(default_factory=time.monotonic)

    def begin_again(self) -> None:
        """Count anew from now on."""
        self.loss.zero_()
        self.steps = 0
        self.started = time.monotonic()

    def seconds(self) -> float:
        """Return how long ago the event was."""
        return time.monotonic() - self.started

    def step_s(self) -> float:
        """Return how long a step took, on average."""
        return self.seconds() / max(1, self.steps)


_FOLLOW_EVERY_S = 20.0  # validations of a training that follows the labels
_LEAST_ENDING, _MOST_ENDING = 20, 500  # steps with a falling rate once such a training is stopped
_ENDING_SHARE = 0.2  # of a trapezoid
TRUST_SHARE = 0.1  # of the minutes, to learn when the model fails
MOST_TRUST_S = 120.0  # of one model: the best, and the final one where time is left
_MINUTES_RESERVE = 1.1  # times the last validation's length is kept for the final one


LEAST_TRUST_IMAGES = 2  # one that is left out, and one to learn from
LEAST_TRUST_S = 3.0


class Budget:
    """Steps or minutes, as the plan says; minutes leave time for a final validation.

    A training that follows the labels may have neither: it is open until somebody stops it, and
    ends with a few steps of a falling rate.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._began = time.monotonic()
        self._ending: tuple[int, int] | None = None  # first and last step of a falling rate

    @property
    def is_open(self) -> bool:
        """Whether nothing but a person ends the run."""
        return self._plan.total_steps is None and self._plan.minutes is None

    def end_soon(self, step: int) -> None:
        """Let the rate of an open run fall from a step on, and end it then; asked again: go on."""
        if self._ending is None:
            steps = max(_LEAST_ENDING, min(_MOST_ENDING, round(step * _ENDING_SHARE)))
            self._ending = (step, step + steps)

    def begin(self, elapsed_s: float) -> None:
        """Start the clock of a run that has used some of its time before."""
        self._began = time.monotonic() - elapsed_s

    def elapsed_s(self) -> float:
        """Return how long the run has trained, over all its starts."""
        return time.monotonic() - self._began

    def progress(self, step: int, state: TrainState) -> float:
        """Return the share of the run that is done at a step; above 1 when it is over."""
        if self._plan.total_steps is not None:
            return step / self._plan.total_steps
        if self.is_open:
            if self._ending is None:
                return 0.0
            first, last = self._ending
            return 1 - _ENDING_SHARE * (last - step) / (last - first)
        return self.elapsed_s() / max(1e-9, self._train_s(state))

    def is_over(self, state: TrainState, step_s: float) -> bool:
        """Tell whether the steps are done, or the minutes have no room for another one."""
        if self._plan.total_steps is not None:
            return state.step >= self._plan.total_steps
        if self.is_open:
            return self._ending is not None and state.step >= self._ending[1]
        return self.elapsed_s() + step_s > self._train_s(state)

    def is_validation_due(self, state: TrainState, since_s: float) -> bool:
        """Tell whether to validate after this step; `since_s`: since the last validation."""
        if self._plan.validate_every is not None:
            return state.step % self._plan.validate_every == 0
        every_s = (self._plan.minutes or math.inf) * 60 / 10
        if self._plan.follow:
            every_s = min(every_s, _FOLLOW_EVERY_S)
        return since_s > max(every_s, 4 * state.validation_s)

    def seconds_left(self, state: TrainState, step_s: float) -> float | None:
        """Return how long the rest will take, validations included; None: until it is stopped."""
        if self.is_open:
            return None
        if self._plan.total_steps is None:
            assert self._plan.minutes is not None
            return max(0.0, self._plan.minutes * 60 - self.elapsed_s())
        steps_left = self._plan.total_steps - state.step
        validations = steps_left / (self._plan.validate_every or steps_left or 1)
        return steps_left * step_s + validations * state.validation_s

    def _train_s(self, state: TrainState) -> float:
        """Return how much of the minutes is for steps, a final validation set aside."""
        assert self._plan.minutes is not None
        return self._plan.minutes * 60 - _MINUTES_RESERVE * state.validation_s - self._trust_s()

    def _trust_s(self) -> float:
        if self._plan.minutes is None or len(self._plan.val_images) < LEAST_TRUST_IMAGES:
            return 0.0
        return min(2 * MOST_TRUST_S, TRUST_SHARE * self._plan.minutes * 60)

    def trust_seconds(self) -> float:
        """Return how long the run may learn when its model fails, once it has ended.

        Where minutes are set, that is what they have left: a slow validation may have used it up.
        """
        if self._plan.minutes is not None:
            left_s = self._plan.minutes * 60 - self.elapsed_s()
            return max(LEAST_TRUST_S, min(self._trust_s(), left_s))
        return min(2 * MOST_TRUST_S, max(LEAST_TRUST_S, TRUST_SHARE * self.elapsed_s()))


def statistics_of(train: Dataset) -> TrainingStatistics:
    """Return how bright training images are, for images to be compared with them."""
    means = np.array([train[index].raw_mean for index in range(len(train))])
    contrasts = np.array([train[index].raw_deviation for index in range(len(train))])
    return TrainingStatistics(
        num_images=len(train),
        mean=float(means.mean()),
        mean_deviation=float(means.std()),
        contrast=float(contrasts.mean()),
        contrast_deviation=float(contrasts.std()),
    )
