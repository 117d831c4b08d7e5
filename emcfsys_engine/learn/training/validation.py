"""A look at the validation images during training: scores, previews, the event and the card."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.images.writers import PngWriter
from emcfsys_engine.learn.device import autocast
from emcfsys_engine.learn.inference.tiles import Tiles
from emcfsys_engine.learn.model_file import with_confidence
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.learn.training.compare import Compared, compare, instance_indices, sources_of
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.losses import Loss
from emcfsys_engine.learn.training.metrics import (
    BOUNDARY_TOLERANCE_PX,
    Scores,
    scores,
)
from emcfsys_engine.learn.training.object_scores import (
    Counts,
    best_settings,
    counts_of,
    grid_counts,
    mean_pq,
    scores_of,
)
from emcfsys_engine.learn.training.setup import TrainingSetup
from emcfsys_engine.model_card import ModelCard, ObjectSettings
from emcfsys_engine.project import UNLABELLED, Project
from emcfsys_engine.run.events import ObjectScores, PreviewSaved, ValidationDone, WarningGiven

_WELL_IOU = 0.6  # from here on a class is found well enough to doubt the labels of others


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What one look at all validation images found."""

    scores: Scores
    per_source: dict[str, Scores]  # by the source's images path
    loss: float  # mean over images
    confidence: tuple[float, ...]  # per image: mean probability of the chosen class
    objects: dict[str, ObjectScores] = field(default_factory=dict)
    settings: ObjectSettings | None = None  # by which objects were told apart, where any were

    def score(self, best_by: str) -> float | None:
        """Return the number that `training.best_by` names."""
        return mean_pq(self.objects) if best_by == "pq" else self.scores.score(best_by)


def validate(
    forward: Callable[[Tensor], Tensor],
    dataset: Dataset,
    loss: Loss | None,
    *,
    device: torch.device,
    tiles: Tiles,
    overlap: float,
    tta: bool = False,
    boundary_px: float = BOUNDARY_TOLERANCE_PX,
    ranks: Ranks | None = None,
    on_image: Callable[[int, Tensor], None] | None = None,
    merged: Callable[[Tensor], Tensor] | None = None,
    settings: ObjectSettings | None = None,
) -> Validation:
    """Predict every image whole, tiled and without augmentation, and compare.

    Losses and counts are added up band by band on the device: of an image it holds labels, classes
    and two rows of tiles. Where that is too much, `tiles` are made fewer and then smaller.
    `boundary_px`: how far a predicted boundary may lie from the true one.
    `ranks`: the processes that share the images out; each gets the result of all.
    `on_image` gets each image's number and its predicted class indices. `merged` turns the
    channels of an ensemble into those of the classes. Objects are told apart by `settings`; None:
    by those that do it best here.
    Shapes: `forward` is given N×C×T×T float32 and gives N×K×T×T of any float type; `merged` is
    given K×h×W float32; `on_image` H×W uint8.
    """
    ranks = ranks or Ranks()
    found = compare(
        forward,
        dataset,
        ranks.block(len(dataset)),
        loss,
        device=device,
        tiles=tiles,
        overlap=overlap,
        tta=tta,
        boundary_px=boundary_px,
        on_image=on_image,
        merged=merged,
    )
    classes = instance_indices(dataset.project)
    if classes and settings is None:
        grid = torch.from_numpy(grid_counts(found.objects.values(), classes))
        settings = best_settings(ranks.sum(grid).numpy())
    counted = {} if settings is None else counted_in(found, dataset.project, settings)
    told = ranks.gathered_bytes(msgspec.json.encode(counted))
    counts = {k: v for one in told for k, v in msgspec.json.decode(one, type=ObjectCounts).items()}
    total = Compared(
        ranks.sum(found.counts_SCC), ranks.sum(found.edges_SC4), ranks.sum(found.numbers_3I), {}
    )
    return validation_of(total, dataset.project, dataset.samples, counts, settings)


ObjectCounts = dict[int, tuple[Counts, ...]]  # of images, by their number: class by class


def counted_in(found: Compared, project: Project, settings: ObjectSettings) -> ObjectCounts:
    """Return what is counted of objects in each image that was compared."""
    classes = instance_indices(project)
    return {index: counts_of(one, settings, classes) for index, one in found.objects.items()}


def validation_of(
    found: Compared,
    project: Project,
    samples: Sequence[Sample],
    counts: ObjectCounts,
    settings: ObjectSettings | None,
) -> Validation:
    """Return the scores of what was found in all images of a data set."""
    counts_SCC, edges_SC4, numbers_3I, _ = found
    total = scores_of_all(counts_SCC, edges_SC4, None, project, sources_of(samples), counts)
    losses = numbers_3I[0][numbers_3I[1] > 0].tolist()
    return Validation(
        scores=total.scores,
        per_source=total.per_source,
        loss=sum(losses) / len(losses) if losses else 0.0,
        confidence=tuple(numbers_3I[2].tolist()),
        objects=total.objects,
        settings=settings if total.objects else None,
    )


class ScoresOfAll(NamedTuple):
    """Scores of all images together; `per_source` by the source's images path."""

    scores: Scores
    per_source: dict[str, Scores]
    objects: dict[str, ObjectScores]


def scores_of_all(
    counts_SCC: Tensor,
    edges_SC4: Tensor,
    middles_SC4: Tensor | None,
    project: Project,
    sources: Sequence[int],
    counts: ObjectCounts,
) -> ScoresOfAll:
    """Return the scores of what was counted in all images.

    Shapes: S×C×C, S×C×4 of edges and middle lines, all int64; S are the `sources`, each by its
    index.
    """
    names = project.class_names
    places = [project.data[source].images for source in sources]
    of_place = {
        place: [index for index, other in enumerate(places) if other == place] for place in places
    }

    def of(chosen: list[int]) -> Scores:
        lines_C4 = None if middles_SC4 is None else middles_SC4[chosen].sum(dim=0)
        pixels_CC, edges_C4 = counts_SCC[chosen].sum(dim=0), edges_SC4[chosen].sum(dim=0)
        return scores(pixels_CC, names, edges_C4, lines_C4)

    return ScoresOfAll(
        of(list(range(len(places)))),
        {place: of(own) for place, own in of_place.items()},
        {
            names[index]: scores_of([counts[image][place] for image in sorted(counts)])
            for place, index in enumerate(instance_indices(project))
            if counts
        },
    )


class Validator:
    """Looks at all validation images with the averaged weights."""

    def __init__(self, setup: TrainingSetup, averaged: SegmentationNetwork, loss: Loss) -> None:
        self._setup = setup
        self._averaged = averaged
        self._loss = loss
        self._device = setup.ranks.device(setup.plan.device)
        self._precision: torch.dtype = getattr(torch, setup.plan.precision)
        self._tiles = Tiles(
            px=setup.plan.tile_px,
            batch=max(1, setup.plan.batch // 2),
            step_px=0 if setup.project.inference.tile_px else averaged.tile_step_px,
        )
        self._found_well = np.full(UNLABELLED + 1, UNLABELLED, np.uint8)  # the others are 255

    def at(self, step: int) -> Validation:
        """Predict every validation image whole, compare, and draw the first ones.

        Several processes share the images out: their scores are those of all images.
        """
        # Batch statistics that each process has of its own share are not what is saved.
        self._setup.ranks.copy_from_first(list(self._averaged.buffers()))
        found = self.through(
            self._averaged, step, lambda index, best_HW: self._draw(step, index, best_HW)
        )
        for index, name in enumerate(self._setup.project.class_names):
            is_well = (found.scores.iou.get(name) or 0.0) >= _WELL_IOU
            self._found_well[index] = index if is_well else UNLABELLED
        return found

    def guesses(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """Return what some images are taken for, by name; 255: no class that is found well yet.

        Shapes: class indices, uint8 H×W.
        """
        found: dict[str, np.ndarray] = {}

        def keep(index: int, best_HW: Tensor) -> None:
            found[dataset.samples[index].name] = self._found_well[best_HW.cpu().numpy()]

        if (self._found_well != UNLABELLED).any():
            self.through(self._averaged, self._setup.card.step, keep, dataset)
        return found

    def through(
        self,
        network: SegmentationNetwork,
        step: int,
        on_image: Callable[[int, Tensor], None] | None = None,
        dataset: Dataset | None = None,
    ) -> Validation:
        """Predict every validation image, or others, with a network of some step, and compare.

        Shapes: what is drawn is H×W uint8.
        """

        def forward(tiles: Tensor) -> Tensor:
            with autocast(self._device, self._precision):
                return network(tiles.contiguous(memory_format=torch.channels_last))

        before = copy.copy(self._tiles)
        with torch.inference_mode():
            found = validate(
                forward,
                self._setup.val if dataset is None else dataset,
                self._loss,
                device=self._device,
                tiles=self._tiles,
                overlap=self._setup.project.inference.overlap,
                ranks=self._setup.ranks,
                on_image=on_image,
            )
        if before != self._tiles:
            message = (
                f"Out of memory in the validation of step {step}: {self._tiles.batch} tiles of "
                f"{self._tiles.px} px at a time from now on"
            )
            self._setup.emit(WarningGiven(message=message))
        return found

    def _draw(self, step: int, index: int, predicted_HW: Tensor) -> None:
        """Write a preview of one of the first validation images; a full disk costs only that."""
        if index >= _MOST_DRAWN or not self._setup.ranks.is_first:
            return
        name, item = self._setup.val.samples[index].name, self._setup.val[index]
        file = self._setup.run.previews_folder / preview_name(step, index + 1, name)
        predicted = predicted_HW.to(torch.uint8).cpu().numpy()
        try:
            write_preview(file, item.image, item.labels, predicted, self._setup.card)
        except OSError as error:
            self._setup.emit(WarningGiven(message=f"No preview of {name}: {error}"))
            return
        place = str(file.relative_to(self._setup.run.folder))
        self._setup.emit(PreviewSaved(step=step, image=name, file=place))


def event_of(
    result: Validation,
    *,
    step: int,
    train_loss: float,
    learning_rate: float,
    images_per_s: float,
    seconds_left: float | None,
    score: float | None,
    is_best: bool,
) -> ValidationDone:
    """Return the event that tells of a validation."""
    found = result.scores
    return ValidationDone(
        step=step,
        train_loss=train_loss,
        val_loss=result.loss,
        mean_iou=found.mean_iou,
        mean_foreground_iou=found.mean_foreground_iou,
        accuracy=found.accuracy,
        iou=found.iou,
        f1=found.f1,
        boundary_f1=found.boundary_f1,
        learning_rate=learning_rate,
        images_per_s=images_per_s,
        seconds_left=seconds_left,
        score=score,
        is_best=is_best,
        source_mean_iou={name: one.mean_iou for name, one in result.per_source.items()},
        objects=result.objects,
    )


def card_at(card: ModelCard, step: int, result: Validation | None = None) -> ModelCard:
    """Return the card of the model as it is at a step, with the scores of its validation."""
    card = msgspec.structs.replace(card, step=step)
    if result is None:
        return card
    found = result.scores
    given: dict[str, float | None] = {
        "mean_iou": found.mean_iou,
        "mean_foreground_iou": found.mean_foreground_iou,
        "accuracy": found.accuracy,
    }
    given |= {f"iou:{name}": value for name, value in found.iou.items()}
    given |= {f"pq:{name}": one.pq for name, one in result.objects.items()}
    given |= {f"ap50:{name}": one.ap50 for name, one in result.objects.items()}
    return msgspec.structs.replace(
        card,
        scores=given,
        statistics=with_confidence(card.statistics, result.confidence),
        objects=result.settings or card.objects,
    )


# Strips of a few validation images: the image, its labels, what was predicted, where it is wrong.
#
# H and W pixels, C channels.

_MOST_DRAWN = 3  # images of the validation set that are drawn
_LONGEST_PX = 256
_ERROR = (220, 50, 47)


def preview_name(step: int, number: int, image: str) -> str:
    """Return a preview's file name: what is not a plain letter in an image's name is dropped.

    `number`: the image's own, as names may differ in nothing else.
    """
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in image)[-50:]
    return f"step-{step:07d}-{number}-{plain}.png"


def write_preview(
    file: Path,
    image_HWC: np.ndarray,
    truth_HW: np.ndarray,
    predicted_HW: np.ndarray,
    card: ModelCard,
) -> None:
    """Write one strip as PNG. Shapes: as `strip_of`. Raises: OSError when the disk is full."""
    strip = strip_of(image_HWC, truth_HW, predicted_HW, card)
    file.parent.mkdir(exist_ok=True)
    writer = PngWriter(file, (strip.shape[0], strip.shape[1]), channels=3, is_smooth=True)
    try:
        writer.write(strip)
        writer.finish()
    except OSError:
        writer.abort()
        raise


def strip_of(
    image_HWC: np.ndarray, truth_HW: np.ndarray, predicted_HW: np.ndarray, card: ModelCard
) -> np.ndarray:
    """Return one strip: image | truth | prediction | error, at most 256 px a panel.

    Shapes: image is H×W×1 or H×W×3 float32, normalised; truth and prediction are H×W uint8 class
            indices, 255 unlabelled; the strip is uint8, three channels.
    """
    stride = max(1, -(-max(truth_HW.shape) // _LONGEST_PX))
    image, truth, predicted = (
        plane[::stride, ::stride] for plane in (image_HWC, truth_HW, predicted_HW)
    )
    shown = (np.clip((image + 2.5) / 5, 0, 1) * 255).astype(np.uint8)
    picture = np.broadcast_to(shown, (*shown.shape[:2], 3))
    table = np.full((256, 3), 90, np.uint8)  # unlabelled: grey
    table[: len(card.colours)] = card.colours
    error = picture // 2
    error[(truth != predicted) & (truth != UNLABELLED)] = _ERROR
    gap = np.full((picture.shape[0], 2, 3), 255, np.uint8)
    panels = [picture, gap, table[truth], gap, table[predicted], gap, error]
    return np.concatenate(panels, axis=1)
