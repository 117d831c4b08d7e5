"""Predict labelled images whole, tile by tile, and count where masks and truth agree.

C classes, H and W pixels, S sources.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.learn.faults import free_cached_memory, is_out_of_memory
from emcfsys_engine.learn.inference.evidence import Evidence
from emcfsys_engine.learn.inference.objects import basins_of
from emcfsys_engine.learn.inference.tiles import ImageRows, Place, Tiles, bands_of
from emcfsys_engine.learn.training.dataset import Dataset, TrainingItem
from emcfsys_engine.learn.training.losses import Loss
from emcfsys_engine.learn.training.metrics import (
    boundary_counts,
    confusion_matrix,
    middle_line_counts,
)
from emcfsys_engine.learn.training.object_scores import Overlap, overlap_of
from emcfsys_engine.project import UNLABELLED, Project


class Compared(NamedTuple):
    """What was found in some images; that of several processes is added up.

    Shapes: counts S×C×C and edges S×C×4 of each source, int64; 3×I float64: loss, whether any, and
    confidence of each of all I images, 0 for those that others looked at.
    """

    counts_SCC: Tensor
    edges_SC4: Tensor
    numbers_3I: Tensor
    objects: dict[int, Overlap]  # by the image's number


def compare(
    forward: Callable[[Tensor], Tensor],
    dataset: Dataset,
    indices: Iterable[int],
    loss: Loss | None,
    *,
    device: torch.device,
    tiles: Tiles,
    overlap: float,
    tta: bool,
    boundary_px: float,
    on_image: Callable[[int, Tensor], None] | None = None,
    merged: Callable[[Tensor], Tensor] | None = None,
) -> Compared:
    """Predict some images of a data set and compare; the parameters are those of `validate`.

    Shapes: those of `validate`, dtypes as well.
    """
    names, sources = dataset.project.class_names, sources_of(dataset.samples)
    found = Compared(
        torch.zeros(len(sources), len(names), len(names), dtype=torch.int64),
        torch.zeros(len(sources), len(names), 4, dtype=torch.int64),
        torch.zeros(3, len(dataset), dtype=torch.float64),
        {},
    )
    for index, one in each_compared(
        forward,
        dataset,
        indices,
        loss,
        device=device,
        tiles=tiles,
        overlap=overlap,
        tta=tta,
        boundary_px=boundary_px,
        merged=merged,
    ):
        if on_image is not None:
            on_image(index, one.best_HW)
        source = sources.index(dataset.samples[index].source)
        found.counts_SCC[source] += one.counts_CC.cpu()
        found.edges_SC4[source] += one.edges_C4.cpu()
        found.numbers_3I[:, index] = one.numbers_3.cpu()
        if one.objects is not None:
            found.objects[index] = one.objects
    return found


def each_compared(
    forward: Callable[[Tensor], Tensor],
    dataset: Dataset,
    indices: Iterable[int],
    loss: Loss | None,
    *,
    device: torch.device,
    tiles: Tiles,
    overlap: float,
    tta: bool,
    boundary_px: float,
    merged: Callable[[Tensor], Tensor] | None = None,
    middle_lines: bool = False,
    evidence: Evidence | None = None,
) -> Iterator[tuple[int, "FoundInImage"]]:
    """Predict some images of a data set; yield their numbers and what was found, in order.

    `middle_lines`: these take a second a megapixel and class. `evidence`: what the networks of
    `forward` are watched by.
    Shapes: `forward` and `merged` as in `validate`, dtypes as well.
    """
    num_classes = len(dataset.project.class_names)
    classes = instance_indices(dataset.project)
    return _looked_at(
        forward,
        dataset,
        indices,
        lambda item: _Comparison(item, loss, num_classes, boundary_px, device, classes),
        tiles=tiles,
        overlap=overlap,
        tta=tta,
        merged=merged or (lambda logits: logits),
        middle_lines=middle_lines,
        evidence=evidence,
    )


def instance_indices(project: Project) -> tuple[int, ...]:
    """Return the channels of the classes whose objects are told apart."""
    return tuple(n for n, name in enumerate(project.class_names) if name in project.instances)


def sources_of(samples: Sequence[Sample]) -> list[int]:
    return sorted({sample.source for sample in samples})


@dataclass(frozen=True, kw_only=True)
class FoundInImage:
    """What was found in one image, on the device; middle lines are on the host.

    Shapes: H×W uint8, C×C int64, C×4 int64, 3 float64, a row a member of an ensemble float64, C×4
    int64.
    """

    best_HW: Tensor  # uint8
    counts_CC: Tensor
    edges_C4: Tensor
    numbers_3: Tensor  # loss, whether any, confidence
    objects: Overlap | None  # on the host
    evidence: Tensor | None  # of how good the mask is
    middles_C4: Tensor | None  # of middle lines, where they were looked for


class _Comparison:
    """Goes through the bands of an image once; what it finds stays on the device."""

    def __init__(
        self,
        item: TrainingItem,
        loss: Loss | None,
        num_classes: int,
        boundary_px: float,
        device: torch.device,
        instances: Sequence[int],  # classes whose objects are told apart
    ) -> None:
        self._instances = instances
        self._planes: list[np.ndarray] = []
        self.item, self.device = item, device
        self.specimen_rows = len(item.labels) - item.info_bar_rows
        self._truth_HW = torch.from_numpy(item.labels).to(device)
        self._best_HW = torch.empty_like(self._truth_HW)
        self._counts_CC = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self._sure = torch.zeros((), dtype=torch.float64, device=device)
        self._running = None if loss is None else loss.running()
        self._num_labelled = 0
        self._boundary_px = boundary_px

    def rows(self, ranges: Sequence[tuple[int, int]], _: tuple[int, int]) -> Iterator[Tensor]:
        """Yield rows of the image, normalised, in all its columns. Shapes: C×h×W."""
        return (self.item.rows_on(first, last, self.device) for first, last in ranges)

    def add(self, first: int, logits_ChW: Tensor) -> None:
        """Compare the next rows."""
        rows = slice(first, first + logits_ChW.shape[1])
        labelled = int((self.item.labels[rows] != UNLABELLED).sum())
        self._num_labelled += labelled
        truth_hW = self._truth_HW[rows].to(torch.int64)
        if self._running is not None:
            target = truth_hW
            if self.item.targets is not None:
                planes = torch.from_numpy(self.item.targets[:, rows]).to(truth_hW)
                target = torch.cat((truth_hW[None], planes))
            self._running.add(logits_ChW, target, labelled)
        logits_ChW, planes_PhW = logits_ChW.tensor_split((len(self._counts_CC),))
        if len(planes_PhW):
            self._planes.append((planes_PhW.sigmoid() * 255).round().to(torch.uint8).cpu().numpy())
        best = logits_ChW.softmax(dim=0).max(dim=0)
        self._best_HW[rows] = best.indices.to(torch.uint8)
        specimen = best.values[: max(0, self.specimen_rows - first)]  # as a prediction counts it
        self._sure += specimen.sum(dtype=torch.float64)
        self._counts_CC += confusion_matrix(best.indices, truth_hW, len(self._counts_CC))

    def found(self, evidence: Evidence | None, *, middle_lines: bool) -> FoundInImage:
        """Return what was found, when all rows are compared."""
        sure, running = self._sure, self._running
        is_told = running is not None and self._num_labelled > 0
        value = running.value() if running is not None and is_told else torch.zeros_like(sure)
        share = sure / max(1, self.specimen_rows * self._truth_HW.shape[1])
        numbers = [value.double(), torch.full_like(sure, float(is_told)), share]
        best_HW, truth_HW, classes = self._best_HW, self._truth_HW, len(self._counts_CC)
        middles = middle_line_counts(best_HW, truth_HW, classes) if middle_lines else None
        return FoundInImage(
            best_HW=best_HW,
            counts_CC=self._counts_CC,
            edges_C4=boundary_counts(best_HW, truth_HW, classes, self._boundary_px),
            numbers_3=torch.stack(numbers),
            objects=self._overlap(best_HW) if self._planes and self.item.truth else None,
            evidence=None if evidence is None else evidence.taken(self),
            middles_C4=middles,
        )

    def _overlap(self, best_HW: Tensor) -> Overlap:
        """Return what predicted and true objects share."""
        assert self.item.truth is not None
        planes = np.concatenate(self._planes, axis=1)
        marks, basins = basins_of(best_HW.cpu().numpy(), planes, self._instances)
        return overlap_of(marks, basins, self.item.truth.ids, self.item.labels, self.item.pixel_nm)


def _looked_at(
    forward: Callable[[Tensor], Tensor],
    dataset: Dataset,
    indices: Iterable[int],
    begin: Callable[[TrainingItem], _Comparison],
    *,
    tiles: Tiles,
    overlap: float,
    tta: bool,
    merged: Callable[[Tensor], Tensor],
    middle_lines: bool,
    evidence: Evidence | None,
) -> Iterator[tuple[int, FoundInImage]]:
    """Yield images' numbers and what was found, in order; tiles of several share a batch.

    Those that do not fit into the device's memory are begun anew, with fewer, then smaller tiles.
    """
    waiting = deque(indices)
    begun: dict[int, _Comparison] = {}

    def images() -> Iterator[tuple[int, ImageRows]]:
        for index in list(waiting):
            one = begun[index] = begin(dataset[index])
            height, width = one.item.labels.shape
            yield index, ImageRows(one.rows, (height, width))

    def see(places: Sequence[Place[int]]) -> None:
        if evidence is not None:
            of = [(begun[one.key], one) for one in places]
            evidence.add_tiles([(it, (it.specimen_rows - at.top) / at.height) for it, at in of])

    while True:
        if evidence is not None:
            evidence.begin()
        try:
            for done in bands_of(forward, images(), tiles, overlap=overlap, tta=tta, seen=see):
                one = begun[done.key]
                if evidence is not None:
                    evidence.add_rows(one, done.first, done.logits, one.specimen_rows)
                one.add(done.first, merged(done.logits))
                if done.is_last:
                    found = begun.pop(done.key).found(evidence, middle_lines=middle_lines)
                    waiting.popleft()
                    yield done.key, found
        except RuntimeError as error:
            if not is_out_of_memory(error) or not tiles.shrink():
                raise
        else:
            return
        finally:
            if evidence is not None:
                evidence.end()
        begun.clear()
        free_cached_memory()  # outside the handler, which holds what did not fit
