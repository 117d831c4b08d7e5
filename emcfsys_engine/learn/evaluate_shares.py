"""An evaluation's images, compared by this process or shared out to several: one a GPU.

Several take images from one list, a few at a time. What they read, find and refuse is added up as
if one had done it; those of a process that dies are done again by others.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue

import torch

from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import DataFaults, RunFailedError
from emcfsys_engine.launch.start import SAFE_PATH
from emcfsys_engine.learn.device import choose_device, choose_threads
from emcfsys_engine.learn.evaluate_images import Comparer, ImageCompared, Measure
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.run.models_used import SameModels, digests_of_models

_MOST_STARTS = 3  # what kills processes again and again is no accident
_PARTS = 4  # of each process's images: who is faster takes more


@dataclass(frozen=True, kw_only=True)
class Task:
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


def compared(task: Task) -> dict[int, ImageCompared]:
    """Return what was found in each image, in order, by its number.

    Raises: DataFaults with every fault of images and labels; RunFailedError when processes die.
    """
    if task.num_processes > 1:
        return _by_several(task)
    comparer = Comparer(task.measure, None if task.gpus is None else min(1, task.gpus))
    dataset = comparer.dataset(task.samples)
    prints = dataset.check()  # all faults are told before the first image is compared
    return dict(comparer.compared(dataset, range(len(task.samples)), prints))


def _by_several(task: Task) -> dict[int, ImageCompared]:
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


_here: list[tuple[Comparer, Dataset]] = []  # of one of several processes: what it began with


def _begin(task: Task, numbers: "SimpleQueue[int]") -> None:
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
