"""How common each class is where most pixels are unlabelled: by what the network sees in them.

People draw more of what is rare: the labelled pixels say little about how much of each class an
image holds, and a network that is taught by them alone sees the rare classes everywhere.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from emcfsys_engine.learn.networks.network import SegmentationNetwork

_TURNS = 50
_LEAST = 1e-4
_EVERY_PX = 4  # neighbours tell the same


def em_shares(probabilities_NC: np.ndarray, taught_C: np.ndarray) -> np.ndarray:
    """Return how common the classes are among pixels, from a network that was taught other shares.

    `taught_C`: the share of each class in what it was taught, weights included; of classes that
    were not taught nothing is known, and they get none.
    Shapes: N×C float, C; the result is C, and sums to 1.
    Source: Saerens et al. 2002 (Neural Computation 14:21), expectation maximisation.
    """
    taught = np.maximum(taught_C, _LEAST) / np.maximum(taught_C, _LEAST).sum()
    shares = taught.copy()
    for _ in range(_TURNS):
        weighed = probabilities_NC * (shares / taught)
        weighed /= np.maximum(weighed.sum(axis=1, keepdims=True), 1e-12)
        shares = weighed.mean(axis=0)
    return shares


def seen_in(network: SegmentationNetwork, images: Tensor) -> np.ndarray:
    """Return the probabilities of the classes in every fourth row and column of some images.

    Shapes: N×C×M×M in, P×K float64 out.
    """
    with torch.inference_mode():
        logits = network(images)[:, :, ::_EVERY_PX, ::_EVERY_PX].float()
        found = logits.softmax(dim=1).movedim(1, -1).flatten(0, 2)
    return found.cpu().numpy().astype(np.float64)


def weights_for(shares: Sequence[float] | np.ndarray, labelled: np.ndarray) -> tuple[float, ...]:
    """Return what a pixel of each class counts, so that all of a class count as √share.

    `labelled`: the share of each class among the labelled pixels; where that is its share, the
    weight is 1/√share: a class of 1 % counts ten times, not a hundred.
    """
    wanted = np.sqrt(np.maximum(shares, _LEAST))
    raw = wanted / np.maximum(labelled, _LEAST)
    mean = float(np.dot(raw, labelled)) or 1.0
    return tuple(round(min(10.0, float(weight) / mean), 4) for weight in raw)
