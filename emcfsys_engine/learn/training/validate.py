"""Compare a network with the labels of whole images: one confusion matrix over a data set.

C channels or classes, H and W pixels, S sources, I images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from emcfsys_engine.learn.inference.tiles import logit_bands
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.losses import Loss
from emcfsys_engine.learn.training.metrics import (
    BOUNDARY_TOLERANCE_PX,
    Scores,
    boundary_counts,
    confusion_matrix,
    scores,
)
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
    boundary_px: float = BOUNDARY_TOLERANCE_PX,
    ranks: Ranks | None = None,
    on_image: Callable[[int, Tensor], None] | None = None,
    merged: Callable[[Tensor], Tensor] | None = None,
) -> Validation:
    """Predict every image whole, tiled and without augmentation, and compare.

    `boundary_px`: how far a predicted boundary may lie from the true one.
    `ranks`: the processes that share the images out; each gets the result of all.
    `on_image` gets each image's number and its predicted class indices, H×W. `merged` turns the
    channels of an ensemble into those of the classes.
    """
    ranks = ranks or Ranks()
    names = dataset.project.class_names
    sources = sorted({sample.source for sample in dataset.samples})
    counts_SCC = torch.zeros(len(sources), len(names), len(names), dtype=torch.int64)
    edges_SC4 = torch.zeros(len(sources), len(names), 4, dtype=torch.int64)
    found_3I = torch.zeros(3, len(dataset), dtype=torch.float64)  # loss, whether any, confidence
    for index in ranks.block(len(dataset)):
        item = dataset[index]
        image_CHW = torch.from_numpy(item.image).movedim(-1, 0).to(device)
        bands = logit_bands(
            forward, image_CHW, tile_px=tile_px, overlap=overlap, batch=batch, tta=tta
        )
        logits_CHW = torch.cat([merged(band) if merged else band for _, band in bands], dim=1)
        truth_HW = torch.from_numpy(item.labels).to(device, torch.int64)
        if loss is not None and bool((truth_HW != UNLABELLED).any()):
            found_3I[0, index] = float(loss(logits_CHW[None], truth_HW[None]))
            found_3I[1, index] = 1
        best = logits_CHW.softmax(dim=0).max(dim=0)
        found_3I[2, index] = float(best.values.mean())
        if on_image is not None:
            on_image(index, best.indices)
        counted = confusion_matrix(best.indices, truth_HW, len(names))
        edges = boundary_counts(best.indices, truth_HW, len(names), boundary_px)
        source = sources.index(dataset.samples[index].source)
        counts_SCC[source] += counted.cpu()
        edges_SC4[source] += edges.cpu()
    counts_SCC, edges_SC4, found_3I = (
        ranks.sum(each) for each in (counts_SCC, edges_SC4, found_3I)
    )
    losses = found_3I[0][found_3I[1] > 0].tolist()
    places = [dataset.project.data[source].images for source in sources]
    of_place = {
        place: [index for index, other in enumerate(places) if other == place] for place in places
    }
    return Validation(
        scores=scores(counts_SCC.sum(dim=0), names, edges_SC4.sum(dim=0)),
        per_source={
            place: scores(counts_SCC[own].sum(dim=0), names, edges_SC4[own].sum(dim=0))
            for place, own in of_place.items()
        },
        loss=sum(losses) / len(losses) if losses else 0.0,
        confidence=tuple(found_3I[2].tolist()),
    )
