"""Which files a training leaves behind: best, final and last, written beside the loop."""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from emcfsys_engine.errors import RunFailedError
from emcfsys_engine.learn.model_file import encode_model
from emcfsys_engine.learn.networks.network import SegmentationNetwork, build_network
from emcfsys_engine.learn.training.checkpoint import (
    BackgroundWriter,
    TrainState,
    copied,
    encode_checkpoint,
)
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run.events import CheckpointPruned, CheckpointSaved, Event, WarningGiven
from emcfsys_engine.run.folder import Run


class Idle:
    """What saves nothing: another process of the training does."""

    def save_best(
        self, card: ModelCard, score: float | None, beaten: tuple[int, float | None]
    ) -> None:
        """Save nothing."""

    def save_final(self, card: ModelCard) -> None:
        """Save nothing."""

    def save_checkpoint(self, tensors: dict[str, Tensor], state: TrainState) -> None:
        """Save nothing."""

    def seconds_since_checkpoint(self) -> float:
        """Return 0: none is ever due."""
        return 0.0

    def poll(self) -> None:
        """Say nothing."""

    def wait(self) -> None:
        """Wait for nothing."""

    def close(self) -> None:
        """Wait for nothing."""


class Saver:
    """Saves a run's models and checkpoints in a thread, and says so when they are on the disk."""

    def __init__(
        self, run: Run, say: Callable[[Event], None], averaged: SegmentationNetwork
    ) -> None:
        self._run = run
        self._say = say
        self._averaged = averaged
        # Files are encoded from this copy, in the thread: it draws no random numbers.
        self._on_disk = _for_inference(averaged)
        self._writer = BackgroundWriter()
        self._checkpoint_at = time.monotonic()

    def save_best(
        self, card: ModelCard, score: float | None, beaten: tuple[int, float | None]
    ) -> None:
        """Save the averaged weights as the best model; the one it beats is replaced."""
        file = self._run.best_model
        beaten_step, beaten_score = beaten

        def on_done(error: Exception | None) -> None:
            if error is not None:
                self._warn_of_disk(f"best model of step {card.step}", error)
                return
            self._say(CheckpointSaved(step=card.step, role="best", file=file.name, score=score))
            if beaten_score is not None:
                self._say(CheckpointPruned(step=beaten_step, role="best", score=beaten_score))

        self._save_model(file, card, on_done)

    def save_final(self, card: ModelCard) -> None:
        """Save the averaged weights as training ends with them.

        Raises: RunFailedError, from `poll` or `close`, if that fails.
        """
        file = self._run.final_model

        def on_done(error: Exception | None) -> None:
            if error is not None:
                raise RunFailedError(f"the final model could not be saved: {error}")
            self._say(CheckpointSaved(step=card.step, role="final", file=file.name))

        self._save_model(file, card, on_done)

    def save_checkpoint(self, tensors: dict[str, Tensor], state: TrainState) -> None:
        """Save everything needed to go on."""
        file = self._run.checkpoint_file
        kept = copied(tensors)

        def on_done(error: Exception | None) -> None:
            if error is not None:
                self._warn_of_disk(f"checkpoint of step {state.step}", error)
            else:
                self._say(CheckpointSaved(step=state.step, role="last", file=file.name))

        self._writer.write(file, lambda: encode_checkpoint(kept, state), on_done)
        self._checkpoint_at = time.monotonic()

    def seconds_since_checkpoint(self) -> float:
        """Return how long ago the last checkpoint was taken."""
        return time.monotonic() - self._checkpoint_at

    def poll(self) -> None:
        """Say what reached the disk since the last call."""
        self._writer.poll()

    def wait(self) -> None:
        """Wait until everything asked for is on the disk, and go on."""
        self._writer.close()
        self._writer = BackgroundWriter()

    def close(self) -> None:
        """Wait until everything is on the disk, and end."""
        self._writer.close()

    def _save_model(
        self, file: Path, card: ModelCard, on_done: Callable[[Exception | None], None]
    ) -> None:
        wanted = self._on_disk.state_dict()
        kept = self._averaged.inference_state()
        weights = copied({name: tensor for name, tensor in kept.items() if name in wanted})

        def make_bytes() -> bytes:
            self._on_disk.load_state_dict(weights)
            return encode_model(self._on_disk, card)

        self._writer.write(file, make_bytes, on_done)

    def _warn_of_disk(self, what: str, error: Exception) -> None:
        if not isinstance(error, OSError):
            raise error
        message = f"The {what} could not be saved: {error}. What was saved before is whole"
        self._say(WarningGiven(message=message))


def _for_inference(averaged: SegmentationNetwork) -> SegmentationNetwork:
    """Return a network of the same kind on the CPU, without the head that is only for training."""
    if not averaged.spec.auxiliary:
        return copy.deepcopy(averaged).to("cpu").to(memory_format=torch.contiguous_format)
    spec = msgspec.structs.replace(averaged.spec, auxiliary=False)
    return build_network(spec).eval().requires_grad_(False)
