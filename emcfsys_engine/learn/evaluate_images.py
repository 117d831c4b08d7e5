"""What an evaluation finds in one image, and how that of all images is added up.

One process, several, and tasks on many nodes tell the same of an image, and add it up the same way:
no score depends on who compared what. C classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import msgspec
import torch
from PIL import Image
from torch import Tensor

from emcfsys_engine.dataset.deals import Fingerprint
from emcfsys_engine.dataset.splits import Sample
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
from emcfsys_engine.learn.training.previews import strip_of
from emcfsys_engine.learn.training.validation import ScoresOfAll, scores_of_all
from emcfsys_engine.project import Project
from emcfsys_engine.promises import ImageScore

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
