"""Prediction of many files: read ahead, computed, written behind; one that fails stays single."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from emcfsys_engine.errors import EmcfError, InputError, OutputError, RunFolderError
from emcfsys_engine.files import is_full, remedy_of
from emcfsys_engine.hotfolder.places import try_to_write
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import lies_in
from emcfsys_engine.images.reader import find_images, left_out_words
from emcfsys_engine.images.writers import sync
from emcfsys_engine.learn.device import choose_threads, lost_gpu
from emcfsys_engine.learn.inference.bands import OpenImage
from emcfsys_engine.learn.inference.image import EndAskedFor, ImageJobs, Order, Work
from emcfsys_engine.learn.inference.output_disk import is_of_disk, wait_until
from emcfsys_engine.learn.inference.outputs import SUFFIXES, Companions
from emcfsys_engine.learn.inference.pipeline import (
    Arrived,
    Computed,
    Failure,
    run_pipeline,
    several_writers,
)
from emcfsys_engine.learn.inference.placing import OutputNames
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.inference.ranking import rank, write_ranking
from emcfsys_engine.learn.run_context import RunContext, emit_ending
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run.events import (
    Event,
    ImageDone,
    ImageFailed,
    RunFinished,
    RunStarted,
    WarningGiven,
)
from emcfsys_engine.run.records import PredictRequest

_FOLDERS_EVERY = 64  # images between two syncs of the folders that hold their names


@dataclass(frozen=True, kw_only=True)
class Counted:
    """How many images of a run were done, skipped because they were there, or failed."""

    done: int
    skipped: int
    failed: int


class _Stages:
    """The three stages of the pipeline, for `predict`."""

    def __init__(
        self,
        request: PredictRequest,
        names: OutputNames,
        predictor: Predictor,
        emit: Callable[[Event], None],
        asked: Callable[[], str | None],
    ) -> None:
        self._names = names
        self.predictor = predictor
        self.jobs = ImageJobs(
            predictor,
            names.placing.book,
            companions=Companions(
                overlay=request.overlay,
                probabilities=request.probability,
                uncertainty=request.uncertainty or request.rank_uncertain,
            ),
            vectors=request.vectors,
            scale_of=lambda image: scale_of(image, predictor.card, request.rescale, emit),
            asked=asked,
            tell=lambda words: emit(WarningGiven(message=words)),
        )
        # Outlines of all images go into one file, in order.
        self.writers = 1 if request.vectors else several_writers()
        self._one_writer = threading.Lock()
        self._folders: set[Path] = set()
        self._unsynced = 0

    def read(self, ref: ImageRef) -> Work | None:
        return self.jobs.read(Order(ref=ref, mask_file=self._names.mask_of(ref)))

    def compute(self, arrived: Arrived[ImageRef, Work | None]) -> Computed[ImageRef, Work | None]:
        return self.jobs.compute_all(arrived, (EmcfError,))

    def write(self, ref: ImageRef, work: Work | None) -> ImageDone:
        assert work is not None  # each was read
        mask_file = self.jobs.write(work)
        self.jobs.close(work)
        self._sync_folders(mask_file.parent)
        return ImageDone(
            image=str(ref),
            mask=str(mask_file),
            seconds=time.monotonic() - work.started,
            shares=work.tally.shares,
            confidence=work.tally.confidence,
        )

    def _sync_folders(self, folder: Path) -> None:
        """Files are on the disk when they are named; their names follow, many at a time."""
        with self._one_writer:
            self._folders.add(folder)
            self._unsynced += 1
            is_due = self._unsynced >= _FOLDERS_EVERY
        if is_due:
            self.sync_folders()

    def sync_folders(self) -> None:
        """Wait until the names of all files are on the disk."""
        with self._one_writer:
            folders, self._folders, self._unsynced = self._folders, set(), 0
        for folder in folders:
            with suppress(OSError):  # gone or not ours any more: its files were synced
                sync(folder)


def predict_files(
    request: PredictRequest,
    refs: list[ImageRef],
    predictor: Predictor,
    emit: Callable[[Event], None],
    asked: Callable[[], str | None],
) -> Counted:
    """Predict image after image; one that fails is reported and the others go on.

    Images whose mask is there already are left alone, unless `force` is asked for. What this
    program did not write, or a person changed, is kept: the new version lies beside it.
    Raises: InputError when the output folder cannot be written.
    """
    try:
        book = OutputBook(Path(request.out))
        names = OutputNames(book, refs, request.inputs, SUFFIXES[request.mask_format])
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise InputError(request.out, what, remedy_of(error)) from None
    todo = [ref for ref in refs if request.force or not names.has_mask(ref)]
    prediction = _Stages(request, names, predictor, emit, asked)
    for told in names.make_writable(todo, prediction.jobs.files):
        emit(WarningGiven(message=told))
    done = failed = 0
    waiting = deque(todo)
    while waiting and asked() is None:
        away: list[ImageRef] = []  # met a disk that is gone: they wait for it
        with suppress(EndAskedFor):
            jobs = _taken(waiting, lambda: asked() is None and not away)  # noqa: B023
            stages = (prediction.read, prediction.compute, prediction.write)
            for ref, result in run_pipeline(
                jobs,
                *stages,
                (EmcfError,),
                ahead=prediction.jobs.ahead,
                writers=prediction.writers,
            ):
                if not isinstance(result, Failure):
                    emit(result)
                    done += 1
                elif _is_gone(result.error, book):
                    away.append(ref)
                else:
                    emit(ImageFailed(image=str(ref), reason=str(result.error)))
                    failed += 1
        if away:
            emit(WarningGiven(message=f"{book.out}: {_why_gone(book)}: it is waited for"))
            wait_until(lambda: _why_gone(book), asked, lambda why: print(why, flush=True))
            waiting.extendleft(reversed(away))
    prediction.jobs.close_all()
    prediction.sync_folders()
    if asked() is None:
        _finish(request, refs, set(todo), names, prediction, emit)
    return Counted(done=done, skipped=len(refs) - len(todo), failed=failed)


def _taken(waiting: "deque[ImageRef]", go_on: Callable[[], bool]) -> Iterator[ImageRef]:
    while waiting and go_on():
        yield waiting.popleft()


def _is_gone(error: Exception, book: OutputBook) -> bool:
    """Tell whether an image failed only because its output's disk is away, for now."""
    if not isinstance(error, OutputError) or not is_of_disk(error) or is_full(error):
        return False
    return bool(_why_gone(book))


def _why_gone(book: OutputBook) -> str:
    try:
        book.refuse_gone()
        try_to_write(book.file.parent)
    except OSError as error:
        return "" if is_full(error) else error.strerror or str(error)
    return ""


def _finish(
    request: PredictRequest,
    refs: Sequence[ImageRef],
    todo: Collection[ImageRef],
    names: OutputNames,
    prediction: _Stages,
    emit: Callable[[Event], None],
) -> None:
    """Write what belongs to all images together."""
    others = [(ref, names.mask_of(ref)) for ref in refs if ref not in todo]
    prediction.jobs.vectors.finish([pair for pair in others if pair[1].exists()])
    for file in prediction.jobs.vectors.kept:
        what = "is not as this program wrote it, and kept: the new version lies beside it"
        emit(WarningGiven(message=f"{file} {what}"))
    if request.rank_uncertain:
        _rank(names, refs, prediction.predictor.card, emit)


def _rank(
    names: OutputNames,
    refs: Sequence[ImageRef],
    card: ModelCard,
    emit: Callable[[Event], None],
) -> None:
    pairs = [(ref, names.mask_of(ref)) for ref in refs]
    ranking = rank([pair for pair in pairs if pair[1].exists()], card.class_values)
    write_ranking(names.placing.book, ranking)
    if ranking.left_out:
        few = ", ".join(Path(name).name for name in ranking.left_out[:3])
        what = f"{len(ranking.left_out)} images have a mask without its uncertainty ({few})"
        emit(WarningGiven(message=f"{what}: not ranked. Use --force to predict them again"))


def find_inputs(request: PredictRequest, left_out: list[Path] | None = None) -> list[ImageRef]:
    """Return the images of all inputs, without what lies in the output folder.

    Pictures that nobody reads here are added to `left_out`.

    Raises: InputError if there is none.
    """
    out = Path(request.out)
    left_out = [] if left_out is None else left_out
    every = [ref for place in request.inputs for ref in find_images(place, Path("/"), left_out)]
    inside = {folder: lies_in(folder, out) for folder in {ref.path.parent for ref in every}}
    found = dict.fromkeys(ref for ref in every if not inside[ref.path.parent])
    if not found:
        places = ", ".join(request.inputs)
        if every:  # taken for masks of ours
            what = f"all its images lie inside the output folder {out}"
            raise InputError(places, what, "Choose another folder with --out")
        remedy = left_out_words(left_out) or "Name images or their folder"
        raise InputError(places, "holds no micrographs", remedy)
    return list(found)


def scale_of(
    image: OpenImage, card: ModelCard, rescale: bool, emit: Callable[[Event], None]
) -> float:
    """Return by what the image must be enlarged to have the model's pixel size, if asked."""
    if card.pixel_nm is None or image.pixel_nm is None:
        return 1.0
    own = (image.pixel_nm[0] * image.pixel_nm[1]) ** 0.5
    factor = own / card.pixel_nm
    if abs(factor - 1) < 0.1:
        return 1.0
    if rescale:
        return factor
    message = (
        f"{image.rows.source}: its pixels are {own:.4g} nm, the model was trained at "
        f"{card.pixel_nm:.4g} nm. Use --rescale to bring them together"
    )
    emit(WarningGiven(message=message))
    return 1.0


def execute(worker: RunContext) -> int:
    """Predict what run.json names; return 1 when an image failed."""
    request = worker.record.request
    if not isinstance(request, PredictRequest):
        raise RunFolderError(worker.run.record_file, "is no prediction", "Predict anew")
    torch.set_num_threads(choose_threads(request.threads))
    left_out: list[Path] = []
    refs = find_inputs(request, left_out)
    predictor = Predictor(
        (request.model, *request.also),
        overlap=request.overlap,
        tta=request.tta,
        tile_px=request.tile_px,
        batch=request.batch,
    )
    worker.emit(
        RunStarted(
            run=worker.run.id,
            does="predict",
            project=predictor.card.project,
            classes=predictor.card.classes,
            device=predictor.device.type,
            num_images=len(refs),
        )
    )
    if lost := lost_gpu(predictor.device, None, os.environ):
        worker.emit(WarningGiven(message=lost))
    if left_out:
        worker.emit(WarningGiven(message=left_out_words(left_out)))
    tally = predict_files(request, refs, predictor, worker.emit_when_possible, worker.stop_request)
    asked = worker.stop_request()
    if asked is not None:
        return emit_ending(worker, "stopped" if asked == "stop" else asked)
    worker.emit(RunFinished(reason="done", done=tally.done + tally.skipped, failed=tally.failed))
    return 1 if tally.failed else 0
