"""Prediction of many files: read ahead, computed, written behind; one that fails stays single."""

import os
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Generic, TypeVar

import torch

from emcfsys_engine.annotations.writer import COCO_NAME
from emcfsys_engine.errors import EmcfError, InputError, RunFolderError
from emcfsys_engine.files import remedy_of
from emcfsys_engine.hotfolder.review import refuse_to_make_anew
from emcfsys_engine.images.label_zarr import sync
from emcfsys_engine.images.micrograph import ImageRef, ImageRefs, sides_words
from emcfsys_engine.images.outages import is_gone, wait_until, why_gone
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import lies_in, resolved
from emcfsys_engine.images.own_outputs import opened_book
from emcfsys_engine.images.reader import left_out_words, list_images
from emcfsys_engine.learn.device import choose_threads, lost_gpu
from emcfsys_engine.learn.inference.bands import OpenImage
from emcfsys_engine.learn.inference.expected import in_event
from emcfsys_engine.learn.inference.image import (
    EndAskedFor,
    ImageJobs,
    ImageWork,
    Order,
    enlargement,
)
from emcfsys_engine.learn.inference.outputs import SUFFIXES, Companions, VectorOutputs, maker_of
from emcfsys_engine.learn.inference.picture import AS_IT_IS, Scale
from emcfsys_engine.learn.inference.pipeline import Failure, run_pipeline, several_writers
from emcfsys_engine.learn.inference.placing import MakersOf, OutputNames, in_brackets
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.inference.ranking import JSON_NAME, rank_into
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.model_card import ModelCard, read_card
from emcfsys_engine.regions import ending_of
from emcfsys_engine.run.events import (
    Event,
    ImageDone,
    ImageFailed,
    RegionDone,
    RunFinished,
    RunStarted,
    WarningGiven,
)
from emcfsys_engine.run.outcome import emit_ending
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.text import how_many

_FOLDERS_EVERY = 64  # images between two syncs of the folders that hold their names


@dataclass(frozen=True, kw_only=True)
class Counted:
    """How many images of a run were done, skipped because they were there, or failed."""

    done: int
    skipped: int
    failed: int


Job = TypeVar("Job")


class Stages(Generic[Job]):
    """The three stages of the pipeline, for `predict`.

    `order_of`: what is wanted of a job.
    `each_alone`: batches hold tiles of one image, whatever others there are.
    """

    def __init__(
        self,
        request: PredictRequest,
        book: OutputBook,
        order_of: Callable[[Job], Order],
        predictor: Predictor,
        emit: Callable[[Event], None],
        asked: Callable[[], str | None],
        *,
        each_alone: bool = False,
    ) -> None:
        self._order_of = order_of
        self.jobs = ImageJobs(
            predictor,
            book,
            companions=companions_of(request),
            vectors=request.vectors,
            scale_of=lambda image: scale_of(image, predictor.card, request.rescale, emit),
            settings=request,
            asked=asked,
            tell=lambda words: emit(WarningGiven(message=words)),
        )
        self._compute = self.jobs.compute_each if each_alone else self.jobs.compute_all
        # Outlines of all images go into one file, in order.
        self._writers = 1 if request.vectors else several_writers()
        self._one_writer = threading.Lock()
        self._folders: set[Path] = set()
        self._unsynced = 0

    def run(
        self, jobs: Iterable[Job]
    ) -> Iterator[tuple[Job, ImageDone | RegionDone | Failure[Job]]]:
        """Yield jobs with what became of them, in order."""
        return run_pipeline(
            jobs,
            self._read,
            lambda arrived: self._compute(arrived, (EmcfError,)),
            self._write,
            (EmcfError,),
            ahead=self.jobs.ahead,
            writers=self._writers,
        )

    def _read(self, job: Job) -> ImageWork | None:
        return self.jobs.read(self._order_of(job))

    def _write(self, job: Job, work: ImageWork | None) -> ImageDone | RegionDone:
        assert work is not None  # each was read
        mask_file = self.jobs.write(work)
        self.jobs.close(work)
        if (piece := work.order.piece) is not None:
            return piece.done(work.tally, time.monotonic() - work.started)
        self._sync_folders(mask_file.parent)
        return ImageDone(
            image=str(work.order.ref),
            mask=str(mask_file),
            seconds=time.monotonic() - work.started,
            shares=work.tally.shares,
            confidence=work.tally.confidence,
            **in_event(work.tally.expected),
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


def companions_of(request: PredictRequest) -> Companions:
    """Return what is written beside each mask."""
    return Companions(
        overlay=request.overlay,
        probabilities=request.probability,
        uncertainty=request.uncertainty or request.rank_uncertain,
    )


class PredictedImages:
    """What concerns all images of a prediction: names, what is there already, what comes last.

    Images whose mask is there already are left alone, unless `force` is asked for. What this
    program did not write, or a person changed, is kept: the new version lies beside it.
    Raises: InputError for an output folder that cannot be written, or a hot folder's with `force`.
    """

    def __init__(
        self,
        request: PredictRequest,
        refs: Sequence[ImageRef],
        card: ModelCard,
        emit: Callable[[Event], None],
        asked: Callable[[], str | None],
    ) -> None:
        self._request, self._refs, self._card = request, refs, card
        self._emit, self._asked = emit, asked
        if request.force:
            refuse_to_make_anew(Path(request.out))
        try:
            self.book = opened_book(Path(request.out))
            self._suffix = ending_of(request.region) + SUFFIXES[request.mask_format]
            self.names = OutputNames(
                self.book, refs, request.inputs, self._suffix, lambda: asked() is not None
            )
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            raise InputError(request.out, what, remedy_of(error)) from None
        is_new = request.force or self.names.has_none
        kept = () if is_new else map(self.names.has_mask, refs)
        self.is_there = bytearray(kept) or bytearray(len(refs))  # of each image: left alone
        new = (number for number, is_there in enumerate(self.is_there) if not is_there)
        self.todo = ImageRefs.of(refs).chosen(new)
        vectors = VectorOutputs(self.book.out, request.vectors, card, self.book)
        companions = companions_of(request)
        for told in self.names.make_writable(
            self.todo, lambda ref, mask: companions.files(mask, card) + vectors.files(ref, mask)
        ):
            emit(WarningGiven(message=told))
        self._tell_corrections()
        self.done = self.failed = 0
        self._made: set[str] = set()
        self.outdated: set[ImageRef] = set()  # whose masks are of them as they were before

    def _tell_corrections(self) -> None:
        """Say which masks of persons are of images as they were before: they are kept."""
        kept: list[Path] = []
        for number, is_there in enumerate(self.is_there):
            if not is_there:
                continue
            ref, mask = self.place_of(self._refs[number])
            if self.book.last_content(mask) and not self.book.is_made_of(
                mask, ref.path, self.book.contents.of(ref.path)
            ):
                kept.append(mask)
        if kept:
            masks = how_many(len(kept), "changed mask is", "changed masks are")
            what = f"{masks} of an image that changed since, and kept{in_brackets(kept)}"
            remedy = "Use --force to have a new version beside it"
            self._emit(WarningGiven(message=f"{what}. {remedy}"))

    def place_of(self, ref: ImageRef) -> tuple[ImageRef, Path]:
        """Return an image and the file of its mask."""
        return ref, self.names.mask_of(ref)

    def order_of(self, ref: ImageRef) -> Order:
        """Return what is to be predicted of an image, and into which file."""
        return Order(ref=ref, mask_file=self.names.mask_of(ref), region=self._request.region)

    def count(self, event: ImageDone | ImageFailed) -> None:
        """Tell what became of an image."""
        self._emit(event)
        if isinstance(event, ImageDone):
            self._made.add(event.image)
        self.done += isinstance(event, ImageDone)
        self.failed += isinstance(event, ImageFailed)

    def wait_for_disk(self) -> None:
        """Wait until the output's disk is back, or somebody ends it."""
        if why := why_gone(self.book):  # empty: it has come back meanwhile
            self._emit(WarningGiven(message=f"{self.book.out}: {why}: it is waited for"))
        wait_until(lambda: why_gone(self.book), self._asked, lambda why: print(why, flush=True))

    def finish(self, vectors: VectorOutputs, seen: Collection[ImageRef]) -> Counted:
        """Write what belongs to all images together; `vectors` has those of the images `seen`."""
        if self._asked() is None:
            made = [ref for ref in self._refs if str(ref) in self._made]
            # A region takes no whole mask away, be it of the image as it was.
            for told in self.names.retire(() if self._request.region else made):
                self._emit(WarningGiven(message=told))
            alike = self._alike()
            others = [pair for pair in alike if pair[0] not in seen]
            vectors.finish(others + (self._elsewhere() if "coco" in self._request.vectors else []))
            for file in vectors.kept:
                what = "is not as a prediction wrote it, and kept: the new version lies beside it"
                self._emit(WarningGiven(message=f"{file} {what}"))
            if self._request.rank_uncertain:
                rank_into(self.book, alike, self._card, self._emit)
        skipped = len(self._refs) - len(self.todo)
        return Counted(done=self.done, skipped=skipped, failed=self.failed)

    def _elsewhere(self) -> list[tuple[ImageRef, Path]]:
        """Return images that earlier runs predicted into this folder, with their newest masks.

        Those whose values mean other classes, or that are no longer of the image, are none.
        """
        here = {(resolved(ref.path), ref.plane) for ref in self._refs}
        makers = self._makers()
        newest: dict[tuple[Path, int | None], tuple[int, Path]] = {}
        for mask in self.book.masks():
            one = self.book.origin_of(mask)
            if one is None or one.is_outdated or not mask.name.endswith(self._suffix):
                continue
            whose = (one.image, one.plane)
            if whose in here or not one.image.exists() or not makers.names_alike(mask):
                continue
            newest[whose] = max((one.version, mask), newest.get(whose, (0, mask)))
        return [
            (ImageRef(path=image, plane=plane), mask)
            for (image, plane), (_, mask) in sorted(newest.items(), key=lambda one: one[1][1])
        ]

    def _makers(self) -> MakersOf:
        also = (read_card(Path(file)) for file in self._request.also)
        return MakersOf(self.book, maker_of([self._card, *also], self._request), self._card.classes)

    def _alike(self) -> list[tuple[ImageRef, Path]]:
        """Return images with their masks, but for those whose values mean another model's classes.

        It is said which masks are of other models, or settings.
        """
        makers = self._makers()
        here = [ref for ref in self._refs if ref not in self.outdated]
        there = [pair for pair in map(self.place_of, here) if pair[1].exists()]
        older = [mask for ref, mask in there if str(ref) not in self._made]
        others = [mask for mask in older if makers.is_another(mask)]
        left_out = {mask for mask in older if not makers.names_alike(mask)}
        told = sorted(left_out.union(others))
        if told:
            masks = how_many(len(told), "mask that was there is", "masks that were there are")
            words = f"{masks} of other models or settings{in_brackets(told)}"
            into = [COCO_NAME] * ("coco" in self._request.vectors)
            into += [JSON_NAME] * self._request.rank_uncertain
            if left_out and into:
                words += f"; {len(left_out)} of other classes are left out of {' and '.join(into)}"
            self._emit(WarningGiven(message=f"{words}. Use --force to predict their images again"))
        return [pair for pair in there if pair[1] not in left_out]


def predict_files(
    request: PredictRequest,
    refs: Sequence[ImageRef],
    predictor: Predictor,
    emit: Callable[[Event], None],
    asked: Callable[[], str | None],
) -> Counted:
    """Predict image after image in this process; one that fails is told and the others go on.

    Raises: as `PredictedImages`.
    """
    prediction = PredictedImages(request, refs, predictor.card, emit, asked)
    stages = Stages(request, prediction.book, prediction.order_of, predictor, emit, asked)
    waiting = deque(prediction.todo)
    while waiting and asked() is None:
        away: list[ImageRef] = []  # met a disk that is gone: they wait for it
        with suppress(EndAskedFor):
            jobs = _taken(waiting, lambda: asked() is None and not away)  # noqa: B023
            for ref, result in stages.run(jobs):
                if not isinstance(result, Failure):
                    assert isinstance(result, ImageDone)
                    prediction.count(result)
                elif is_gone(result.error, prediction.book):
                    away.append(ref)
                else:
                    prediction.count(ImageFailed(image=str(ref), reason=str(result.error)))
        if away:
            prediction.wait_for_disk()
            waiting.extendleft(reversed(away))
    stages.jobs.close_all()
    stages.sync_folders()
    return prediction.finish(stages.jobs.vectors, set(prediction.todo))


def _taken(waiting: "deque[ImageRef]", go_on: Callable[[], bool]) -> Iterator[ImageRef]:
    while waiting and go_on():
        yield waiting.popleft()


def find_inputs(request: PredictRequest, left_out: list[Path] | None = None) -> ImageRefs:
    """Return the images of all inputs, without what lies in the output folder.

    Pictures that nobody reads here are added to `left_out`.

    Raises: InputError if there is none.
    """
    out = Path(request.out)
    left_out = [] if left_out is None else left_out
    found = _each_once([list_images(one, Path("/"), left_out) for one in request.inputs])
    inside: dict[str, bool] = {}
    outside = array("Q")
    for number, name, _ in found.files():
        folder = name.rpartition("/")[0]
        if folder not in inside:
            inside[folder] = lies_in(Path(name).parent, out)
        if not inside[folder]:
            outside.append(number)
    if not outside:
        places = ", ".join(request.inputs)
        if found:  # taken for masks of ours
            what = f"all its images lie inside the output folder {out}"
            raise InputError(places, what, "Choose another folder with --out")
        remedy = left_out_words(left_out) or "Name images or their folder"
        raise InputError(places, "holds no micrographs", remedy)
    return found.chosen(outside) if len(outside) < len(found) else found


def _each_once(listings: Sequence[ImageRefs]) -> ImageRefs:
    if len(listings) == 1:
        return listings[0]
    return ImageRefs(dict.fromkeys(ref for one in listings for ref in one))


def scale_of(
    image: OpenImage, card: ModelCard, rescale: bool, emit: Callable[[Event], None]
) -> Scale:
    """Return by what the image must be enlarged to have the model's pixel size, if asked."""
    scale = enlargement(image, card)
    if rescale and None in (card.pixel_nm, image.pixel_nm):
        what = "it" if image.pixel_nm is None else "the model"
        message = f"{image.rows.source}: {what} does not say its pixel size: it is not rescaled"
        emit(WarningGiven(message=message))
    if scale == AS_IT_IS or rescale or card.rescales:
        return scale
    assert image.pixel_nm is not None
    message = (
        f"{image.rows.source}: its pixels are {sides_words(image.pixel_nm)} nm, the model was "
        f"trained at {card.pixel_nm:.4g} nm. Use --rescale to bring them together"
    )
    emit(WarningGiven(message=message))
    return AS_IT_IS


def load_predictor(request: PredictRequest) -> Predictor:
    """Return the models of a prediction, on the device of this process."""
    return Predictor(
        (request.model, *request.also),
        gpus=None if request.gpus is None else min(1, request.gpus),
        overlap=request.overlap,
        tta=request.tta,
        tile_px=request.tile_px,
        batch=request.batch,
    )


def execute(worker: RunContext) -> int:
    """Predict what run.json names; return 1 when an image failed."""
    request = worker.record.request
    if not isinstance(request, PredictRequest):
        raise RunFolderError(worker.run.record_file, "is no prediction", "Predict anew")
    left_out: list[Path] = []
    refs = find_inputs(request, left_out)
    if request.num_processes > 1:
        several = import_module("emcfsys_engine.learn.inference.several")
        card, device = several.prepare(request)
        work = partial(several.predict_files, worker.run, request, refs, card)
    else:
        torch.set_num_threads(choose_threads(request.threads))
        predictor = load_predictor(request)
        card, device = predictor.card, predictor.device
        work = partial(predict_files, request, refs, predictor)
    worker.emit(
        RunStarted(
            run=worker.run.id,
            does="predict",
            project=card.project,
            classes=card.classes,
            device=device.type,
            num_images=len(refs),
        )
    )
    if lost := lost_gpu(device, request.gpus, os.environ):
        worker.emit(WarningGiven(message=lost))
    if left_out:
        worker.emit(WarningGiven(message=left_out_words(left_out)))
    tally: Counted = work(worker.emit_when_possible, worker.stop_request)
    if (asked := worker.stop_request()) is not None:
        return emit_ending(worker.emit, "stopped" if asked == "stop" else asked)
    worker.emit(RunFinished(reason="done", done=tally.done + tally.skipped, failed=tally.failed))
    return 1 if tally.failed else 0
