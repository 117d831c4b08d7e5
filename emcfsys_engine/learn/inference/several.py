"""One list of images, predicted by several processes: one a GPU, or on a server of many cores.

The run's worker hands out images one by one, as the others ask for them, and tells what became of
each in the order of the list. They read, compute and write; what they say travels as JSON lines
through pipes. Images of one that dies go back: they are tried again one at a time, after all
others, so that the one that killed it is found.

`python -m emcfsys_engine.learn.inference.several RUN_FOLDER DIGEST…`: one of them, and what tells
the models that all of them have from others under their names.
"""

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from emcfsys_engine.errors import EmcfError, RunFailedError
from emcfsys_engine.files import exit_with
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.outages import is_gone
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.learn.device import choose_device, choose_threads
from emcfsys_engine.learn.faults import refuse_lost_gpu
from emcfsys_engine.learn.inference.ensemble import load_members
from emcfsys_engine.learn.inference.files import (
    Counted,
    PredictedImages,
    Stages,
    load_predictor,
)
from emcfsys_engine.learn.inference.image import EndAskedFor, Order
from emcfsys_engine.learn.inference.outputs import VectorOutputs
from emcfsys_engine.learn.inference.pipeline import Failure
from emcfsys_engine.learn.inference.pipes import (
    Bye,
    FromFirst,
    ImageBecame,
    Line,
    Outcome,
    Pause,
    Said,
    Todo,
    ToFirst,
    Wants,
)
from emcfsys_engine.learn.run_context import keep_freed_memory
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run.events import Event, ImageDone, ImageFailed, RegionDone, WarningGiven
from emcfsys_engine.run.folder import Run, open_run
from emcfsys_engine.run.models_used import SameModels, digest_of_card, digests_of_models
from emcfsys_engine.run.records import PredictRequest, RunRecord
from emcfsys_engine.text import how_many

_MOST_STARTS = 3  # of one process: what kills it again and again is no image
_MOST_DEATHS = 2  # over one image
_GRACE_S = 60.0  # to end by itself, between two batches
_LOOK_EVERY_S = 0.2
_PR_SET_PDEATHSIG = 1


def prepare(request: PredictRequest) -> tuple[ModelCard, torch.device]:
    """Return the card of the models, and the kind of device that all processes compute on.

    The models are read whole: a damaged one is said here, once, and no process dies of it.
    Raises: ModelFileError; InputError if there are fewer GPUs.
    """
    _, cards = load_members([Path(file) for file in (request.model, *request.also)])
    return cards[0], choose_device(request.gpus)


def predict_files(
    run: Run,
    request: PredictRequest,
    refs: Sequence[ImageRef],
    card: ModelCard,
    emit: Callable[[Event], None],
    asked: Callable[[], str | None],
) -> Counted:
    """Predict images by several processes; what is told, and in which order, is as by one.

    Raises: as `PredictedImages`; RunFailedError when all processes have died.
    """
    prediction = PredictedImages(request, refs, card, emit, asked)
    waiting = prediction.todo
    number = min(request.num_processes, len(waiting))
    crew = Crew(run, environments_for(number), _models_of(request, card), emit, asked)
    try:
        while waiting and asked() is None:
            places = map(prediction.place_of, waiting)
            todo = [
                Todo(number=number, image=str(ref.path), plane=ref.plane, mask=str(mask))
                for number, (ref, mask) in enumerate(places)
            ]
            waiting = []  # met a disk that is gone: they wait for it
            for one, event in crew.become(todo):
                if event is None:
                    waiting.append(one.ref)
                elif isinstance(event, ImageDone | ImageFailed):
                    prediction.count(event)
            if waiting and asked() is None:
                prediction.wait_for_disk()
    finally:
        crew.end()
    # One file for all images is made here, of the masks.
    vectors = VectorOutputs(prediction.book.out, request.vectors, card, prediction.book)
    return prediction.finish(vectors, set())


def _models_of(request: PredictRequest, card: ModelCard) -> SameModels:
    also = tuple(Path(file) for file in request.also)
    digests = (digest_of_card(card), *digests_of_models(also))
    return SameModels(files=(Path(request.model), *also), digests=digests)


class _Other:
    """One of the processes, as the first sees it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**environment}
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.line = Line(self.process.stdout, self.process.stdin, ToFirst)
        self.has: set[int] = set()
        self.waits = False

    def listen(self, heard: "queue.SimpleQueue[tuple[_Other, Any]]") -> None:
        """Pass on what it says, in a thread; at last None."""

        def pass_on() -> None:
            try:
                with contextlib.suppress(msgspec.MsgspecError, OSError, ValueError):
                    while (message := self.line.receive()) is not None:
                        heard.put((self, message))
            finally:  # whatever ended it: nobody waits for ever
                heard.put((self, None))

        threading.Thread(target=pass_on, name="listens", daemon=True).start()

    def close(self) -> None:
        """Let it end: there is nothing more to come."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()


class Crew:
    """Hands images out to the other processes and takes in what became of them."""

    def __init__(
        self,
        run: Run,
        environments: Sequence[Mapping[str, str]],
        models: SameModels,
        emit: Callable[[Event], None],
        asked: Callable[[], str | None],
        module: str = __spec__.name,
        arguments: Sequence[str] = (),
    ) -> None:
        command = [sys.executable, "-m", module, str(run.folder)]
        self._command = [*command, *arguments, *models.digests]
        self._models = models
        self._emit = emit
        self._asked = asked
        self._heard: queue.SimpleQueue[tuple[_Other, Any]] = queue.SimpleQueue()
        self._starts = Counter(each[_PLACE] for each in environments)
        self._others = [self._started(each) for each in environments]
        self._fresh: deque[int] = deque()
        self._returned: deque[int] = deque()
        self._deaths: Counter[int] = Counter()
        self._todo: dict[int, Todo] = {}
        self._next = 0
        self._made: dict[int, Outcome | None] = {}

    def become(self, todo: Sequence[Todo]) -> Iterator[tuple[Todo, Outcome | None]]:
        """Yield images with what became of them, in order; None: its disk is away.

        Who is asked to end waits for none that is under way: of them nothing is told.
        Raises: RunFailedError when all processes have died.
        """
        # Who does not take all leaves images under way: their numbers never come again.
        first = self._next
        self._next += len(todo)
        numbered = (msgspec.structs.replace(one, number=first + n) for n, one in enumerate(todo))
        self._todo = {one.number: one for one in numbered}
        self._made = {}
        self._deaths.clear()
        self._returned.clear()
        self._fresh = deque(self._todo)
        told = first
        self._feed()
        while told < self._next and self._asked() is None:
            self._hear()
            while told in self._made:
                yield todo[told - first], self._made[told]
                told += 1
        for number in range(told, self._next):
            if number in self._made:
                yield todo[number - first], self._made[number]

    def end(self) -> None:
        """End all processes: between two batches, or, where they do not, at once."""
        for one in self._others:
            one.line.send(Bye())
            if self._asked() is not None and one.process.poll() is None:
                one.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        for one in self._others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.0, deadline - time.monotonic()))
            one.process.kill()
            one.process.wait()
            one.close()

    def _started(self, environment: Mapping[str, str]) -> _Other:
        one = _Other(self._command, environment)
        one.listen(self._heard)
        return one

    def _hear(self) -> None:
        try:
            one, message = self._heard.get(timeout=_LOOK_EVERY_S)
        except queue.Empty:
            return
        match message:
            case Wants():
                one.waits = True
            case Said():
                self._emit(message.event)
            case ImageBecame():
                one.has.discard(message.number)
                self._starts[one.environment[_PLACE]] = 1  # it can do something
                if message.number in self._todo:
                    self._made[message.number] = message.event
            case _:
                self._mourn(one)
        self._feed()

    def _feed(self) -> None:
        """Answer those who wait: an image, a pause, or nothing yet."""
        for one in self._others:
            if not one.waits:
                continue
            if self._fresh:
                self._hand(one, self._fresh.popleft())
            elif one.has:
                one.waits = False
                one.line.send(Pause())
            elif self._returned:
                self._hand(one, self._returned.popleft())

    def _hand(self, one: _Other, number: int) -> None:
        one.waits = False
        one.has.add(number)
        one.line.send(self._todo[number])

    def _mourn(self, one: _Other) -> None:
        """Take back the images of a process that ended, and start another in its place."""
        self._others.remove(one)
        one.process.kill()
        code = one.process.wait()
        one.close()
        if self._asked() is not None:
            return
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        images = how_many(len(one.has), "image goes", "images go")
        message = f"One of several processes ended ({how}): its {images} back"
        self._emit(WarningGiven(message=message))
        for number in sorted(one.has & self._todo.keys()):
            self._deaths[number] += len(one.has) == 1
            if self._deaths[number] < _MOST_DEATHS:
                self._returned.append(number)
                continue
            reason = f"{self._todo[number].ref}: {_MOST_DEATHS} processes ended over it ({how})"
            self._made[number] = ImageFailed(image=str(self._todo[number].ref), reason=reason)
        why = self._start_again(one.environment)
        if why and not self._others:
            raise RunFailedError(f"all processes of this prediction ended: {why}")

    def _start_again(self, environment: Mapping[str, str]) -> str:
        """Start a process where one ended; return why not: it ends always, or has another model."""
        place = environment[_PLACE]
        if self._starts[place] >= _MOST_STARTS:
            return "see log.txt. What is done is kept"
        try:
            refuse_other_models(self._models)
        except EmcfError as error:
            self._emit(WarningGiven(message=f"{error} No other process takes its place"))
            return str(error)
        self._starts[place] += 1
        self._others.append(self._started(environment))
        return ""


_PLACE = "EMCFSYS_PREDICTS_AS"  # names one of the processes to whom looks at them


def environments_for(
    number: int, environment: Mapping[str, str] = os.environ
) -> list[dict[str, str]]:
    """Return what each of several processes gets: a GPU of its own, of those that are given."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(n) for n in range(number)] if given is None else given.split(",")
    return [
        {**environment, "CUDA_VISIBLE_DEVICES": gpus[n] if n < len(gpus) else "", _PLACE: str(n)}
        for n in range(number)
    ]


def refuse_other_models(models: SameModels) -> None:
    """Raises: InputError if a file holds another model than when the run began; ModelFileError."""
    models.refuse_others("this run began", "Start again: what is done is kept")


class HandedOut:
    """What the first process hands out to this one; `is_over`: there will be no more."""

    def __init__(self, line: Line, asked: Callable[[], str | None]) -> None:
        self.line, self._asked = line, asked
        self._is_over = False

    @property
    def is_over(self) -> bool:
        return self._is_over or self._asked() is not None

    def __iter__(self) -> Iterator[Todo]:
        """Yield images until there is a pause, or no more."""
        while self._asked() is None:
            self.line.send(Wants())
            message = self.line.receive()
            if not isinstance(message, Todo):
                self._is_over = not isinstance(message, Pause)
                return
            yield message

    def say(self, words: str) -> None:
        """Tell what a person should hear."""
        self.line.send(Said(event=WarningGiven(message=words)))


def as_one_of_several(
    work: Callable[[RunRecord, HandedOut, Callable[[], str | None]], None], run_folder: str
) -> int:
    """Do as the first process hands out, until it has no more or is gone; return the exit code."""
    keep_freed_memory()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # What others print belongs into the log: the pipe is for messages.
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda sent, _: signals.append(sent))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def asked() -> str | None:
        return "terminated" if signals else None

    line = Line(sys.stdin.buffer, outgoing, FromFirst)
    try:
        work(open_run(Path(run_folder)).record(), HandedOut(line, asked), asked)
    except EndAskedFor:
        return 143
    except EmcfError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def main(arguments: Sequence[str]) -> int:
    """Predict what the first process hands out."""
    folder, *digests = arguments
    return as_one_of_several(partial(_predict, tuple(digests)), folder)


def _predict(
    digests: tuple[str, ...],
    record: RunRecord,
    images: HandedOut,
    asked: Callable[[], str | None],
) -> None:
    request = record.request
    assert isinstance(request, PredictRequest)
    predictor = load_predictor(request)
    files = tuple(Path(file) for file in (request.model, *request.also))
    refuse_other_models(SameModels(files=files, digests=digests))  # looked at after it was read
    # One file for all images is made by the first process.
    own = tuple(each for each in request.vectors if each != "coco")
    request = msgspec.structs.replace(request, vectors=own)
    torch.set_num_threads(choose_threads(request.threads, request.num_processes))
    book = OutputBook(Path(request.out))

    def say(event: Event) -> None:
        assert isinstance(event, WarningGiven)  # images are told of by what became of them
        images.say(event.message)

    stages: Stages[Todo] = Stages(
        request,
        book,
        lambda todo: Order(ref=todo.ref, mask_file=Path(todo.mask), region=request.region),
        predictor,
        say,
        asked,
    )
    try:
        while not images.is_over:
            for todo, result in stages.run(images):
                assert not isinstance(result, RegionDone)  # those are of tasks
                event = _event_of(todo, result, book)
                images.line.send(ImageBecame(number=todo.number, event=event))
    finally:
        stages.jobs.close_all()
        stages.sync_folders()


def _event_of(
    todo: Todo, result: ImageDone | Failure[Todo], book: OutputBook
) -> ImageDone | ImageFailed | None:
    if not isinstance(result, Failure):
        return result
    refuse_lost_gpu(result.error)
    if is_gone(result.error, book):
        return None
    return ImageFailed(image=str(todo.ref), reason=str(result.error))


if __name__ == "__main__":
    exit_with(main, sys.argv[1:])
