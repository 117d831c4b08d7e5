"""Prediction of many files: read ahead, computed, written behind; one that fails stays single."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from emcfsys_engine.errors import EmcfError, InputError, RunFolderError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images
from emcfsys_engine.images.writers import sync
from emcfsys_engine.learn.device import choose_threads, lost_gpu
from emcfsys_engine.learn.inference.bands import Band, OpenImage, Tally, Wanted, open_image
from emcfsys_engine.learn.inference.compiled import PAYS_AFTER_S, Pace
from emcfsys_engine.learn.inference.outputs import (
    SUFFIXES,
    Companions,
    OutputNames,
    OutputSet,
    VectorOutputs,
)
from emcfsys_engine.learn.inference.pipeline import Behind, Failure, run_pipeline
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.inference.ranking import rank, write_ranking
from emcfsys_engine.learn.run_context import Worker, say_ending
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run.events import (
    Event,
    ImageDone,
    ImageFailed,
    RunFinished,
    RunStarted,
    WarningGiven,
)
from emcfsys_engine.run.folder import PredictRequest

_FOLDERS_EVERY = 64  # images between two syncs of the folders that hold their names


@dataclass(frozen=True, kw_only=True)
class Counted:
    """How many images of a run were done, skipped because they were there, or failed."""

    done: int
    skipped: int
    failed: int


class _EndAskedFor(Exception):
    """A person or the machine asked to end within a large image; it is begun anew next time."""


@dataclass(kw_only=True)
class _Work:
    """One image between its reading and its files."""

    image: OpenImage
    started: float
    tally: Tally
    outputs: OutputSet | None = None  # open already when a large image was computed
    bands: list[Band] = field(default_factory=list)


class _Desk:
    """The three stages of the pipeline."""

    def __init__(
        self,
        request: PredictRequest,
        names: OutputNames,
        predictor: Predictor,
        say: Callable[[Event], None],
        asked: Callable[[], str | None],
        pace: Pace,
    ) -> None:
        self._request = request
        self._names = names
        self._predictor = predictor
        self._say = say
        self._asked = asked
        self._pace = pace
        self._may_compile = request.compile
        self._companions = Companions(
            overlay=request.overlay,
            probabilities=request.probability,
            uncertainty=request.uncertainty or request.rank_uncertain,
        )
        self._wanted = Wanted(
            probabilities=request.probability, uncertainty=self._companions.uncertainty
        )
        self.vectors = VectorOutputs(Path(request.out), request.vectors, predictor.card)
        self._images: dict[ImageRef, OpenImage] = {}  # open, and not yet done
        self._folders: set[Path] = set()
        self._unsynced = 0

    def read(self, ref: ImageRef) -> _Work:
        started = time.monotonic()
        image = open_image(ref, self._predictor.normaliser)
        self._images[ref] = image
        return _Work(image=image, started=started, tally=Tally(self._predictor.card))

    def compute(self, ref: ImageRef, work: _Work) -> _Work:
        image = work.image
        try:
            bands = self._predictor.bands(
                image.read,
                image.size,
                info_bar_rows=image.survey.info_bar_rows,
                scale=scale_of(image, self._predictor.card, self._request.rescale, self._say),
                wanted=self._wanted,
                ahead=image.is_large,
            )
            if image.is_large:
                self._write_while_computing(ref, work, bands)
            else:
                work.bands = list(bands)
        except BaseException:
            self._give_up(work)
            raise
        self._pace.image_done()
        self._compile_if_it_pays()
        return work

    def _compile_if_it_pays(self, share: float = 0.0) -> None:
        """Once, when enough of the job is left: have code made for the network."""
        pays_after_s = PAYS_AFTER_S[self._predictor.device.type]
        if self._may_compile and self._pace.left_s(share) > pays_after_s:
            self._may_compile = False
            print(f"network {self._predictor.compile()}", flush=True)

    def _write_while_computing(self, ref: ImageRef, work: _Work, bands: Iterator[Band]) -> None:
        outputs = work.outputs = self._open_outputs(ref, work)
        behind = Behind()
        try:
            for band in bands:
                if self._asked() is not None:
                    raise _EndAskedFor
                behind.do(lambda band=band: self._add(work, outputs, band))
                self._compile_if_it_pays((band.first + len(band.mask)) / work.image.size[0])
        finally:
            behind.finish()

    def write(self, ref: ImageRef, work: _Work) -> ImageDone:
        try:
            outputs = work.outputs = work.outputs or self._open_outputs(ref, work)
            for band in work.bands:
                self._add(work, outputs, band)
            self.vectors.write(ref, outputs.mask_file, work.image)
            outputs.finish()
            self._sync_folders(outputs.mask_file.parent)
        except BaseException:
            self._give_up(work)
            raise
        self._close(work)
        return ImageDone(
            image=str(ref),
            mask=str(outputs.mask_file),
            seconds=time.monotonic() - work.started,
            shares=work.tally.shares,
            confidence=work.tally.confidence,
        )

    def _open_outputs(self, ref: ImageRef, work: _Work) -> OutputSet:
        image = work.image
        return OutputSet(
            self._names.mask_of(ref),
            image.size,
            image.pixel_nm,
            self._predictor.card,
            self._companions,
            image.view,
        )

    def _add(self, work: _Work, outputs: OutputSet, band: Band) -> None:
        work.tally.add(band)
        outputs.add(band)
        self.vectors.add(outputs.mask_file, band)

    def _give_up(self, work: _Work) -> None:
        if work.outputs is not None:
            work.outputs.abort()
            self.vectors.forget(work.outputs.mask_file)
        self._close(work)

    def _close(self, work: _Work) -> None:
        work.image.close()
        self._images.pop(work.image.ref, None)

    def close(self) -> None:
        """Close what was read ahead and is no longer wanted."""
        for image in self._images.values():
            image.close()
        self._images.clear()

    def _sync_folders(self, folder: Path) -> None:
        """Files are on the disk when they are named; their names follow, many at a time."""
        self._folders.add(folder)
        self._unsynced += 1
        if self._unsynced >= _FOLDERS_EVERY:
            self.sync_folders()

    def sync_folders(self) -> None:
        """Wait until the names of all files are on the disk."""
        for folder in self._folders:
            with suppress(OSError):  # gone or not ours any more: its files were synced
                sync(folder)
        self._folders.clear()
        self._unsynced = 0


def predict_files(
    request: PredictRequest,
    refs: list[ImageRef],
    predictor: Predictor,
    say: Callable[[Event], None],
    asked: Callable[[], str | None],
) -> Counted:
    """Predict image after image; one that fails is reported and the others go on.

    Images whose mask is there already are left alone, unless `force` is asked for.
    """
    names = OutputNames(Path(request.out), refs, request.inputs, SUFFIXES[request.mask_format])
    todo = [ref for ref in refs if request.force or not names.mask_of(ref).exists()]
    desk = _Desk(request, names, predictor, say, asked, Pace(len(todo)))
    done = failed = 0
    until_asked = itertools.takewhile(lambda _: asked() is None, todo)
    with suppress(_EndAskedFor):
        stages = (desk.read, desk.compute, desk.write)
        for ref, result in run_pipeline(until_asked, *stages, (EmcfError,)):
            if isinstance(result, Failure):
                say(ImageFailed(image=str(ref), reason=str(result.error)))
                failed += 1
            else:
                say(result)
                done += 1
    desk.close()
    desk.sync_folders()
    if asked() is None:
        left = set(todo)
        desk.vectors.finish([(r, names.mask_of(r)) for r in refs if r not in left])
        if request.rank_uncertain:
            _rank(Path(request.out), refs, names, predictor.card, say)
    return Counted(done=done, skipped=len(refs) - len(todo), failed=failed)


def _rank(
    out: Path,
    refs: Sequence[ImageRef],
    names: OutputNames,
    card: ModelCard,
    say: Callable[[Event], None],
) -> None:
    pairs = [(ref, names.mask_of(ref)) for ref in refs]
    ranking = rank([pair for pair in pairs if pair[1].exists()], card.class_values)
    write_ranking(out, ranking)
    if ranking.left_out:
        few = ", ".join(Path(name).name for name in ranking.left_out[:3])
        what = f"{len(ranking.left_out)} images have a mask without its uncertainty ({few})"
        say(WarningGiven(message=f"{what}: not ranked. Use --force to predict them again"))


def find_inputs(request: PredictRequest) -> list[ImageRef]:
    """Return the images of all inputs, without what lies in the output folder.

    Raises: InputError if there is none.
    """
    out = Path(request.out)
    every = [ref for place in request.inputs for ref in find_images(place, Path("/"))]
    found = dict.fromkeys(ref for ref in every if out not in ref.path.parents)
    if not found:
        places = ", ".join(request.inputs)
        if every:  # taken for masks of ours
            what = f"all its images lie inside the output folder {out}"
            raise InputError(places, what, "Choose another folder with --out")
        raise InputError(places, "holds no micrographs", "Name images or their folder")
    return list(found)


def scale_of(
    image: OpenImage, card: ModelCard, rescale: bool, say: Callable[[Event], None]
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
    say(WarningGiven(message=message))
    return 1.0


def execute(worker: Worker) -> int:
    """Predict what run.json names; return 1 when an image failed."""
    request = worker.record.request
    if not isinstance(request, PredictRequest):
        raise RunFolderError(worker.run.record_file, "is no prediction", "Predict anew")
    torch.set_num_threads(choose_threads(request.threads))
    refs = find_inputs(request)
    predictor = Predictor(
        (request.model, *request.also),
        overlap=request.overlap,
        tta=request.tta,
        tile_px=request.tile_px,
        batch=request.batch,
    )
    worker.say(
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
        worker.say(WarningGiven(message=lost))
    tally = predict_files(request, refs, predictor, worker.say, worker.asked)
    asked = worker.asked()
    if asked is not None:
        return say_ending(worker, "stopped" if asked == "stop" else asked)
    worker.say(RunFinished(reason="done", done=tally.done + tally.skipped, failed=tally.failed))
    return 1 if tally.failed else 0
