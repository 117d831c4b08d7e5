"""A prediction in shards: what `predict` brings to the road that all commands in shards take.

Each image is predicted by itself, so that no result depends on the cuts.

`python -m emcfsys_engine.learn.inference.shards RUN_FOLDER [SHARD]`: a task, as arrays name it that
were submitted before all commands had shards.
"""

import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import torch

from emcfsys_engine.errors import InputError, RunFolderError
from emcfsys_engine.files import exit_with
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import PartBook
from emcfsys_engine.images.rows import open_rows
from emcfsys_engine.learn.device import choose_threads, lost_gpu
from emcfsys_engine.learn.faults import refuse_lost_gpu
from emcfsys_engine.learn.inference.files import (
    Stages,
    find_inputs,
    load_predictor,
    predict_files,
)
from emcfsys_engine.learn.inference.image import EndAskedFor, Order
from emcfsys_engine.learn.inference.mosaic import Piece
from emcfsys_engine.learn.inference.pipeline import Failure
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.inference.several import environments_for, prepare
from emcfsys_engine.learn.inference.shard_images import (
    Cutter,
    Together,
    is_mosaic,
    put_together,
    why_in_one,
    write_list,
)
from emcfsys_engine.learn.run_context import keep_freed_memory
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.regions import Mosaic, Region, cut_of, cuts
from emcfsys_engine.run.events import Event, RunStarted, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import EvaluateRequest, PredictRequest
from emcfsys_engine.run.shards import Header, ShardItem
from emcfsys_engine.shards.forecast import ShardForecast, bytes_of, fullest_s, peak_bytes, to_try
from emcfsys_engine.shards.task import main, tell_warning
from emcfsys_engine.shards.work import Asked, Done, Emit, Ended, ImageSizes, Tally, Work, ref_of


def work_of(run: Run) -> Work:
    """Return what a prediction brings.

    Raises: RunFolderError for another run.
    """
    if not isinstance(run.record().request, PredictRequest):
        raise RunFolderError(run.record_file, "is no prediction", "Predict anew")
    return PredictWork(run)


Loaded = TypeVar("Loaded")


class WorkOfModels(Work):
    """A command in shards whose tasks predict: one a GPU, or one a processor."""

    def loaded(self, header: Header, load: Callable[[], Loaded]) -> Loaded:
        """Return what `load` makes of the models' files.

        Raises: InputError where these are others than when the list was written.
        """
        keep_freed_memory()
        torch.set_num_threads(choose_threads(self.request.threads, self.beside))
        made = load()
        self.refuse_changed(header)  # looked at after they were read
        return made

    @property
    def at_once(self) -> int:
        """One task a GPU, or one a processor."""
        return at_once(self.request)

    def environments(self, number: int) -> Sequence[Mapping[str, str]]:
        """Give each task a GPU of its own."""
        return environments_for(self.request.gpus or number)


class PredictWork(WorkOfModels):
    """A prediction in shards."""

    _predictor: Predictor | None = None

    @cached_property
    def _prepared(self) -> tuple[ModelCard, torch.device]:
        return prepare(self.request)

    def write_list(self, emit: Emit, asked: Asked) -> Header:
        """Find all images, cut the large ones into regions, and write the list."""
        return write_list(self.shards, self.request, self._prepared[0], emit, asked)

    def begun(self, header: Header) -> Sequence[Event]:
        """Return what is told first."""
        card, device = self._prepared
        began = RunStarted(
            run=self.run.id,
            does="predict",
            project=card.project,
            classes=card.classes,
            device=device.type,
            num_images=header.num_images,
        )
        told = (lost_gpu(device, self.request.gpus, os.environ), header.left_out)
        return [began, *(WarningGiven(message=words) for words in told if words)]

    def begin(self, header: Header, shard: int, asked: Asked) -> "_Predicting":
        """Begin with one shard; the model is read with the first."""
        book = PartBook(Path(self.request.out), self.shards.book_file(shard))
        predictor = self._loaded(header)
        # One file for all images is made last, of the masks.
        own = tuple(each for each in self.request.vectors if each != "coco")
        request = msgspec.structs.replace(self.request, vectors=own)
        return _Predicting(self, request, header, book, predictor, asked)

    def put_together(self, end: Ended) -> Tally:
        """Write what belongs to all images together, and one book of all that was written."""
        counted = put_together(Together(self.request, self._prepared[0], end))
        return Tally(counted.done, counted.failed)

    def _loaded(self, header: Header) -> Predictor:
        if self._predictor is None:
            self._predictor = self.loaded(header, lambda: load_predictor(self.request))
        return self._predictor


class _Predicting:
    """One shard's images under way in this task."""

    def __init__(
        self,
        work: PredictWork,
        request: PredictRequest,
        header: Header,
        book: PartBook,
        predictor: Predictor,
        asked: Asked,
    ) -> None:
        self.book = book
        self._work, self._request, self._header = work, request, header
        self._stages: Stages[ShardItem] = Stages(
            request, book, self._order_of, predictor, tell_warning, asked, each_alone=True
        )

    def run(self, items: Iterator[ShardItem]) -> Iterator[tuple[ShardItem, Done | Exception]]:
        """Yield images with what became of them.

        Raises: GpuLostError when no later image could be done.
        """
        with suppress(EndAskedFor):
            for item, result in self._stages.run(items):
                if isinstance(result, Failure):
                    refuse_lost_gpu(result.error)
                    yield item, result.error
                else:
                    yield item, Done(result)

    def close(self) -> None:
        """Let go of files, and put folders on the disk."""
        self._stages.jobs.close_all()
        self._stages.sync_folders()

    def _order_of(self, item: ShardItem) -> Order:
        piece = None
        if item.region is not None:
            mosaic = self._header.mosaics[item.mosaic]
            folder = self._work.shards.folder
            piece = Piece(mosaic=mosaic, region=item.region, folder=folder)
        return Order(
            ref=ref_of(item),
            mask_file=Path(item.mask),
            content="" if piece is None else piece.mosaic.content,
            region=self._request.region,
            piece=piece,
        )


def at_once(request: PredictRequest | EvaluateRequest) -> int:
    """Return how many tasks this machine runs at a time: one a GPU, or one a processor."""
    if request.shards_at_once:
        return request.shards_at_once
    if request.gpus or (request.gpus is None and torch.cuda.is_available()):
        return request.gpus or 1
    return max(1, len(os.sched_getaffinity(0)) // (request.threads or 1))


if __name__ == "__main__":
    exit_with(main, sys.argv[1:])


def forecast(request: PredictRequest) -> ShardForecast:
    """Predict a few images into a folder that goes away, and reckon what all of them take.

    Raises: InputError, ImageError without images, or where none of those tried can be predicted.
    """
    refs = find_inputs(request)
    sizes = ImageSizes()
    planes = Counter(name for _, name, _ in refs.files())
    looked = {name: sizes.of(name, count, is_wanted=True) for name, count in planes.items()}
    pieces = _pieces(request, refs, [looked[name][1] for _, name, _ in refs.files()])
    pixels = [piece.pixels for piece in pieces]
    of_regions = sum(piece.pixels for piece in pieces if piece.region is not None)
    with tempfile.TemporaryDirectory() as name:
        trial = _Trial(request, load_predictor(request), Path(name))
        seconds, written, tried = trial.tried(pieces)
    number = min(max(1, request.shards), len(pieces))
    beside = min(number, at_once(request))
    rate = sum(pixels[n] for n in tried) / max(1e-6, seconds)
    total = sum(pixels)
    return ShardForecast(
        images=len(refs),
        regions=sum(piece.region is not None for piece in pieces),
        looked_s=of_regions * trial.looked_s_a_pixel,
        pixels=total,
        tasks=number,
        at_once=beside,
        seconds=fullest_s(pixels, beside, rate),
        read_bytes=sum(bytes_of(path, known) for path, (known, _) in looked.items()),
        written_bytes=math.ceil(written * total / max(1, sum(pixels[n] for n in tried))),
        memory_bytes=peak_bytes(),
        tried=len(tried),
        pixels_a_second=rate,
    )


class _Piece(NamedTuple):
    """What one task predicts at a time: an image, or a region of one that is cut."""

    ref: ImageRef
    pixels: int
    of_pixels: int  # of the whole image
    region: Region | None = None


def _pieces(
    request: PredictRequest, refs: Sequence[ImageRef], pixels: Sequence[int]
) -> list[_Piece]:
    """Return all that is predicted by itself."""
    pieces: list[_Piece] = []
    for ref, number in zip(refs, pixels, strict=True):
        rows = None
        if is_mosaic(request, number) and not why_in_one(request):
            rows = open_rows(ref)
        if rows is None:
            pieces.append(_Piece(ref, number, number))
            continue
        with rows:
            size_HW = rows.height, rows.width
        cut_HW = cut_of(size_HW, request.region_px)
        pieces += [_Piece(ref, one.pixels, number, one) for one in cuts(size_HW, cut_HW)]
    return pieces


class _Trial:
    """Predicts a few images, or regions of large ones, into a folder that goes away."""

    def __init__(self, request: PredictRequest, predictor: Predictor, folder: Path) -> None:
        self._request, self._predictor, self._folder = request, predictor, folder
        self._cutter = Cutter(request, predictor.card, lambda _: "", folder, lambda _: None)
        self._mosaics: dict[ImageRef, Mosaic | None] = {}
        self.looked_s_a_pixel = 0.0  # that finding the numbers of a large image took

    def tried(self, pieces: Sequence[_Piece]) -> tuple[float, int, list[int]]:
        """Return the seconds and the written bytes of a few images, and which they are."""
        tried = to_try([piece.pixels for piece in pieces])
        seconds, written, done = 0.0, 0, list[int]()
        self._once(pieces[tried[0]], "warm")  # first kernels take longer
        for number in tried:
            before = bytes_of(self._folder, -1)
            took = self._once(pieces[number], str(number))
            if took is not None:
                seconds += took
                written += bytes_of(self._folder, -1) - before
                done.append(number)
        if not done:
            what = f"none of {len(tried)} images that were tried can be predicted"
            raise InputError(", ".join(self._request.inputs), what, "Look at one with inspect")
        return seconds, written, done

    def _once(self, piece: _Piece, name: str) -> float | None:
        """Return how many seconds one of them takes; None where it fails."""
        if piece.region is not None:
            return self._region(piece, piece.region)
        out = str(self._folder / name)
        one = msgspec.structs.replace(self._request, out=out, rank_uncertain=False, shards=0)
        began = time.monotonic()
        found = predict_files(one, [piece.ref], self._predictor, lambda _: None, lambda: None)
        return time.monotonic() - began if found.done else None

    def _region(self, piece: _Piece, region: Region) -> float | None:
        mosaic = self._mosaic(piece)
        if mosaic is None:
            return None
        order = Order(
            ref=piece.ref,
            mask_file=Path(mosaic.mask),
            content="-",  # nothing of it is noted
            piece=Piece(mosaic=mosaic, region=region, folder=self._folder),
        )
        began = time.monotonic()
        book = OutputBook(self._folder / "regions")
        stages: Stages[Order] = Stages(
            self._request, book, lambda one: one, self._predictor, lambda _: None, lambda: None
        )
        for _, result in stages.run([order]):
            if isinstance(result, Failure):
                return None
        return time.monotonic() - began

    def _mosaic(self, piece: _Piece) -> Mosaic | None:
        if piece.ref not in self._mosaics:
            began = time.monotonic()
            mask = str(self._folder / f"{len(self._mosaics)}.ome.zarr")
            item = ShardItem(
                len(self._mosaics), str(piece.ref.path), piece.ref.plane, mask, -1, piece.of_pixels
            )
            self._mosaics[piece.ref] = self._cutter.mosaic_of(item)
            self.looked_s_a_pixel = (time.monotonic() - began) / piece.of_pixels
        return self._mosaics[piece.ref]
