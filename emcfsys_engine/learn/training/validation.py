"""A look at the validation images during training: scores, previews, the event and the card."""

import msgspec
import torch
from torch import Tensor

from emcfsys_engine.learn.device import autocast
from emcfsys_engine.learn.model_file import with_confidence
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.learn.training.losses import Loss
from emcfsys_engine.learn.training.previews import MOST, preview_name, write_preview
from emcfsys_engine.learn.training.setup import Parts
from emcfsys_engine.learn.training.validate import Validation, validate
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run.events import PreviewSaved, ValidationDone, WarningGiven


class Look:
    """Looks at all validation images with the averaged weights."""

    def __init__(self, parts: Parts, averaged: SegmentationNetwork, loss: Loss) -> None:
        self._parts = parts
        self._averaged = averaged
        self._loss = loss
        self._device = parts.ranks.device(parts.plan.device)
        self._precision: torch.dtype = getattr(torch, parts.plan.precision)

    def at(self, step: int) -> Validation:
        """Predict every validation image whole, compare, and draw the first ones.

        Several processes share the images out: their scores are those of all images.
        """
        # Batch statistics that each process has of its own share are not what is saved.
        self._parts.ranks.copy_from_first(list(self._averaged.buffers()))

        def forward(tiles: Tensor) -> Tensor:
            with autocast(self._device, self._precision):
                return self._averaged(tiles.contiguous(memory_format=torch.channels_last))

        with torch.inference_mode():
            return validate(
                forward,
                self._parts.val,
                self._loss,
                device=self._device,
                tile_px=self._parts.plan.tile_px,
                overlap=self._parts.project.inference.overlap,
                batch=max(1, self._parts.plan.batch // 2),
                ranks=self._parts.ranks,
                on_image=lambda index, predicted_HW: self._draw(step, index, predicted_HW),
            )

    def _draw(self, step: int, index: int, predicted_HW: Tensor) -> None:
        """Write a preview of one of the first validation images; a full disk costs only that."""
        if index >= MOST or not self._parts.ranks.is_first:
            return
        name, item = self._parts.val.samples[index].name, self._parts.val[index]
        file = self._parts.run.previews_folder / preview_name(step, name)
        predicted = predicted_HW.to(torch.uint8).cpu().numpy()
        try:
            write_preview(file, item.image[..., 0], item.labels, predicted, self._parts.card)
        except OSError as error:
            self._parts.say(WarningGiven(message=f"No preview of {name}: {error}"))
            return
        place = str(file.relative_to(self._parts.run.folder))
        self._parts.say(PreviewSaved(step=step, image=name, file=place))


def event_of(
    result: Validation,
    *,
    step: int,
    train_loss: float,
    learning_rate: float,
    images_per_s: float,
    seconds_left: float,
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
    return msgspec.structs.replace(
        card, scores=given, statistics=with_confidence(card.statistics, result.confidence)
    )
