"""A prediction in shards: tasks that need no one to hand out, on one machine or on many nodes.

Each task takes a shard of the list by its lock or by its number, goes on at the first image that it
has not told of, and predicts each image by itself, so that no result depends on the cuts. The run's
worker comes last, or watches: it does what no task has done, and puts together what concerns all.

`python -m emcfsys_engine.learn.inference.shards RUN_FOLDER [SHARD]`: a task; without a number it
takes shard after shard.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import torch

from emcfsys_engine.errors import EmcfError, InputError, OutputError, RunFailedError, printable
from emcfsys_engine.files import exit_with, is_full
from emcfsys_engine.images.output_parts import PartBook
from emcfsys_engine.learn.device import choose_threads, lost_gpu
from emcfsys_engine.learn.faults import refuse_lost_gpu
from emcfsys_engine.learn.inference.files import (
    Stages,
    is_gone,
    load_predictor,
    why_gone,
)
from emcfsys_engine.learn.inference.image import EndAskedFor, Order
from emcfsys_engine.learn.inference.mosaic import Piece
from emcfsys_engine.learn.inference.output_disk import wait_until
from emcfsys_engine.learn.inference.pipeline import Failure
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.inference.several import environments_for, prepare
from emcfsys_engine.learn.inference.shard_end import Together, put_together
from emcfsys_engine.learn.inference.shard_list import make_list, ref_of
from emcfsys_engine.learn.run_context import RunContext, emit_ending, keep_freed_memory
from emcfsys_engine.run.events import (
    Event,
    ImageDone,
    ImageFailed,
    RegionDone,
    RunFinished,
    RunStarted,
    WarningGiven,
)
from emcfsys_engine.run.folder import Run, open_run
from emcfsys_engine.run.outcome import became_of_images
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import Again, Became, Finished, Lines, PutBack, Told, Trying
from emcfsys_engine.run.shards import MOST_TRIES, Header, Item, Shards, locked, refuse_other_models

_CLAIM_PATIENCE_S = 90.0  # as a keeper's on a cluster: the task before may still be ending
_ALONE_FIRST = 16  # images that a task which was ended before takes up one by one
_MOST_VAIN = MOST_TRIES + 3  # ends in a row of the tasks of a machine without one image more
_LOOK_EVERY_S = 0.2
_GRACE_S = 60.0
_PR_SET_PDEATHSIG = 1


class _Task:
    """Predicts shards in this process."""

    def __init__(self, run: Run, request: PredictRequest, asked: Callable[[], str | None]) -> None:
        self._shards, self._asked = Shards(run), asked
        # One file for all images is made last, of the masks.
        own = tuple(each for each in request.vectors if each != "coco")
        self._request = msgspec.structs.replace(request, vectors=own)
        self._predictor: Predictor | None = None

    def do(self, header: Header, shard: int, patience_s: float) -> bool:
        """Do one shard to its end; False where another task has it, or somebody ends us.

        Raises: OutputError when the disk is full; what is done is kept.
        """
        told = Told(self._shards.lines_file(shard))
        if told.is_finished:
            return True
        lock = self._shards.claim(shard, patience_s)
        if lock is None:
            return False
        lines = Lines(self._shards.lines_file(shard))
        try:
            told.refresh()
            self._predict(header, shard, told, lines)
            if self._asked() is None:
                lines.write(Finished())
            return self._asked() is None
        finally:
            lines.close()
            os.close(lock)

    def _predict(self, header: Header, shard: int, told: Told, lines: Lines) -> None:
        every = self._shards.items(header.shards[shard])
        todo = [item for item in every if item.number not in told.became]
        if not todo:
            return
        book = PartBook(Path(self._request.out), self._shards.book_file(shard))
        if self._predictor is None:
            predictor = load_predictor(self._request)
            refuse_other_models(header, self._request)  # looked at after it was read
            self._predictor = predictor
        stages: Stages[Item] = Stages(
            self._request,
            book,
            lambda item: self._order_of(header, item),
            self._predictor,
            _print,
            self._asked,
            each_alone=True,
        )
        careful = _ALONE_FIRST if told.was_begun else 0
        try:
            for item in todo[:careful]:
                if self._asked() is not None:
                    break
                if not _blamed(item, told, lines):
                    lines.write(Trying(number=item.number))
                    self._run(stages, book, [item], lines)
                    if self._asked() is not None:  # a request to end is no fault of the image's
                        lines.write(PutBack(number=item.number))
            self._run(stages, book, todo[careful:], lines)
        finally:
            stages.jobs.close_all()
            stages.sync_folders()

    def _order_of(self, header: Header, item: Item) -> Order:
        piece = None
        if item.region is not None:
            mosaic = header.mosaics[item.mosaic]
            piece = Piece(mosaic=mosaic, region=item.region, folder=self._shards.folder)
        return Order(
            ref=ref_of(item),
            mask_file=Path(item.mask),
            content="" if piece is None else piece.mosaic.content,
            region=self._request.region,
            piece=piece,
        )

    def _run(
        self, stages: Stages[Item], book: PartBook, items: Sequence[Item], lines: Lines
    ) -> None:
        waiting = list(items)
        while waiting and self._asked() is None:
            away: list[Item] = []  # met a disk that is gone: they wait for it
            with suppress(EndAskedFor):
                for item, result in stages.run(self._unchanged(waiting, lines)):
                    if isinstance(result, Failure):
                        refuse_lost_gpu(result.error)
                        if is_gone(result.error, book):
                            away.append(item)
                            continue
                        if isinstance(result.error, OutputError) and is_full(result.error):
                            raise result.error
                        result = ImageFailed(image=str(ref_of(item)), reason=str(result.error))
                    lines.write(Became(number=item.number, event=result))
            if away:
                wait_until(lambda: why_gone(book), self._asked, lambda why: print(why, flush=True))
            waiting = away

    def _unchanged(self, items: Sequence[Item], lines: Lines) -> Iterator[Item]:
        """Yield images that are as the list says; of the others it is told why not."""
        for item in items:
            if self._asked() is not None:
                return
            if why := _why_changed(item):
                event = ImageFailed(image=str(ref_of(item)), reason=f"{ref_of(item)}: {why}")
                lines.write(Became(number=item.number, event=event))
            else:
                yield item


def _why_changed(item: Item) -> str:
    if item.size < 0:
        return ""
    try:
        size = os.stat(item.image).st_size
    except FileNotFoundError:
        return "vanished since the list of shards was written. Predict again what is left"
    except OSError:
        return ""  # reading it says why
    if size == item.size:
        return ""
    what = f"has {size:,} bytes, {item.size:,} when the list of shards was written"
    return f"{what}. Predict again: the others are kept"


def _blamed(item: Item, told: Told, lines: Lines) -> bool:
    """Tell whether an image ended its task again and again; then that is what became of it."""
    if told.tries.get(item.number, 0) < MOST_TRIES:
        return False
    reason = f"{ref_of(item)}: {MOST_TRIES} tasks ended over it. Look at it with inspect"
    event = ImageFailed(image=str(ref_of(item)), reason=reason)
    lines.write(Became(number=item.number, event=event))
    return True


def _print(event: Event) -> None:
    if isinstance(event, WarningGiven):
        print(printable(event.message), flush=True)


def execute(worker: RunContext, request: PredictRequest) -> int:
    """Predict in shards what run.json names; return 1 when an image failed.

    Raises: InputError where another run does the same; RunFailedError when tasks end in vain.
    """
    card, device = prepare(request)
    emit, asked = worker.emit_when_possible, worker.stop_request
    lock = _only_one(Path(request.out))
    shards = Shards(worker.run)
    try:
        header = make_list(shards, request, card, emit, asked)
        refuse_other_models(header, request)
        worker.emit(
            RunStarted(
                run=worker.run.id,
                does="predict",
                project=card.project,
                classes=card.classes,
                device=device.type,
                num_images=header.num_images,
            )
        )
        for told in (lost_gpu(device, request.gpus, os.environ), header.left_out):
            if told:
                emit(WarningGiven(message=told))
        watched = _Watched(worker, shards, header)
        _do_locally(worker.run, request, header, watched, asked)
        if asked() is None:
            became = [one.became for one in watched.told]
            end = Together(request, card, shards, header, became, watched.tell, emit, asked)
            tally = put_together(end)
            if asked() is None:
                emit(RunFinished(reason="done", done=tally.done, failed=tally.failed))
                return 1 if tally.failed else 0
    finally:
        os.close(lock)
    why = asked() or "cancel"
    return emit_ending(worker, "stopped" if why == "stop" else why)


def _only_one(out: Path) -> int:
    """Lock an output folder against another prediction in shards."""
    file = out / ".emcfsys" / "shards.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = locked(file, 0.0)
    if descriptor is None:
        what = "another prediction in shards writes into it"
        remedy = "Wait for its end, or choose another folder with --out"
        raise InputError(out, what, remedy)
    return descriptor


class _Watched:
    """What tasks told, and which of it was passed on as events of the run: each image once.

    What failed before and is done now, or failed otherwise, is told again.
    """

    def __init__(self, worker: RunContext, shards: Shards, header: Header) -> None:
        self._emit = worker.emit_when_possible
        self._shards = shards
        self.told = [Told(shards.lines_file(shard)) for shard in range(len(header.shards))]
        before = worker.run.events()
        if any(isinstance(event, RunFinished) for event in before):
            self._try_failed_again()
        regions = [event for event in before if isinstance(event, RegionDone)]
        known = (*became_of_images(before), *regions)
        self._passed_on = {_key(event): _why_failed(event) for event in known}
        self._num_images = header.num_images
        self._num_seen = [0] * len(self.told)

    def _try_failed_again(self) -> None:
        for shard, told in enumerate(self.told):
            if any(isinstance(event, ImageFailed) for event in told.became.values()):
                lines = Lines(self._shards.lines_file(shard))
                lines.write(Again())
                lines.close()
                told.refresh()

    def look(self) -> int:
        """Pass on what is new; return of how many images something is told."""
        for place, told in enumerate(self.told):
            told.refresh()
            if len(told.became) > self._num_seen[place]:
                for number, event in list(told.became.items())[self._num_seen[place] :]:
                    # An image of which a region failed is told of once, at the end.
                    if number < self._num_images or isinstance(event, RegionDone):
                        self.tell(event)
            self._num_seen[place] = len(told.became)
        return sum(self._num_seen)

    def tell(self, event: ImageDone | ImageFailed | RegionDone) -> None:
        """Pass on what became of an image, or of a region of one, once."""
        if self._passed_on.get(_key(event)) != (why := _why_failed(event)):
            self._passed_on[_key(event)] = why
            if isinstance(event, RegionDone):
                event = msgspec.structs.replace(event, evidence=[])
            self._emit(event)

    @property
    def num_left(self) -> int:
        """How many shards are not finished."""
        return sum(not told.is_finished for told in self.told)


_Told = ImageDone | ImageFailed | RegionDone


def _key(event: _Told) -> tuple[str, tuple[int, ...]]:
    return event.image, tuple(event.region) if isinstance(event, RegionDone) else ()


def _why_failed(event: _Told) -> str:
    return event.reason if isinstance(event, ImageFailed) else ""


def _do_locally(
    run: Run,
    request: PredictRequest,
    header: Header,
    watched: _Watched,
    asked: Callable[[], str | None],
) -> None:
    """Have this machine's tasks do every shard that is not finished.

    Raises: RunFailedError when they end again and again, and nothing gets on.
    """
    done, vain = watched.look(), 0
    while watched.num_left and asked() is None:
        number = min(watched.num_left, at_once(request))
        places = environments_for(request.gpus or number)
        tasks = [_started(run, places[n % len(places)]) for n in range(number)]
        try:
            while any(task.poll() is None for task in tasks) and asked() is None:
                time.sleep(_LOOK_EVERY_S)
                watched.look()
        finally:
            _end(tasks, asked)
        now = watched.look()
        vain = 0 if now > done else vain + 1
        done = now
        if vain == _MOST_VAIN and watched.num_left and asked() is None:
            codes = ", ".join(sorted({_how(task.returncode) for task in tasks}))
            raise RunFailedError(
                f"tasks of this prediction end in vain ({codes}): see log.txt. What is done is kept"
            )


def at_once(request: PredictRequest) -> int:
    """Return how many tasks this machine runs at a time: one a GPU, or one a processor."""
    if request.shards_at_once:
        return request.shards_at_once
    if request.gpus or (request.gpus is None and torch.cuda.is_available()):
        return request.gpus or 1
    return max(1, len(os.sched_getaffinity(0)) // (request.threads or 1))


def _started(run: Run, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", __spec__.name, str(run.folder)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**environment})


def _end(tasks: Sequence["subprocess.Popen[bytes]"], asked: Callable[[], str | None]) -> None:
    deadline = time.monotonic() + _GRACE_S
    for task in tasks:
        if task.poll() is None:
            task.send_signal(signal.SIGTERM)
    for task in tasks:
        with suppress(subprocess.TimeoutExpired):
            task.wait(max(0.0, deadline - time.monotonic()))
        task.kill()
        task.wait()


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def main(arguments: Sequence[str]) -> int:
    """Do one shard, or all that nobody else does; return the exit code."""
    keep_freed_memory()
    folder = Path(arguments[0])
    number = int(arguments[1]) if len(arguments) > 1 else None
    if number is None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signals: list[int] = []
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(each, lambda sent, _: signals.append(sent))
    try:
        code = _do(folder, number, lambda: "terminated" if signals else None)
    except EmcfError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 128 + signals[0] if signals else code


def _do(folder: Path, number: int | None, asked: Callable[[], str | None]) -> int:
    if not folder.is_dir():
        what = f"is not seen by {socket.gethostname()}"
        raise InputError(folder, what, "Choose an --out on a disk that all nodes share")
    run = open_run(folder)
    request = run.record().request
    assert isinstance(request, PredictRequest)
    shards = Shards(run)
    header = shards.header() or make_list(shards, request, prepare(request)[0], _print, asked)
    beside = 1 if number is not None else at_once(request)
    torch.set_num_threads(choose_threads(request.threads, beside))
    task = _Task(run, request, asked)
    wanted = range(len(header.shards)) if number is None else range(number, number + 1)
    for shard in wanted:
        if shard < len(header.shards) and asked() is None:
            task.do(header, shard, 0.0 if number is None else _CLAIM_PATIENCE_S)
    return 0


if __name__ == "__main__":
    exit_with(main, sys.argv[1:])
