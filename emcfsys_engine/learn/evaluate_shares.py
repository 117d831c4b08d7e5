"""An evaluation's images, compared by this process or shared out to several: one a GPU.

Several take images from one list, a few at a time. What they read, find and refuse is added up as
if one had done it; those of a process that dies are done again by others.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from emcfsys_engine.dataset.deals import Fingerprint
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import DataFaults, RunFailedError
from emcfsys_engine.launch.start import SAFE_PATH
from emcfsys_engine.learn.device import choose_device, choose_threads
from emcfsys_engine.learn.inference.expected import expected
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.training.compare import Compared, compare
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.metrics import scores
from emcfsys_engine.learn.training.validation import Validation, counted_in, validation_of
from emcfsys_engine.model_card import ObjectSettings, read_card
from emcfsys_engine.project import Project
from emcfsys_engine.promises import ImageScore
from emcfsys_engine.run.same_models import SameModels, digests_of_models

_MOST_STARTS = 3  # what kills processes again and again is no accident
_PARTS = 4  # of each process's images: who is faster takes more


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is compared with what."""

    models: tuple[Path, ...]
    project: Project
    samples: tuple[Sample, ...]
    tta: bool
    overlap: float
    boundary_px: float
    middle_lines: bool = False
    gpus: int | None = None
    processes: int = 1
    # Digests of images that the model saw, by their names: where none agrees these are others.
    expected: Mapping[str, str] | None = None

    @property
    def num_processes(self) -> int:
        """How many processes share the images out."""
        return min(self.gpus or self.processes, len(self.samples))

    def are_others(self, prints: Mapping[str, Fingerprint]) -> bool:
        """Tell whether images only have the names of those that the model saw."""
        known = self.expected or {}
        pairs = [(known[name], one.image) for name, one in prints.items() if known.get(name)]
        return bool(pairs) and all(before != now for before, now in pairs)


@dataclass(kw_only=True)
class _Part:
    """What one process found in some images. Faults: where, what, remedy."""

    found: Compared | None = None
    images: dict[int, ImageScore] = field(default_factory=dict)  # by their number
    prints: dict[str, Fingerprint] = field(default_factory=dict)
    faults: list[tuple[str, str, str]] = field(default_factory=list)


class Found(NamedTuple):
    """What an evaluation found; nothing in images that only have the names of the model's own."""

    result: Validation | None
    prints: dict[str, Fingerprint]
    images: tuple[ImageScore, ...]


class _Share:
    """The models and the images in one process."""

    def __init__(self, task: Task, gpus: int | None) -> None:
        self._task = task
        self.predictor = Predictor.of(task.models, tta=task.tta, overlap=task.overlap, gpus=gpus)
        self.dataset = Dataset(
            task.samples,
            task.project,
            self.predictor.normaliser,
            processes=task.num_processes,
            channels=self.predictor.channels,
        )

    def compared(self, indices: Sequence[int]) -> tuple[Compared, dict[int, ImageScore]]:
        """Predict some of the images, and compare; what each is expected to be stands beside it."""
        task, predictor = self._task, self.predictor
        with torch.inference_mode():
            found = compare(
                predictor.forward,
                self.dataset,
                indices,
                None,
                device=predictor.device,
                tiles=predictor.tiles,
                overlap=task.overlap,
                tta=task.tta,
                boundary_px=task.boundary_px,
                merged=predictor.merged,
                middle_lines=task.middle_lines,
                evidence=predictor.evidence,
            )
        return found, {index: self._score(found, index) for index in found.images}

    def _score(self, found: Compared, index: int) -> ImageScore:
        names = self._task.project.class_names
        image, sample = found.images[index], self.dataset.samples[index]
        true = scores(torch.from_numpy(image.counts_CC), names)
        one = ImageScore(image=sample.name, iou=true.mean_iou, class_iou=true.iou)
        if image.evidence_MX is None:
            return one
        told = expected(self.predictor.trusts, image.evidence_MX, names)
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


def compared(task: Task) -> Found:
    """Return what was found, and what tells images apart; nothing is found in others' images.

    Raises: DataFaults with every fault of images and labels; RunFailedError when processes die.
    """
    if task.num_processes > 1:
        return _by_several(task)
    share = _Share(task, None if task.gpus is None else min(1, task.gpus))
    prints = share.dataset.check()
    if task.are_others(prints):
        return Found(None, prints, ())
    found, images = share.compared(range(len(task.samples)))
    settings = share.predictor.card.objects
    return Found(_validation(task, found, settings), prints, tuple(images.values()))


def _validation(task: Task, found: Compared, settings: ObjectSettings) -> Validation:
    """Return the scores of all images; objects are told apart as the model's file says."""
    counts = counted_in(found, task.project, settings)
    return validation_of(found, task.project, task.samples, counts, settings)


def _by_several(task: Task) -> Found:
    choose_device(task.gpus)  # so many there are, or it is said
    card = read_card(task.models[0])
    same = SameModels(files=task.models, digests=digests_of_models(task.models))
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
    prints = {name: one for part in parts for name, one in part.prints.items()}
    prints = {sample.name: prints[sample.name] for sample in task.samples}
    if task.are_others(prints):
        return Found(None, prints, ())
    found = [part.found for part in parts if part.found is not None]
    middles = [one.middles_SC4 for one in found if one.middles_SC4 is not None]
    objects = {image: each for one in found for image, each in one.objects.items()}
    total = Compared(
        torch.stack([one.counts_SCC for one in found]).sum(dim=0),
        torch.stack([one.edges_SC4 for one in found]).sum(dim=0),
        torch.stack([one.numbers_3I for one in found]).sum(dim=0),
        objects,
        torch.stack(middles).sum(dim=0) if middles else None,
    )
    images = {index: one for part in parts for index, one in part.images.items()}
    return Found(
        _validation(task, total, card.objects), prints, tuple(images[n] for n in sorted(images))
    )


def _done_by_pool(task: Task, waiting: Sequence[range], parts: list[_Part]) -> list[range]:
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


_here: list[_Share] = []  # of one of several processes: what it began with


def _begin(task: Task, numbers: "SimpleQueue[int]") -> None:
    """Begin one of several processes: on a GPU of its own, which is all that it sees."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    number = numbers.get()
    if task.gpus:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = given.split(",")[number] if given else str(number)
    torch.set_num_threads(choose_threads(task.project.compute.threads, task.num_processes))
    _here.append(_Share(task, 1 if task.gpus else 0))


def _look(indices: range) -> _Part:
    share, part = _here[0], _Part()
    try:
        part.prints = share.dataset.check(indices)
        part.found, part.images = share.compared(indices)
    except DataFaults as several:
        part.faults = several.words()
    return part
