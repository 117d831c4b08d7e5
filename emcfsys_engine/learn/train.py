"""The training loop: patches, steps, validations, checkpoints, and a clean end to any of them."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor

from emcfsys_engine.errors import RunFailedError
from emcfsys_engine.events import (
    CheckpointPruned,
    CheckpointSaved,
    Event,
    StepDone,
    ValidationDone,
    WarningGiven,
)
from emcfsys_engine.learn.augment import augment
from emcfsys_engine.learn.batches import Batches
from emcfsys_engine.learn.checkpoint import (
    BackgroundWriter,
    TrainState,
    copied,
    encode_checkpoint,
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
)
from emcfsys_engine.learn.data import Dataset, PatchSampler
from emcfsys_engine.learn.device import autocast
from emcfsys_engine.learn.losses import build_loss
from emcfsys_engine.learn.metrics import Scores
from emcfsys_engine.learn.model_file import ModelCard, encode_model
from emcfsys_engine.learn.network import SegmentationNetwork, parameter_groups
from emcfsys_engine.learn.plan import Plan
from emcfsys_engine.learn.validate import Validation, validate
from emcfsys_engine.project import Project
from emcfsys_engine.run import Run

_FLOOR = 0.01  # of the learning rate, at the end of the cosine
_CHECKPOINT_EVERY_S = 120.0
_STEP_EVENT_EVERY_S = 0.5


@dataclass(kw_only=True)
class Parts:
    """What the loop works with, made by the worker."""

    run: Run
    project: Project
    plan: Plan
    card: ModelCard
    network: SegmentationNetwork
    train: Dataset
    val: Dataset
    say: Callable[[Event], None]
    asked: Callable[[], str | None]  # "cancel", "stop", "pause" or "terminated"


@dataclass(kw_only=True)
class Ending:
    """Why the loop ended, and with what."""

    reason: str  # steps | minutes | early_stopping | stopped | cancelled | paused | terminated
    step: int
    score: float | None


@dataclass(kw_only=True)
class _Since:
    """What was counted since the last event of a kind."""

    loss: Tensor
    steps: int = 0
    started: float = field(default_factory=time.monotonic)


class Trainer:
    """Trains one network as its plan says; a checkpoint holds all of its state."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.plan = parts.plan
        self.device = torch.device(parts.plan.device)
        self.precision: torch.dtype = getattr(torch, parts.plan.precision)
        self.network = parts.network.to(self.device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False)
        # Files are encoded from this copy, in a thread: no clone of the graph, no random numbers.
        self.on_disk = copy.deepcopy(parts.network).to("cpu", memory_format=torch.contiguous_format)
        self.on_disk.eval().requires_grad_(False)
        self.optimizer = _make_optimizer(self.network, self.plan, self.device)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.loss = build_loss(parts.project.training.loss, self.plan.class_weights)
        self.sampler = PatchSampler(
            parts.train, self.plan.patch_px, self.plan.batch, parts.project.project.seed
        )
        self.state = TrainState(micro_batch=self.plan.micro_batch)
        self.writer = BackgroundWriter()
        self.began = time.monotonic()
        self.saved_at = self.began
        self.warned_of_disk = False

    def resume(self) -> int:
        """Go on from the run's checkpoint; return its step."""
        tensors, self.state = read_checkpoint(self.parts.run.checkpoint_file)
        self.network.load_state_dict(_under("network.", tensors))
        self.averaged.load_state_dict(_under("averaged.", tensors))
        load_optimizer(self.optimizer, tensors)
        return self.state.step

    def train(self) -> Ending:
        """Step until the budget, patience or a person ends it; then validate and save."""
        self.began = time.monotonic() - self.state.elapsed_s
        batches = Batches(self.sampler, self.state.step + 1, self.device)
        since = _Since(loss=torch.zeros((), device=self.device))
        since_validation = _Since(loss=torch.zeros((), device=self.device))
        try:
            reason = self._loop(batches, since, since_validation)
        finally:
            batches.close()
        if reason in ("cancelled", "paused", "terminated"):
            self._save_checkpoint()
        else:
            if since_validation.steps:
                self._validate(since_validation)
            self._save_checkpoint()
            self._save_final()
        self.writer.close()
        return Ending(reason=reason, step=self.state.step, score=self.state.best_score)

    def _loop(self, batches: Batches, since: _Since, since_validation: _Since) -> str:
        while True:
            asked = self.parts.asked()
            if asked is not None:
                return {"cancel": "cancelled", "stop": "stopped", "pause": "paused"}.get(
                    asked, asked
                )
            ended = self._is_over(since_validation)
            if ended:
                return ended
            loss = self._step(*batches.next())
            for counter in (since, since_validation):
                counter.loss += loss
                counter.steps += 1
            self.writer.poll()
            if self._is_event_due(since):
                self._say_step(since)
            if self._is_validation_due(since_validation):
                self._validate(since_validation)
                if self._has_lost_patience():
                    return "early_stopping"
            elif time.monotonic() - self.saved_at > _CHECKPOINT_EVERY_S:
                self._save_checkpoint(since_validation)

    def _step(self, crops_NCMM: Tensor, labels_NMM: Tensor) -> Tensor:
        """Do one optimiser step on a batch; return its mean loss, still on the device."""
        step = self.state.step + 1
        # Each step seeds its own random numbers: a resumed run draws what it would have drawn.
        seed = _mixed(self.parts.project.project.seed, step)
        torch.manual_seed(seed)
        rng = torch.Generator(self.device).manual_seed(seed)
        images, labels = augment(
            crops_NCMM, labels_NMM, self.plan.patch_px, self.plan.strengths, rng
        )
        images = images.contiguous(memory_format=torch.channels_last)
        factor = self._rate_factor(step)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor * self.state.rate_factor
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        micro = self.state.micro_batch
        for first in range(0, len(images), micro):
            part = slice(first, first + micro)
            with autocast(self.device, self.precision):
                logits = self.network(images[part])
            share = len(images[part]) / len(images)
            loss = self.loss(logits, labels[part]) * share
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip_norm)
        self.optimizer.step()
        self._average(step)
        self.state = msgspec.structs.replace(self.state, step=step)
        return total

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Move the averaged weights towards the current ones, faster at the start."""
        decay = min(self.plan.ema_decay, (1 + step) / (10 + step))
        own = self.network.state_dict()
        floats: list[Tensor] = []
        targets: list[Tensor] = []
        for name, mean in self.averaged.state_dict().items():
            if mean.dtype.is_floating_point:
                floats.append(mean)
                targets.append(own[name])
            else:
                mean.copy_(own[name])
        torch._foreach_lerp_(floats, targets, 1 - decay)  # pyright: ignore[reportPrivateUsage]

    def _rate_factor(self, step: int) -> float:
        """Return what the learning rates are multiplied with: warm-up, then a cosine."""
        warm = min(1.0, step / self.plan.warmup_steps)
        progress = min(1.0, self._progress(step))
        return warm * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))

    def _progress(self, step: int) -> float:
        if self.plan.total_steps is not None:
            return step / self.plan.total_steps
        return self._elapsed() / max(1e-9, self._train_seconds())

    def _elapsed(self) -> float:
        return time.monotonic() - self.began

    def _train_seconds(self) -> float:
        """Return how much of the minutes is left for steps, a final validation set aside."""
        assert self.plan.minutes is not None
        return self.plan.minutes * 60 - 1.1 * self.state.validation_s

    def _is_over(self, since_validation: _Since) -> str | None:
        if self.plan.total_steps is not None:
            return "steps" if self.state.step >= self.plan.total_steps else None
        step_s = (time.monotonic() - since_validation.started) / max(1, since_validation.steps)
        return "minutes" if self._elapsed() + step_s > self._train_seconds() else None

    def _is_validation_due(self, since: _Since) -> bool:
        if self.plan.validate_every is not None:
            return self.state.step % self.plan.validate_every == 0
        assert self.plan.minutes is not None
        return time.monotonic() - since.started > max(
            self.plan.minutes * 60 / 10, 4 * self.state.validation_s
        )

    def _has_lost_patience(self) -> bool:
        patience = self.parts.project.training.patience
        return 0 < patience <= self.state.beaten

    def _is_event_due(self, since: _Since) -> bool:
        return (
            self.state.step == 1 or time.monotonic() - since.started >= _STEP_EVENT_EVERY_S
        )

    def _say_step(self, since: _Since) -> None:
        loss = float(since.loss) / since.steps
        if not math.isfinite(loss):
            self._roll_back(loss)
        else:
            self.parts.say(
                StepDone(
                    step=self.state.step,
                    loss=loss,
                    learning_rate=self.optimizer.param_groups[0]["lr"],
                    seconds=(time.monotonic() - since.started) / since.steps,
                )
            )
        since.loss.zero_()
        since.steps = 0
        since.started = time.monotonic()

    def _roll_back(self, loss: float) -> None:
        """Go back to the last checkpoint with half the rate, once; then give up."""
        step = self.state.step
        what = f"the loss became {loss} at step {step} or just before"
        self.writer.close()
        if self.state.rollbacks or not self.parts.run.checkpoint_file.exists():
            raise RunFailedError(f"{what}. Lower training.encoder_lr and decoder_lr")
        self.writer = BackgroundWriter()
        back_to = self.resume()
        self.state = msgspec.structs.replace(
            self.state, step=step, rate_factor=self.state.rate_factor / 2, rollbacks=1
        )
        self.parts.say(
            WarningGiven(message=f"{what}: back to the weights of step {back_to} with half the rate")
        )

    def _validate(self, since: _Since) -> None:
        started = time.monotonic()
        train_s = started - since.started
        result = self._look_at_validation_images()
        score = result.scores.score(self.parts.project.training.best_by)
        is_best = score is not None and (
            self.state.best_score is None or score > self.state.best_score
        )
        beaten_step, beaten_score = self.state.best_step, self.state.best_score
        self.state = msgspec.structs.replace(
            self.state,
            elapsed_s=self._elapsed(),
            validation_s=time.monotonic() - started,
            best_score=score if is_best else self.state.best_score,
            best_step=self.state.step if is_best else self.state.best_step,
            beaten=0 if is_best else self.state.beaten + 1,
        )
        self.parts.say(self._validation_event(result, since, train_s, score, is_best))
        if is_best:
            self._save_best(result.scores, score, beaten_step, beaten_score)
        self._save_checkpoint()
        since.loss.zero_()
        since.steps = 0
        since.started = time.monotonic()

    def _look_at_validation_images(self) -> Validation:
        def forward(tiles: Tensor) -> Tensor:
            with autocast(self.device, self.precision):
                return self.averaged(tiles.contiguous(memory_format=torch.channels_last))

        with torch.inference_mode():
            return validate(
                forward,
                self.parts.val,
                self.loss,
                device=self.device,
                tile_px=self.plan.tile_px,
                overlap=self.parts.project.inference.overlap,
                batch=max(1, self.plan.batch // 2),
            )

    def _validation_event(
        self,
        result: Validation,
        since: _Since,
        train_s: float,
        score: float | None,
        is_best: bool,
    ) -> ValidationDone:
        found = result.scores
        return ValidationDone(
            step=self.state.step,
            train_loss=float(since.loss) / max(1, since.steps),
            val_loss=result.loss,
            mean_iou=found.mean_iou,
            mean_foreground_iou=found.mean_foreground_iou,
            accuracy=found.accuracy,
            iou=found.iou,
            f1=found.f1,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            images_per_s=since.steps * self.plan.batch / max(1e-9, train_s),
            seconds_left=self._seconds_left(since, train_s),
            score=score,
            is_best=is_best,
            source_mean_iou={name: one.mean_iou for name, one in result.per_source.items()},
        )

    def _seconds_left(self, since: _Since, train_s: float) -> float | None:
        if self.plan.total_steps is None:
            assert self.plan.minutes is not None
            return max(0.0, self.plan.minutes * 60 - self._elapsed())
        steps_left = self.plan.total_steps - self.state.step
        step_s = train_s / max(1, since.steps)
        validations = steps_left / (self.plan.validate_every or steps_left or 1)
        return steps_left * step_s + validations * self.state.validation_s

    def _card(self, found: Scores | None) -> ModelCard:
        given: dict[str, float | None] = {}
        if found is not None:
            given = {"mean_iou": found.mean_iou, "accuracy": found.accuracy}
            given |= {f"iou:{name}": value for name, value in found.iou.items()}
        return msgspec.structs.replace(self.parts.card, step=self.state.step, scores=given)

    def _save_best(
        self, found: Scores, score: float | None, beaten_step: int, beaten_score: float | None
    ) -> None:
        step = self.state.step
        file = self.parts.run.best_model

        def on_done(error: Exception | None) -> None:
            if error is not None:
                self._warn_of_disk(f"best model of step {step}", error)
                return
            self.parts.say(CheckpointSaved(step=step, role="best", file=file.name, score=score))
            if beaten_score is not None:
                self.parts.say(CheckpointPruned(step=beaten_step, role="best", score=beaten_score))

        self._save_model(file, self._card(found), on_done)

    def _save_final(self) -> None:
        step = self.state.step
        file = self.parts.run.final_model

        def on_done(error: Exception | None) -> None:
            if error is not None:
                raise RunFailedError(f"the final model could not be saved: {error}")
            self.parts.say(CheckpointSaved(step=step, role="final", file=file.name))

        self._save_model(file, self._card(None), on_done)

    def _save_model(
        self, file: "object", card: ModelCard, on_done: Callable[[Exception | None], None]
    ) -> None:
        weights = copied(self.averaged.state_dict())

        def make_bytes() -> bytes:
            self.on_disk.load_state_dict(weights)
            return encode_model(self.on_disk, card)

        self.writer.write(file, make_bytes, on_done)  # type: ignore[arg-type]

    def _save_checkpoint(self, since: _Since | None = None) -> None:
        self.state = msgspec.structs.replace(
            self.state,
            elapsed_s=self._elapsed(),
            loss_sum=float(since.loss) if since else 0.0,
            loss_count=since.steps if since else 0,
        )
        tensors = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        tensors |= {f"averaged.{name}": t for name, t in self.averaged.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer)
        tensors, state = copied(tensors), self.state
        file = self.parts.run.checkpoint_file

        def on_done(error: Exception | None) -> None:
            if error is not None:
                self._warn_of_disk(f"checkpoint of step {state.step}", error)
            else:
                self.parts.say(CheckpointSaved(step=state.step, role="last", file=file.name))

        self.writer.write(file, lambda: encode_checkpoint(tensors, state), on_done)
        self.saved_at = time.monotonic()

    def _warn_of_disk(self, what: str, error: Exception) -> None:
        self.parts.say(
            WarningGiven(
                message=f"The {what} could not be saved: {error}. What was saved before is whole"
            )
        )


def _make_optimizer(
    network: SegmentationNetwork, plan: Plan, device: torch.device
) -> torch.optim.Optimizer:
    groups = parameter_groups(network, plan.weight_decay)
    for group in groups:
        is_encoder = group["name"].startswith("encoder")
        group["lr"] = plan.encoder_lr if is_encoder else plan.decoder_lr
    return torch.optim.AdamW(groups, fused=device.type == "cuda" or None)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _mixed(seed: int, step: int) -> int:
    """Return one 63-bit number for a seed and a step (splitmix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value ^= value >> 31
    return (value * 0x94D049BB133111EB & (2**64 - 1)) >> 1
