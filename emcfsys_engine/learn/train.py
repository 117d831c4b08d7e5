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
    Event,
    PreviewSaved,
    StepDone,
    ValidationDone,
    WarningGiven,
)
from emcfsys_engine.learn.augment import augment
from emcfsys_engine.learn.batches import Batches
from emcfsys_engine.learn.checkpoint import (
    TrainState,
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
)
from emcfsys_engine.learn.data import Dataset, PatchSampler
from emcfsys_engine.learn.device import autocast
from emcfsys_engine.learn.losses import build_loss
from emcfsys_engine.learn.model_file import with_confidence
from emcfsys_engine.learn.network import SegmentationNetwork, parameter_groups
from emcfsys_engine.learn.plan import Plan
from emcfsys_engine.learn.previews import MOST, preview_name, write_preview
from emcfsys_engine.learn.saving import Saver
from emcfsys_engine.learn.validate import Validation, validate
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project import Project
from emcfsys_engine.run import Run

_WARM_SHARE = 0.05  # of the run: the warm-up is over by then, however few its steps
_FLOOR = 0.01  # of the learning rate, at the end of the cosine
_CHECKPOINT_EVERY_S = 120.0
_STEP_EVENT_EVERY_S = 0.5
_ENDING_OF = {
    "cancel": "cancelled",
    "stop": "stopped",
    "pause": "paused",
    "terminated": "terminated",
}


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

    def begin_again(self) -> None:
        self.loss.zero_()
        self.steps = 0
        self.started = time.monotonic()


class Trainer:
    """Trains one network as its plan says; a checkpoint holds all of its state."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.plan = parts.plan
        self.device = torch.device(parts.plan.device)
        self.precision: torch.dtype = getattr(torch, parts.plan.precision)
        self.network = parts.network.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = _make_optimizer(self.network, self.plan, self.device)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.loss = build_loss(parts.project.training.loss, self.plan.class_weights)
        self.sampler = PatchSampler(
            parts.train, self.plan.patch_px, self.plan.batch, parts.project.project.seed
        )
        self.state = TrainState(micro_batch=self.plan.micro_batch)
        self.saver = Saver(parts.run, parts.say, self.averaged)
        self.since_event = _Since(loss=torch.zeros((), device=self.device))
        self.since_validation = _Since(loss=torch.zeros((), device=self.device))
        self.began = time.monotonic()

    def resume(self) -> int:
        """Go on from the run's checkpoint; return its step."""
        self._restore()
        self.since_validation.loss.fill_(self.state.loss_sum)
        self.since_validation.steps = self.state.loss_count
        return self.state.step

    def train(self) -> Ending:
        """Step until the budget, patience or a person ends it; then validate and save."""
        self.began = time.monotonic() - self.state.elapsed_s
        batches = Batches(self.sampler, self.state.step + 1, self.device)
        try:
            reason = self._loop(batches)
        finally:
            batches.close()
        if reason in ("cancelled", "paused", "terminated"):
            self._save_checkpoint()
        else:
            if self.since_validation.steps or self.state.step == 0:
                self._validate()
            self._save_checkpoint()
            self.saver.save_final(self._card(None))
        self.saver.close()
        return Ending(reason=reason, step=self.state.step, score=self.state.best_score)

    def _loop(self, batches: Batches) -> str:
        while True:
            asked = self.parts.asked()
            if asked is not None:
                return _ENDING_OF[asked]
            ended = self._is_over()
            if ended is not None:
                return ended
            loss = self._step(*batches.next())
            for counter in (self.since_event, self.since_validation):
                counter.loss += loss
                counter.steps += 1
            self.saver.poll()
            if self._is_event_due():
                self._say_step()
            if self._is_validation_due():
                self._say_step()
                self._validate()
                self._save_checkpoint()
                if self._has_lost_patience():
                    return "early_stopping"
            elif self.saver.seconds_since_checkpoint() > _CHECKPOINT_EVERY_S:
                self._save_checkpoint()

    def _restore(self) -> None:
        tensors, self.state = read_checkpoint(self.parts.run.checkpoint_file)
        self.network.load_state_dict(_under("network.", tensors))
        self.averaged.load_state_dict(_under("averaged.", tensors))
        load_optimizer(self.optimizer, tensors)

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
        total = self._accumulated(images, labels)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip_norm)
        self.optimizer.step()
        self._average(step)
        self.state = msgspec.structs.replace(self.state, step=step)
        return total

    def _accumulated(self, images: Tensor, labels: Tensor) -> Tensor:
        """Gather the batch's gradients, in parts that fit into memory; return its mean loss."""
        while True:
            micro = self.state.micro_batch
            self.optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=self.device)
            try:
                for first in range(0, len(images), micro):
                    part = slice(first, first + micro)
                    with autocast(self.device, self.precision):
                        logits = self.network(images[part])
                    share = len(images[part]) / len(images)
                    loss = self.loss(logits, labels[part]) * share
                    loss.backward()
                    total += loss.detach()
            except torch.OutOfMemoryError:
                self._halve_micro_batch()
            else:
                return total

    def _halve_micro_batch(self) -> None:
        """Compute fewer patches at a time from now on; the effective batch stays what it was."""
        micro = self.state.micro_batch
        if micro == 1:
            raise RunFailedError(
                f"one patch of {self.plan.patch_px} px does not fit into the device's memory. "
                "Lower training.patch_px, or choose a smaller backbone"
            )
        torch.cuda.empty_cache()
        self.state = msgspec.structs.replace(self.state, micro_batch=micro // 2)
        message = (
            f"Out of memory at step {self.state.step + 1}: {micro // 2} instead of {micro} patches "
            f"at a time from now on, {self.plan.batch} a step as before"
        )
        self.parts.say(WarningGiven(message=message))

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
        progress = min(1.0, self._progress(step))
        warm = min(1.0, max(step / self.plan.warmup_steps, progress / _WARM_SHARE))
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

    def _is_over(self) -> str | None:
        if self.plan.total_steps is not None:
            return "steps" if self.state.step >= self.plan.total_steps else None
        since = self.since_validation
        step_s = (time.monotonic() - since.started) / max(1, since.steps)
        return "minutes" if self._elapsed() + step_s > self._train_seconds() else None

    def _is_validation_due(self) -> bool:
        if self.plan.validate_every is not None:
            return self.state.step % self.plan.validate_every == 0
        assert self.plan.minutes is not None
        wait_s = max(self.plan.minutes * 60 / 10, 4 * self.state.validation_s)
        return time.monotonic() - self.since_validation.started > wait_s

    def _has_lost_patience(self) -> bool:
        patience = self.parts.project.training.patience
        return 0 < patience <= self.state.beaten

    def _is_event_due(self) -> bool:
        waited_s = time.monotonic() - self.since_event.started
        return self.state.step == 1 or waited_s >= _STEP_EVENT_EVERY_S

    def _say_step(self) -> None:
        """Report the steps since the last report; here a non-finite loss is found."""
        since = self.since_event
        if not since.steps:
            return
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
        since.begin_again()

    def _roll_back(self, loss: float) -> None:
        """Go back to the last checkpoint with half the rate, once; then give up."""
        step = self.state.step
        what = f"the loss became {loss} at step {step} or just before"
        self.saver.wait()
        if self.state.rollbacks or not self.parts.run.checkpoint_file.exists():
            raise RunFailedError(f"{what}. Lower training.encoder_lr and training.decoder_lr")
        self._restore()
        back_to = self.state.step
        self.state = msgspec.structs.replace(
            self.state, step=step, rate_factor=self.state.rate_factor / 2, rollbacks=1
        )
        self.since_validation.begin_again()
        message = f"{what}: back to the weights of step {back_to} with half the rate"
        self.parts.say(WarningGiven(message=message))

    def _validate(self) -> None:
        since = self.since_validation
        started = time.monotonic()
        train_s = started - since.started
        result = self._look_at_validation_images()
        score = result.scores.score(self.parts.project.training.best_by)
        beaten = (self.state.best_step, self.state.best_score)
        is_best = score is not None and (beaten[1] is None or score > beaten[1])
        self.state = msgspec.structs.replace(
            self.state,
            elapsed_s=self._elapsed(),
            validation_s=time.monotonic() - started,
            best_score=score if is_best else self.state.best_score,
            best_step=self.state.step if is_best else self.state.best_step,
            beaten=0 if is_best else self.state.beaten + 1,
        )
        self.parts.say(self._validation_event(result, train_s, score, is_best))
        if is_best:
            self.saver.save_best(self._card(result), score, beaten)
        since.begin_again()

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
                on_image=self._draw,
            )

    def _draw(self, index: int, predicted_HW: Tensor) -> None:
        """Write a preview of one of the first validation images; a full disk costs only that."""
        if index >= MOST:
            return
        step, name = self.state.step, self.parts.val.samples[index].name
        item = self.parts.val[index]
        file = self.parts.run.previews_folder / preview_name(step, name)
        predicted = predicted_HW.to(torch.uint8).cpu().numpy()
        try:
            write_preview(file, item.image[..., 0], item.labels, predicted, self.parts.card)
        except OSError as error:
            self.parts.say(WarningGiven(message=f"No preview of {name}: {error}"))
            return
        place = str(file.relative_to(self.parts.run.folder))
        self.parts.say(PreviewSaved(step=step, image=name, file=place))

    def _validation_event(
        self, result: Validation, train_s: float, score: float | None, is_best: bool
    ) -> ValidationDone:
        found, since = result.scores, self.since_validation
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
            seconds_left=self._seconds_left(train_s),
            score=score,
            is_best=is_best,
            source_mean_iou={name: one.mean_iou for name, one in result.per_source.items()},
        )

    def _seconds_left(self, train_s: float) -> float | None:
        if self.plan.total_steps is None:
            assert self.plan.minutes is not None
            return max(0.0, self.plan.minutes * 60 - self._elapsed())
        steps_left = self.plan.total_steps - self.state.step
        step_s = train_s / max(1, self.since_validation.steps)
        validations = steps_left / (self.plan.validate_every or steps_left or 1)
        return steps_left * step_s + validations * self.state.validation_s

    def _card(self, result: Validation | None) -> ModelCard:
        card = msgspec.structs.replace(self.parts.card, step=self.state.step)
        if result is None:
            return card
        found = result.scores
        given: dict[str, float | None] = {
            "mean_iou": found.mean_iou,
            "mean_foreground_iou": found.mean_foreground_iou,
            "accuracy": found.accuracy,
        }
        given |= {f"iou:{name}": value for name, value in found.iou.items()}
        return msgspec.structs.replace(
            card, scores=given, statistics=with_confidence(card.statistics, result.confidence)
        )

    def _save_checkpoint(self) -> None:
        self.state = msgspec.structs.replace(
            self.state,
            elapsed_s=self._elapsed(),
            loss_sum=float(self.since_validation.loss),
            loss_count=self.since_validation.steps,
        )
        tensors = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        tensors |= {f"averaged.{name}": t for name, t in self.averaged.state_dict().items()}
        self.saver.save_checkpoint(tensors | optimizer_tensors(self.optimizer), self.state)


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
