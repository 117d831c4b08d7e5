"""Compare a network with the labels of whole images: one confusion matrix over a data set.

C channels or classes, H and W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from emcfsys_engine.learn.data import Dataset
from emcfsys_engine.learn.losses import Loss
from emcfsys_engine.learn.metrics import Scores, confusion_matrix, scores
from emcfsys_engine.learn.tiling import logit_bands
from emcfsys_engine.project import UNLABELLED


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What one look at all validation images found."""

    scores: Scores
    per_source: dict[str, Scores]  # by the source's images path
    loss: float  # mean over images
    confidence: tuple[float, ...]  # per image: mean probability of the chosen class


def validate(
    forward: Callable[[Tensor], Tensor],
    dataset: Dataset,
    loss: Loss | None,
    *,
    device: torch.device,
    tile_px: int,
    overlap: float,
    batch: int,
    tta: bool = False,
    on_image: Callable[[int, Tensor], None] | None = None,
    merged: Callable[[Tensor], Tensor] | None = None,
) -> Validation:
    """Predict every image whole, tiled and without augmentation, and compare.

    `on_image` gets each image's number and its predicted class indices, H×W. `merged` turns the
    channels of an ensemble into those of the classes.
    """
    names = dataset.project.class_names
    by_source: dict[str, Tensor] = {}
    losses: list[float] = []
    confidences: list[float] = []
    for index, sample in enumerate(dataset.samples):
        item = dataset[index]
        image_CHW = torch.from_numpy(item.image).movedim(-1, 0).to(device)
        bands = logit_bands(
            forward, image_CHW, tile_px=tile_px, overlap=overlap, batch=batch, tta=tta
        )
        logits_CHW = torch.cat([merged(band) if merged else band for _, band in bands], dim=1)
        truth_HW = torch.from_numpy(item.labels).to(device, torch.int64)
        if loss is not None and bool((truth_HW != UNLABELLED).any()):
            losses.append(float(loss(logits_CHW[None], truth_HW[None])))
        best = logits_CHW.softmax(dim=0).max(dim=0)
        confidences.append(float(best.values.mean()))
        if on_image is not None:
            on_image(index, best.indices)
        counted = confusion_matrix(best.indices, truth_HW, len(names))
        source = dataset.project.data[sample.source].images
        by_source[source] = by_source.get(source, torch.zeros_like(counted)) + counted
    total = torch.stack(list(by_source.values())).sum(dim=0)
    return Validation(
        scores=scores(total, names),
        per_source={name: scores(counted, names) for name, counted in by_source.items()},
        loss=sum(losses) / len(losses) if losses else 0.0,
        confidence=tuple(confidences),
    )
