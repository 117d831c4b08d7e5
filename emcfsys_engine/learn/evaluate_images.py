"""What an evaluation finds in one image, and how that of all images is added up.

One process, several, and tasks on many nodes tell the same of an image, and add it up the same way:
no score depends on who compared what. C classes.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from io import BytesIO
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import msgspec
import torch
from PIL import Image
from torch import Tensor

from emcfsys_engine.dataset.deals import Fingerprint
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import DataFaults, RunFailedError
from emcfsys_engine.launch.start import SAFE_PATH
from emcfsys_engine.learn.device import choose_device, choose_threads
from emcfsys_engine.learn.inference.expected import expected
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.training.compare import (
    FoundInImage,
    each_compared,
    instance_indices,
)
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.metrics import scores
from emcfsys_engine.learn.training.object_scores import Counts, counts_of
from emcfsys_engine.learn.training.validation import ScoresOfAll, scores_of_all, strip_of
from emcfsys_engine.project import Project
from emcfsys_engine.promises import ImageScore
from emcfsys_engine.run.models_used import SameModels, digests_of_models

_Rows = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How models are compared with labels: what the numbers depend on beside the images."""

    models: tuple[Path, ...]
    project: Project
    tta: bool
    overlap: float
    boundary_px: float
    middle_lines: bool = False


class ImageCompared(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one image: whole numbers, and what is told of it alone.

    Shapes: pixels C×C (rows: truth), edges and middle lines C×4.
    """

    source: int  # of the project: index of its [[data]] table
    pixels: _Rows
    edges: _Rows
    middles: _Rows = ()  # empty: they were not looked for
    objects: tuple[Counts, ...] | None = None  # class by class; None: none are told apart here
    score: ImageScore
    digest: str  # of its grey values: the same under whatever name it lies; empty: all are alike


class Comparer:
    """Models in use, which compares images with their labels."""

    def __init__(self, measure: Measure, gpus: int | None) -> None:
        self._measure = measure
        self.predictor = Predictor.of(
            measure.models, tta=measure.tta, overlap=measure.overlap, gpus=gpus
        )
        self._settings = self.predictor.card.objects
        self._classes = instance_indices(measure.project)

    def dataset(self, samples: Sequence[Sample], processes: int = 1) -> Dataset:
        """Return images as these models read them."""
        predictor = self.predictor
        return Dataset(
            samples,
            self._measure.project,
            predictor.normaliser,
            processes=processes,
            channels=predictor.channels,
        )

    def one(self, sample: Sample) -> ImageCompared:
        """Read one image and compare it.

        Raises: DataFaults.
        """
        dataset = self.dataset([sample])
        ((_, found),) = self.compared(dataset, [0], dataset.check())
        return found

    def compared(
        self, dataset: Dataset, indices: Sequence[int], prints: Mapping[str, Fingerprint]
    ) -> Iterator[tuple[int, ImageCompared]]:
        """Yield the numbers of images and what was found in each, in order."""
        # Batches hold tiles of one image: who shared them would show in the last digits. Only a
        # GPU is faster with more of them.
        alone = self.predictor.device.type == "cpu"
        for group in [[index] for index in indices] if alone else [indices]:
            with torch.inference_mode():
                for index, found in self._looked_at(dataset, group):
                    sample = dataset.samples[index]
                    yield index, self._told(sample, found, prints[sample.name].image)

    def strip(self, sample: Sample) -> bytes:
        """Predict one image and draw it beside its labels and where these differ, as PNG.

        Raises: DataFaults.
        """
        dataset = self.dataset([sample])
        with torch.inference_mode():
            ((_, found),) = self._looked_at(dataset, [0])
        item, predicted = dataset[0], found.best_HW.to(torch.uint8).cpu().numpy()
        content = BytesIO()
        strip = strip_of(item.image, item.labels, predicted, self.predictor.card)
        Image.fromarray(strip).save(content, "PNG")
        return content.getvalue()

    def _looked_at(
        self, dataset: Dataset, indices: Sequence[int]
    ) -> Iterator[tuple[int, FoundInImage]]:
        measure, predictor = self._measure, self.predictor
        return each_compared(
            predictor.forward,
            dataset,
            indices,
            None,
            device=predictor.device,
            tiles=predictor.tiles,
            overlap=measure.overlap,
            tta=measure.tta,
            boundary_px=measure.boundary_px,
            merged=predictor.merged,
            middle_lines=measure.middle_lines,
            evidence=predictor.evidence,
        )

    def _told(self, sample: Sample, found: FoundInImage, digest: str) -> ImageCompared:
        objects = found.objects
        return ImageCompared(
            source=sample.source,
            pixels=_rows(found.counts_CC),
            edges=_rows(found.edges_C4),
            middles=() if found.middles_C4 is None else _rows(found.middles_C4),
            objects=None if objects is None else counts_of(objects, self._settings, self._classes),
            score=self._score(sample.name, found),
            digest=digest,
        )

    def _score(self, name: str, found: FoundInImage) -> ImageScore:
        names = self._measure.project.class_names
        true = scores(found.counts_CC, names)
        one = ImageScore(image=name, iou=true.mean_iou, class_iou=true.iou)
        if found.evidence is None:
            return one
        told = expected(self.predictor.trusts, found.evidence.cpu().numpy(), names)
        if told is None:
            return one
        return msgspec.structs.replace(
            one,
            expected=told.iou,
            low=told.low,
            high=told.high,
            reason=told.reason,
            class_expected=told.classes,
        )


def _rows(counts: Tensor) -> _Rows:
    return tuple(map(tuple, counts.cpu().tolist()))


def added(project: Project, found: Mapping[int, ImageCompared]) -> ScoresOfAll:
    """Return the scores of all images, by their numbers: whoever compared them."""
    sources = sorted({one.source for one in found.values()})
    places = {source: place for place, source in enumerate(sources)}

    def total(rows_of: Callable[[ImageCompared], _Rows]) -> Tensor:
        names = project.class_names
        first = next(iter(found.values()))
        sums = torch.zeros(len(sources), len(names), len(rows_of(first)[0]), dtype=torch.int64)
        for one in found.values():
            sums[places[one.source]] += torch.tensor(rows_of(one))
        return sums

    has_middles = all(one.middles for one in found.values())
    return scores_of_all(
        total(lambda one: one.pixels),
        total(lambda one: one.edges),
        total(lambda one: one.middles) if has_middles else None,
        project,
        sources,
        {number: one.objects for number, one in found.items() if one.objects is not None},
    )


# An evaluation's images, compared by this process or shared out to several: one a GPU.
#
# Several take images from one list, a few at a time. What they read, find and refuse is added up
# as if one had done it; those of a process that dies are done again by others.

_MOST_STARTS = 3  # what kills processes again and again is no accident
_PARTS = 4  # of each process's images: who is faster takes more


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """Which images are compared, how, and where. `gpus`: one process each."""

    measure: Measure
    samples: tuple[Sample, ...]
    gpus: int | None = None
    processes: int = 1

    @property
    def num_processes(self) -> int:
        """How many processes share the images out."""
        return min(self.gpus or self.processes, len(self.samples))


@dataclass(kw_only=True)
class _Part:
    """What one process found in some images, by their number. Faults: where, what, remedy."""

    found: dict[int, ImageCompared] = field(default_factory=dict)
    faults: list[tuple[str, str, str]] = field(default_factory=list)


def compared(task: EvaluationTask) -> dict[int, ImageCompared]:
    """Return what was found in each image, in order, by its number.

    Raises: DataFaults with every fault of images and labels; RunFailedError when processes die.
    """
    if task.num_processes > 1:
        return _by_several(task)
    comparer = Comparer(task.measure, None if task.gpus is None else min(1, task.gpus))
    dataset = comparer.dataset(task.samples)
    prints = dataset.check()  # all faults are told before the first image is compared
    return dict(comparer.compared(dataset, range(len(task.samples)), prints))


def _by_several(task: EvaluationTask) -> dict[int, ImageCompared]:
    choose_device(task.gpus)  # so many there are, or it is said
    models = task.measure.models
    same = SameModels(files=models, digests=digests_of_models(models))
    every = range(len(task.samples))
    step = max(1, len(every) // (_PARTS * task.num_processes))
    waiting = [every[first : first + step] for first in every[::step]]
    parts: list[_Part] = []
    for _ in range(_MOST_STARTS):
        waiting = _done_by_pool(task, waiting, parts)
        if not waiting:
            break
        print(f"a process of this evaluation ended: {len(waiting)} parts go back", file=sys.stderr)
    else:
        raise RunFailedError("processes of this evaluation end again and again: is memory short?")
    same.refuse_others("this evaluation began", "Evaluate again")  # each process read them
    if faults := [each for part in parts for each in part.faults]:
        raise DataFaults(sorted(DataFaults.of_words(faults).faults, key=str))
    found = {number: one for part in parts for number, one in part.found.items()}
    return {number: found[number] for number in every}


def _done_by_pool(
    task: EvaluationTask, waiting: Sequence[range], parts: list[_Part]
) -> list[range]:
    """Add what processes find in parts of the images; return those left by one that died."""
    left: list[range] = []
    os.environ.update(SAFE_PATH)  # else each runs what lies in the folder we stand in
    context = multiprocessing.get_context("spawn")
    numbers: SimpleQueue[int] = context.SimpleQueue()
    for number in range(task.num_processes):
        numbers.put(number)
    with ProcessPoolExecutor(
        task.num_processes, context, initializer=_begin, initargs=(task, numbers)
    ) as pool:
        under_way = {pool.submit(_look, part): part for part in waiting}
        for future in as_completed(under_way):
            try:
                parts.append(future.result())
            except BrokenProcessPool:
                left.append(under_way[future])
    return left


_here: list[tuple[Comparer, Dataset]] = []  # of one of several processes: what it began with


def _begin(task: EvaluationTask, numbers: "SimpleQueue[int]") -> None:
    """Begin one of several processes: on a GPU of its own, which is all that it sees."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    number = numbers.get()
    if task.gpus:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = given.split(",")[number] if given else str(number)
    threads = task.measure.project.compute.threads
    torch.set_num_threads(choose_threads(threads, task.num_processes))
    comparer = Comparer(task.measure, 1 if task.gpus else 0)
    _here.append((comparer, comparer.dataset(task.samples, task.num_processes)))


def _look(indices: range) -> _Part:
    (comparer, dataset), part = _here[0], _Part()
    try:
        prints = dataset.check(indices)
        part.found = dict(comparer.compared(dataset, indices, prints))
    except DataFaults as several:
        part.faults = several.words()
    return part
