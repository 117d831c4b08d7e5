"""The training loop: steps, validations, checkpoints, and a clean end to any of them."""

import copy
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import msgspec
import torch
from torch import Tensor

from emcfsys_engine.errors import RunFailedError
from emcfsys_engine.files import write_whole
from emcfsys_engine.learn.device import Usage
from emcfsys_engine.learn.faults import free_cached_memory, is_out_of_memory
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.training.batches import Batches
from emcfsys_engine.learn.training.checkpoint import (
    NullSaver,
    Retry,
    Saver,
    TrainState,
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
    read_retry,
    under,
)
from emcfsys_engine.learn.training.dataset import PatchSampler
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.losses import Loss, build_loss
from emcfsys_engine.learn.training.setup import Budget, Ending, Since, TrainingSetup
from emcfsys_engine.learn.training.step import DoesNotFitError, Stepper, rate_factor
from emcfsys_engine.learn.training.unlabelled import (
    IN_VAIN,
    Guessed,
    UnlabelledPatches,
    after_validation,
    weight_at,
)
from emcfsys_engine.learn.training.validation import Validator, card_at, event_of
from emcfsys_engine.run.events import PhaseBegan, RunResumed, StepDone, WarningGiven

T = TypeVar("T")

_CHECKPOINT_EVERY_S = 120.0
_STEP_EVENT_EVERY_S = 0.5
_CERTAINTY = "unlabelled.certainty"  # in a checkpoint
_LOOK_EVERY_S = 2.0  # for labels, where nothing else is done
_ENDING_OF = {
    "cancel": "cancelled",
    "stop": "stopped",
    "pause": "paused",
    "terminated": "terminated",
}
# Where processes heard different ones, the last.
_STOP_REQUESTS = ("terminated", "pause", "stop", "cancel")


class Trainer:
    """Trains one network as its plan says; a checkpoint holds all of its state."""

    def __init__(self, setup: TrainingSetup) -> None:
        self.setup = setup
        self.plan = setup.plan
        self.ranks = setup.ranks
        self.device = self.ranks.device(setup.plan.device)
        network = setup.network.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False)
        self.network = self.ranks.with_common_norms(network, self.device)
        self.state = TrainState(micro_batch=self.plan.micro_batch)
        seed, loss = setup.project.project.seed, self._loss_of(self.ranks)
        self.stepper = Stepper(self.network, self.averaged, loss, self.plan, seed, self.ranks)
        self._build_from_labels()
        self.saver = (
            Saver(setup.disk, setup.emit, self.averaged, setup.stop_request)
            if self.ranks.is_first
            else NullSaver()
        )
        self.since_event = Since(loss=torch.zeros((), device=self.device))
        self.since_validation = Since(loss=torch.zeros((), device=self.device))
        # Loss and confident share of images without labels, and steps, since the last event.
        self.of_unlabelled = torch.zeros(3, device=self.device)
        self.budget = Budget(self.plan)
        self.usage = Usage(self.device)

    def _build_from_labels(self) -> None:
        """Make what depends on the images and labels: they may become more while it trains."""
        setup, plan = self.setup, self.plan
        self.stepper.learn_by(self._loss_of(self.ranks), plan)
        self.validator = Validator(setup, self.averaged, self._loss_of(Ranks()))
        seed = setup.project.project.seed
        own = self.ranks.own(plan.batch)
        self.sampler = PatchSampler(setup.train, plan.patch_px, plan.batch, seed, own)
        self.unlabelled = UnlabelledPatches(setup.unlabelled, plan, seed, own)

    def _loss_of(self, ranks: Ranks) -> Loss:
        text, num_classes = self.setup.project.training.loss, self.plan.network.num_classes
        return build_loss(text, self.plan.class_weights, ranks, num_classes)

    def resume(self) -> RunResumed:
        """Go on from the run's checkpoint; return the event that tells of it."""
        self._restore()
        self.since_validation.loss.fill_(self.state.loss_sum)
        self.since_validation.steps = self.state.loss_count
        before, now = self.state.validated_on, self.setup.val_digest
        if before and before != now and self.state.best_score is not None:
            return RunResumed(step=self.state.step, best_score=self._score_best_anew())
        return RunResumed(step=self.state.step)

    def _score_best_anew(self) -> float | None:
        """Score the best model on what is validated on now: other scores are of other pixels."""
        file, before = self.setup.run.best_model, self.state.best_score
        score: float | None = None
        if file.exists():
            network, card = load_model(file)
            result = self.validator.through(network.to(self.device), card.step)
            score = result.score(self.setup.project.training.best_by)
            if self.ranks.is_first:
                save_model(file, network.cpu(), card_at(self.setup.card, card.step, result))
        now = self.setup.val_digest
        self.state = msgspec.structs.replace(
            self.state, best_score=score, validations_without_improvement=0, validated_on=now
        )
        told = "cannot be scored on them" if score is None else f"scores {score:.3f} on them"
        message = (
            "The validation images or their labels changed: the best model so far, "
            f"{before:.3f} on what they were, {told}"
        )
        self.setup.emit(WarningGiven(message=message))
        return score

    def train(self) -> Ending:
        """Step until the budget, patience or a person ends it; then validate and save."""
        self._heed_retry()
        self.budget.begin(self.state.elapsed_s)
        if self.state.owes_validation:
            self._save_and_validate()
        self.batches = Batches(self.sampler, self.state.step + 1, self.device)
        try:
            reason = self._loop()
        except OSError:  # a full disk takes no event
            self._keep_elsewhere()
            raise
        finally:
            self.batches.close()
            self.unlabelled.close()
        if reason in ("cancelled", "paused", "terminated"):
            self._save_checkpoint()
        else:
            if self.since_validation.steps or self.state.step == 0:
                self._save_and_validate()
            else:
                self._save_checkpoint()
            self._say_skipped()
            self.setup.emit(PhaseBegan(phase="saving", step=self.state.step))
            card = card_at(self.setup.card, self.state.step)
            if self.state.objects is not None:
                card = msgspec.structs.replace(card, objects=self.state.objects)
            self.saver.save_final(card)
        self.saver.close()
        return Ending(reason=reason, step=self.state.step, score=self.state.best_score)

    def _loop(self) -> str:
        while True:
            ended, progress = self._agreed()
            if ended is not None:
                return ended
            loss = self.step(*self.batches.next(), progress)
            for counter in (self.since_event, self.since_validation):
                counter.loss += loss
                counter.steps += 1
            says, validates, saves = self._due(best_is_lost=self.saver.poll())
            if says or validates:
                self._say_step()
            if validates:
                self._save_and_validate()
                if not self._takes_up_labels() and self._has_lost_patience():
                    if not self.budget.is_open:
                        return "early_stopping"
                    self._wait_for_labels()
            elif saves:
                self._save_checkpoint()

    def _keep_elsewhere(self) -> None:
        """Save the steps so far, at last where the run's own disk takes nothing.

        Several processes do not: each would wait for the others, which know nothing of it.
        """
        if self.ranks.world == 1:
            self._save_checkpoint()
            with suppress(OSError):
                self.saver.close()

    def _takes_up_labels(self) -> bool:
        """Go on with what was labelled since; tell whether anything was."""
        look, guesses = self.setup.new_labels, self.validator.guesses
        news = look and look(self.setup, self.state.step, guesses)
        if not news:
            return False
        self.setup, self.plan, before = news, news.plan, self.setup.val_digest
        self.unlabelled.close()
        self._build_from_labels()
        self.batches.close()
        self.batches = Batches(self.sampler, self.state.step + 1, self.device)
        self.state = msgspec.structs.replace(self.state, validations_without_improvement=0)
        if before != news.val_digest and self.state.best_score is not None:
            self._score_best_anew()
        self._save_checkpoint()
        return True

    def _wait_for_labels(self) -> None:
        """Rest until labels come or somebody ends the run: more steps on these gain nothing."""
        self.setup.emit(WarningGiven(message="Gains nothing more: waits for labels, or a stop"))
        self.setup.emit(PhaseBegan(phase="waiting", step=self.state.step))
        while self.setup.stop_request() is None and not self._takes_up_labels():
            if self.saver.poll():
                self.state = msgspec.structs.replace(self.state, best_score=None)
                self._save_checkpoint()
            time.sleep(_LOOK_EVERY_S)
        self.state = msgspec.structs.replace(self.state, validations_without_improvement=0)
        self.since_validation.begin_again()

    def _agreed(self) -> tuple[str | None, float]:
        """Return why to end now, if so, and the run's progress: the same on all processes."""
        asked = self.setup.stop_request()
        if asked == "stop" and self.budget.is_open:
            self.budget.end_soon(self.state.step)
            asked = None
        request = 0 if asked is None else _STOP_REQUESTS.index(asked) + 1
        is_over = self.budget.is_over(self.state, self.since_validation.step_s())
        progress = self.budget.progress(self.state.step + 1, self.state)
        request, over, progress = self.ranks.most(request, is_over, progress)
        if request:
            return _ENDING_OF[_STOP_REQUESTS[int(request) - 1]], progress
        budget = "minutes" if self.plan.total_steps is None else "steps"
        budget = "stopped" if self.budget.is_open else budget
        return (budget if over else None), progress

    def _due(self, *, best_is_lost: bool) -> tuple[bool, bool, bool]:
        """Tell what all processes do after this step: report it, validate, save a checkpoint.

        Where the best model was lost, with the run's folder, the next one is the best.
        """
        validates = self.budget.is_validation_due(self.state, self.since_validation.seconds())
        saves = self.saver.seconds_since_checkpoint() > _CHECKPOINT_EVERY_S
        flags = (self._is_event_due(), validates, saves, best_is_lost)
        says, validates, saves, best_is_lost = map(bool, self.ranks.most(*flags))
        if best_is_lost:
            self.state = msgspec.structs.replace(self.state, best_score=None)
        return says, validates, saves or best_is_lost

    def step(self, crops_NCMM: Tensor, labels_NMM: Tensor, progress: float) -> Tensor:
        """Do one optimiser step on a batch; return its mean loss, still on the device.

        Shapes: N×C×M×M float32 and N×M×M (N×K×M×M) uint8; the loss is a float32 scalar.
        Units: `progress` is the share of the run that is done, 0 to 1.
        """
        step = self.state.step + 1
        images, labels = self._prepared(crops_NCMM, labels_NMM, step)
        factor = rate_factor(self.plan, step, progress) * self.state.rate_factor
        guessed = self._guessed(step)
        loss, taught = self._in_parts(
            lambda micro: self.stepper.accumulate_gradients(images, labels, micro, guessed)
        )
        if guessed is not None:
            self.of_unlabelled += torch.stack([taught, guessed.confident, torch.ones_like(taught)])
        self.stepper.step(factor, step, head_only=progress < self.plan.head_first)
        self.state = msgspec.structs.replace(self.state, step=step)
        return loss

    def _guessed(self, step: int) -> Guessed | None:
        """Return the step's patches without labels as the averaged network labels them."""
        weight = weight_at(self.plan, self.state)
        if not weight or self.setup.unlabelled is None:
            return None
        crops, marks = self.unlabelled.at(step, self.device)
        views = self._fitting(lambda: self.stepper.views(crops, marks, step))
        return self._in_parts(lambda micro: self.stepper.guess(views, micro, weight))

    def _prepared(self, crops_NCMM: Tensor, labels_NMM: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the step's patches, augmented: the same ones however often it is tried.

        Raises: RunFailedError if the images alone are too much for the device.
        """
        return self._fitting(lambda: self.stepper.prepare(crops_NCMM, labels_NMM, step))

    def _fitting(self, prepare: Callable[[], T]) -> T:
        for patience in (1, 0):
            try:
                return prepare()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if not patience:
                    what = "not even the batch's images fit into the device's memory"
                    raise RunFailedError(f"{what}. Lower training.batch") from None
            free_cached_memory()  # outside the handler, which holds what did not fit
        raise AssertionError

    def _in_parts(self, compute: Callable[[int], T]) -> T:
        """Return what is computed so many patches at a time, fewer where they do not fit."""
        while True:
            try:
                return compute(self.state.micro_batch)
            except DoesNotFitError:
                pass  # what did not fit is held by the error: let go of it first
            self.stepper.optimizer.zero_grad(set_to_none=True)
            free_cached_memory()
            self._halve_micro_batch()

    def _halve_micro_batch(self) -> None:
        """Compute fewer patches at a time from now on; the effective batch stays what it was."""
        micro = self.state.micro_batch
        if micro <= self.ranks.world:
            raise RunFailedError(
                f"one patch of {self.plan.patch_px} px does not fit into the device's memory. "
                "Lower training.patch_px, or choose a smaller backbone"
            )
        if self.ranks.are_coupled(self.device):
            self._start_again_with(micro // 2)
        self.state = msgspec.structs.replace(self.state, micro_batch=micro // 2)
        message = (
            f"Out of memory at step {self.state.step + 1}: {micro // 2} instead of {micro} patches "
            f"at a time from now on, {self.plan.batch} a step as before"
        )
        self.setup.emit(WarningGiven(message=message))

    def _start_again_with(self, micro: int) -> None:
        """End all processes, which wait for each other, to go on from the last checkpoint.

        Raises: RunFailedError; the keeper reads what is left here, and starts them again.
        """
        self.saver.wait()
        word = Retry(micro_batch=micro, rank=self.ranks.rank)
        write_whole(self.setup.run.retry_file, msgspec.json.encode(word))
        raise RunFailedError(
            f"out of memory at step {self.state.step + 1}: goes on from the last checkpoint with "
            f"{micro} patches at a time"
        )

    def _heed_retry(self) -> None:
        """Take as few patches at a time as an earlier start found to be necessary."""
        word = read_retry(self.setup.run)
        if word is None or word.micro_batch >= self.state.micro_batch:
            return
        self.state = msgspec.structs.replace(self.state, micro_batch=word.micro_batch)
        message = (
            f"Process {word.rank} was out of memory: {word.micro_batch} patches at a time from "
            f"now on, {self.plan.batch} a step as before"
        )
        self.setup.emit(WarningGiven(message=message))

    def _has_lost_patience(self) -> bool:
        patience = self.setup.project.training.patience
        return 0 < patience <= self.state.validations_without_improvement

    def _is_event_due(self) -> bool:
        return self.state.step == 1 or self.since_event.seconds() >= _STEP_EVENT_EVERY_S

    def _say_step(self) -> None:
        """Report the steps since the last report; here a non-finite loss is found."""
        since = self.since_event
        if not since.steps:
            return
        loss = float(since.loss) / since.steps
        taught, confident, steps = self.of_unlabelled.tolist()
        if not math.isfinite(loss + taught):
            self._roll_back(loss)
        else:
            self.setup.emit(
                StepDone(
                    step=self.state.step,
                    loss=loss,
                    learning_rate=self.stepper.learning_rate,
                    seconds=since.step_s(),
                    skipped=self.stepper.skipped,
                    unlabelled_loss=taught / steps if steps else None,
                    confident=confident / steps if steps else None,
                )
            )
            if self.usage.is_due():
                self.setup.emit(self.usage.at(self.state.step))
        since.begin_again()
        self.of_unlabelled.zero_()

    def _say_skipped(self) -> None:
        number = self.stepper.skipped
        if number:
            what = f"{number} of {self.state.step} steps moved no weight: their gradients were too"
            message = f"{what} large for fp16. A few, after which losses are scaled less, are usual"
            self.setup.emit(WarningGiven(message=message))

    def _roll_back(self, loss: float) -> None:
        """Go back to the last checkpoint with half the rate, once; then give up."""
        step = self.state.step
        what = f"the loss became {loss} at step {step} or just before"
        self.saver.wait()
        self.ranks.wait()
        if self.state.rollbacks or not self.setup.run.checkpoint_file.exists():
            raise RunFailedError(f"{what}. Lower training.encoder_lr and training.decoder_lr")
        self._restore()
        back_to = self.state.step
        self.state = msgspec.structs.replace(
            self.state, step=step, rate_factor=self.state.rate_factor / 2, rollbacks=1
        )
        self.since_validation.begin_again()
        message = f"{what}: back to the weights of step {back_to} with half the rate"
        self.setup.emit(WarningGiven(message=message))

    def _save_and_validate(self) -> None:
        """Save, validate, save: whatever a validation meets, the steps before it are kept."""
        self.state = msgspec.structs.replace(self.state, owes_validation=True)
        self._save_checkpoint()
        try:
            self._validate()
        except BaseException:
            self.saver.wait()  # the process is about to end
            raise
        self.state = msgspec.structs.replace(self.state, owes_validation=False)
        self._save_checkpoint()

    def _validate(self) -> None:
        since = self.since_validation
        self.setup.emit(PhaseBegan(phase="validating", step=self.state.step))
        started = time.monotonic()
        train_s = started - since.started
        result = self.validator.at(self.state.step)
        score = result.score(self.setup.project.training.best_by)
        beaten = (self.state.best_step, self.state.best_score)
        is_best = score is not None and (beaten[1] is None or score > beaten[1])
        self.state = msgspec.structs.replace(
            self.state,
            elapsed_s=self.budget.elapsed_s(),
            validation_s=time.monotonic() - started,
            best_score=score if is_best else self.state.best_score,
            best_step=self.state.step if is_best else self.state.best_step,
            validations_without_improvement=0
            if is_best
            else self.state.validations_without_improvement + 1,
            validated_on=self.setup.val_digest,
            objects=result.settings,
        )
        self.setup.emit(
            event_of(
                result,
                step=self.state.step,
                train_loss=float(since.loss) / max(1, since.steps),
                learning_rate=self.stepper.learning_rate,
                images_per_s=since.steps * self.plan.batch / max(1e-9, train_s),
                seconds_left=self.budget.seconds_left(self.state, train_s / max(1, since.steps)),
                score=score,
                is_best=is_best,
            )
        )
        self._weigh_unlabelled(is_best=is_best)
        if is_best:
            card = card_at(self.setup.card, self.state.step, result)
            self.saver.save_best(card, score, beaten)
        since.begin_again()

    def _weigh_unlabelled(self, *, is_best: bool) -> None:
        """Leave images without labels out once they gain nothing any more, and say so."""
        had_ended = self.state.unlabelled_ended
        self.state = after_validation(self.plan, self.state, is_best=is_best)
        if self.state.unlabelled_ended and not had_ended:
            self.unlabelled.close()
            message = (
                f"Images without labels teach no more from step {self.state.step + 1} on: "
                f"{IN_VAIN} validations in a row gained nothing"
            )
            self.setup.emit(WarningGiven(message=message))

    def _restore(self) -> None:
        tensors, self.state = read_checkpoint(self.setup.run.checkpoint_file)
        self.network.load_state_dict(under("network.", tensors))
        self.averaged.load_state_dict(under("averaged.", tensors))
        load_optimizer(self.stepper.optimizer, tensors)
        self.stepper.restore_scaling(self.state)
        certainty = tensors.get(_CERTAINTY)
        if certainty is not None:
            self.stepper.certainty.mean_C.copy_(certainty)

    def _save_checkpoint(self) -> None:
        # A resume gives every process these statistics: they are to be the same in a run that
        # is not interrupted.
        self.ranks.copy_from_first(list(self.network.buffers()))
        self.state = msgspec.structs.replace(
            self.stepper.with_scaling(self.state),
            elapsed_s=self.budget.elapsed_s(),
            loss_sum=float(self.since_validation.loss),
            loss_count=self.since_validation.steps,
        )
        tensors = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        tensors |= {f"averaged.{name}": t for name, t in self.averaged.state_dict().items()}
        if self.plan.unlabelled_images:
            tensors[_CERTAINTY] = self.stepper.certainty.mean_C
        self.saver.save_checkpoint(tensors | optimizer_tensors(self.stepper.optimizer), self.state)
