"""Checkpoints: everything needed to go on, as one safetensors file, written beside the loop."""

import copy
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from emcfsys_engine import any_names
from emcfsys_engine.errors import RunFailedError, RunFolderError
from emcfsys_engine.files import is_full, path_in_utf8, write_whole
from emcfsys_engine.learn.model_file import encode_model
from emcfsys_engine.learn.networks.network import SegmentationNetwork, build_network
from emcfsys_engine.learn.run_disk import RunDisk
from emcfsys_engine.model_card import ModelCard, ObjectSettings
from emcfsys_engine.run.events import CheckpointPruned, CheckpointSaved, Event, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.rescue import rescue_folder, rescued

FORMAT = 1
_KEY = "emcfsys_training"
_RETRY_S = 2.0  # between two tries of what could not be written
_LOOK_EVERY_S = 0.5
_LAST_TRIES_S = 10.0  # for a disk that is away when we were asked to end


class TrainState(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a training that is under way; the tensors stand beside it."""

    format: int = FORMAT
    step: int = 0
    elapsed_s: float = 0.0
    best_score: float | None = None
    best_step: int = 0
    # Of older checkpoints the name is "beaten": it stays in the files.
    validations_without_improvement: int = msgspec.field(default=0, name="beaten")
    rate_factor: float = 1.0  # halved by a rollback
    rollbacks: int = 0
    micro_batch: int = 0
    loss_sum: float = 0.0  # since the last validation
    loss_count: int = 0
    validation_s: float = 0.0  # how long the last validation took
    validated_on: str = ""  # names the images and labels that best_score is of
    owes_validation: bool = False  # saved just before one: it comes first when the run goes on
    loss_scale: float = 0.0  # in fp16: by which losses are multiplied; 0: as a run begins
    loss_scale_steps: int = 0  # since it was changed last
    num_skipped: int = 0  # steps that were left out, since their gradients were too large for fp16
    objects: ObjectSettings | None = None  # that told objects apart best at the last validation
    unlabelled_in_vain: int = 0  # validations in a row without a gain while all weight is on them
    unlabelled_ended: int = 0  # step after which images without labels taught no more; 0: they do


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """retry.json: several processes go on with fewer patches at a time than ran out of memory."""

    micro_batch: int
    rank: int  # that was out of memory


def read_retry(run: Run) -> Retry | None:
    """Return what an earlier start of several processes left; None where nothing is left."""
    try:
        found: Retry | None = any_names.read(run.retry_file, Retry)
    except OSError:
        return None
    return found


def encode_checkpoint(tensors: dict[str, Tensor], state: TrainState) -> bytes:
    """Return the bytes of a checkpoint. Shapes: any, dtype as stored."""
    return save(tensors, {"format": "pt", _KEY: any_names.encode(state).decode()})


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], TrainState]:
    """Return a checkpoint's tensors and state.

    Shapes: any, dtype as stored, on the CPU.
    Raises: RunFolderError for a damaged file or one of a newer format.
    """
    try:
        with path_in_utf8(file) as path, safe_open(path, "pt") as opened:
            text = (opened.metadata() or {}).get(_KEY, "")
            state: TrainState = any_names.decode(text.encode("utf-8", "replace"), TrainState)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, msgspec.MsgspecError, OSError) as error:
        remedy = "Train anew; the models beside it are whole"
        raise RunFolderError(file, f"cannot be resumed from: {error}", remedy) from None
    if state.format > FORMAT:
        what = f"has format {state.format}, this version knows {FORMAT}"
        raise RunFolderError(file, what, "Update emcfsys-tui")
    return tensors, state


def kept_elsewhere(run: Run, step: int) -> str:
    """Say where a later checkpoint lies, which the disk of a run did not take; "" for none.

    It may be that of another run which had this path: a person decides.
    """
    with suppress(OSError, RuntimeError):  # no home
        for folder in rescued(run):
            file = folder / run.checkpoint_file.name
            with suppress(RunFolderError):
                if (found := read_checkpoint(file)[1].step) > step:
                    what = f"{file} has step {found}, which the disk did not take"
                    return f"{what}: to go on from there cancel this, copy it here, and resume"
    return ""


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return those tensors whose names begin so, by the rest of their names.

    Shapes: any, dtype kept: nothing is copied.
    """
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors: optimizer.<parameter>.<name>.

    Shapes: moments as their weights, float32; counts of steps are float32 scalars.
    """
    found: dict[str, Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            found[f"optimizer.{index}.{name}"] = value
    return found


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the tensors of `optimizer_tensors` back, laid out in memory as their weights are.

    A fused optimiser walks through weights, gradients and moments by their memory, not by their
    indices: moments of another layout (files know only one) would meet the wrong weights.
    Shapes: as `optimizer_tensors` gives them; dtype kept.
    """
    weights = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for full, value in tensors.items():
        prefix, _, rest = full.partition(".")
        if prefix == "optimizer":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = _laid_out_as(weights[int(index)], value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _laid_out_as(weight: Tensor, value: Tensor) -> Tensor:
    if value.shape != weight.shape:  # a step count
        return value
    return torch.empty_strided(weight.size(), weight.stride(), dtype=value.dtype).copy_(value)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU, so that training can go on while they are written.

    Shapes: any, dtype kept.
    """
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


class BackgroundWriter:
    """Writes files one after the other in a thread; the loop never waits for the disk.

    What cannot be written is kept and tried again, the newest of each file, until the end: then
    it is waited for, unless the disk is only full, or somebody asked us to end.
    `on_done(error)` and `on_wait(error)` of each job are called in `poll`, by the caller's own
    thread, in order.
    """

    def __init__(self, disk: RunDisk, stop_request: Callable[[], str | None]) -> None:
        self._disk = disk
        self._stop_request = stop_request
        self._jobs: queue.Queue[_Job | None] = queue.Queue(maxsize=2)
        self._done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._kept: dict[str, tuple[_Job, OSError]] = {}
        self._told: set[str] = set()  # names of what waits for the disk
        self._rescue: Path | None = None  # where what its disk never took is kept, once it is
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def write(self, job: "_Job") -> None:
        """Queue a file; waits only when two are waiting already."""
        self._jobs.put(job)

    def poll(self) -> None:
        """Report what was written since the last call."""
        while not self._done.empty():
            self._done.get()()

    def close(self) -> Iterator[None]:
        """Wait until everything is written, and report it; yields now and then meanwhile."""
        self._jobs.put(None)
        while self._thread.is_alive():
            self._thread.join(_LOOK_EVERY_S)
            yield
        self.poll()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._kept.pop(job.name, None)
            self._try(job)
        patience = time.monotonic() + _LAST_TRIES_S
        while self._kept and self._waits(patience):
            time.sleep(_LOOK_EVERY_S)
            self._try_kept()
        for job, error in self._kept.values():
            self._done.put(partial(job.on_done, self._rescued(job, error)))

    def _next(self) -> "_Job | None":
        while True:
            try:
                return self._jobs.get(timeout=_RETRY_S if self._kept else None)
            except queue.Empty:
                self._try_kept()

    def _rescued(self, job: "_Job", error: OSError) -> OSError:
        """Write a file among the user's own, at last; return the error, with where it is."""
        try:
            folder = self._rescue or rescue_folder(self._disk.run)
            folder.mkdir(mode=0o700, parents=True, exist_ok=folder == self._rescue)
            self._rescue = folder
            write_whole(folder / job.name, job.make_bytes())
        except (OSError, RuntimeError):  # no home, or it is on that very disk
            return error
        print(f"{job.name} is kept in {folder}", flush=True)
        return OSError(error.errno, f"{error.strerror}. It is kept in {folder}", job.name)

    def _waits(self, patience: float) -> bool:
        if any(is_full(error) for _, error in self._kept.values()):
            return False
        return self._stop_request() in (None, "stop") or time.monotonic() < patience

    def _try_kept(self) -> None:
        for job, _ in list(self._kept.values()):
            self._try(job)

    def _try(self, job: "_Job") -> None:
        try:
            self._disk.refuse()
            content = job.make_bytes()
            self._disk.refuse()  # that took long enough for another run to take the place
            write_whole(self._disk.run.folder / job.name, content)
        except OSError as error:
            if job.name not in self._told:
                self._told.add(job.name)
                self._done.put(partial(job.on_wait, error))
            self._kept[job.name] = (job, error)
        except Exception as error:  # handed to the loop's thread, which decides
            self._kept.pop(job.name, None)
            self._done.put(partial(job.on_done, error))
        else:
            self._kept.pop(job.name, None)
            self._told.discard(job.name)
            self._done.put(partial(job.on_done, None))


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One file of the run to be written, and whom to tell."""

    name: str
    make_bytes: Callable[[], bytes]
    on_done: Callable[[Exception | None], None]
    on_wait: Callable[[OSError], None]  # it is tried again


class NullSaver:
    """What saves nothing: another process of the training does."""

    def save_best(
        self, card: ModelCard, score: float | None, beaten: tuple[int, float | None]
    ) -> None:
        """Save nothing."""

    def save_final(self, card: ModelCard) -> None:
        """Save nothing."""

    def save_checkpoint(self, tensors: dict[str, Tensor], state: TrainState) -> None:
        """Save nothing. Shapes: any, of any dtype."""

    def seconds_since_checkpoint(self) -> float:
        """Return 0: none is ever due."""
        return 0.0

    def poll(self) -> bool:
        """Say nothing."""
        return False

    def wait(self) -> None:
        """Wait for nothing."""

    def close(self) -> None:
        """Wait for nothing."""


class Saver:
    """Saves a run's models and checkpoints in a thread, and says so when they are on the disk."""

    def __init__(
        self,
        disk: RunDisk,
        emit: Callable[[Event], None],
        averaged: SegmentationNetwork,
        stop_request: Callable[[], str | None],
    ) -> None:
        self._disk = disk
        self._run = disk.run
        self._emit = emit
        self._averaged = averaged
        # Files are encoded from this copy, in the thread: it draws no random numbers.
        self._on_disk = _for_inference(averaged)
        self._stop_request = stop_request
        self._writer = BackgroundWriter(disk, stop_request)
        self._checkpoint_at = time.monotonic()

    def save_best(
        self, card: ModelCard, score: float | None, beaten: tuple[int, float | None]
    ) -> None:
        """Save the averaged weights as the best model; the one it beats is replaced."""
        file = self._run.best_model
        beaten_step, beaten_score = beaten

        def on_done(error: Exception | None) -> None:
            if error is not None:
                self._refuse_ours(error)
                return
            self._emit(CheckpointSaved(step=card.step, role="best", file=file.name, score=score))
            if beaten_score is not None:
                self._emit(CheckpointPruned(step=beaten_step, role="best", score=beaten_score))

        self._save_model(file, card, f"best model of step {card.step}", on_done)

    def save_final(self, card: ModelCard) -> None:
        """Save the averaged weights as training ends with them.

        Raises: RunFailedError, from `poll` or `close`, if that fails.
        """
        file = self._run.final_model

        def on_done(error: Exception | None) -> None:
            if error is not None:
                why = (isinstance(error, OSError) and error.strerror) or error
                raise RunFailedError(f"the final model could not be saved: {why}")
            self._emit(CheckpointSaved(step=card.step, role="final", file=file.name))

        self._save_model(file, card, "final model", on_done)

    def save_checkpoint(self, tensors: dict[str, Tensor], state: TrainState) -> None:
        """Save everything needed to go on. Shapes: any, dtype kept."""
        file = self._run.checkpoint_file
        kept = copied(tensors)

        def on_done(error: Exception | None) -> None:
            if error is not None:
                self._refuse_ours(error)
            else:
                self._emit(CheckpointSaved(step=state.step, role="last", file=file.name))

        self._write(
            file,
            lambda: encode_checkpoint(kept, state),
            f"checkpoint of step {state.step}",
            on_done,
        )
        self._checkpoint_at = time.monotonic()

    def seconds_since_checkpoint(self) -> float:
        """Return how long ago the last checkpoint was taken."""
        return time.monotonic() - self._checkpoint_at

    def poll(self) -> bool:
        """Say what reached the disk since the last call; tell whether the best model was lost.

        So it is when somebody removed the run's folder, which is made again then.
        """
        self._writer.poll()
        before = self._disk.made_again
        told = self._disk.look()
        was_lost = self._disk.made_again > before
        if was_lost:
            told += ". The best model was in it: the next validation begins a new one"
        if told:
            print(told, flush=True)
            self._emit(WarningGiven(message=told))
        return was_lost

    def wait(self) -> None:
        """Wait until everything asked for is on the disk, and go on."""
        self.close()
        self._writer = BackgroundWriter(self._disk, self._stop_request)

    def close(self) -> None:
        """Wait until everything is on the disk, and end."""
        for _ in self._writer.close():
            self.poll()

    def _save_model(
        self, file: Path, card: ModelCard, what: str, on_done: Callable[[Exception | None], None]
    ) -> None:
        wanted = self._on_disk.state_dict()
        kept = self._averaged.inference_state()
        weights = copied({name: tensor for name, tensor in kept.items() if name in wanted})

        def make_bytes() -> bytes:
            self._on_disk.load_state_dict(weights)
            return encode_model(self._on_disk, card)

        self._write(file, make_bytes, what, on_done)

    def _write(
        self,
        file: Path,
        make_bytes: Callable[[], bytes],
        what: str,
        on_done: Callable[[Exception | None], None],
    ) -> None:
        def on_wait(error: OSError) -> None:
            why = error.strerror or str(error)
            message = (
                f"The {what} could not be saved: {why}. What was saved before is whole, and it is "
                "tried again"
            )
            print(message, flush=True)
            with suppress(OSError):  # a full disk: whoever emits next hears of it
                self._emit(WarningGiven(message=message))

        self._writer.write(
            _Job(name=file.name, make_bytes=make_bytes, on_done=on_done, on_wait=on_wait)
        )

    def _refuse_ours(self, error: Exception) -> None:
        """Let an error of the disk be, as it was told before; others are mistakes of ours."""
        if not isinstance(error, OSError):
            raise error


def _for_inference(averaged: SegmentationNetwork) -> SegmentationNetwork:
    """Return a network of the same kind on the CPU, without the head that is only for training."""
    if not averaged.spec.auxiliary:
        return copy.deepcopy(averaged).to("cpu").to(memory_format=torch.contiguous_format)
    spec = msgspec.structs.replace(averaged.spec, auxiliary=False)
    return build_network(spec).eval().requires_grad_(False)
