"""A prediction in shards: what `predict` brings to the road that all commands in shards take.

Each image is predicted by itself, so that no result depends on the cuts.

`python -m emcfsys_engine.learn.inference.shards RUN_FOLDER [SHARD]`: a task, as arrays name it that
were submitted before all commands had shards.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec
import torch

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.files import exit_with
from emcfsys_engine.images.output_parts import PartBook
from emcfsys_engine.learn.device import choose_threads, lost_gpu
from emcfsys_engine.learn.faults import refuse_lost_gpu
from emcfsys_engine.learn.inference.files import Stages, load_predictor
from emcfsys_engine.learn.inference.image import EndAskedFor, Order
from emcfsys_engine.learn.inference.mosaic import Piece
from emcfsys_engine.learn.inference.pipeline import Failure
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.inference.several import environments_for, prepare
from emcfsys_engine.learn.inference.shard_end import Together, put_together
from emcfsys_engine.learn.inference.shard_list import write_list
from emcfsys_engine.learn.run_context import keep_freed_memory
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run.events import Event, RunStarted, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import EvaluateRequest, PredictRequest
from emcfsys_engine.run.shards import Header, Item
from emcfsys_engine.shards.ended import Ended, Tally
from emcfsys_engine.shards.task import main, tell_warning
from emcfsys_engine.shards.work import Asked, Done, Emit, Work, ref_of


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
        self._stages: Stages[Item] = Stages(
            request, book, self._order_of, predictor, tell_warning, asked, each_alone=True
        )

    def run(self, items: Iterator[Item]) -> Iterator[tuple[Item, Done | Exception]]:
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

    def _order_of(self, item: Item) -> Order:
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
