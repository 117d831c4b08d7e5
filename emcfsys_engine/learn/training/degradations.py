"""Micrographs made worse as microscopes make them, so that a model learns when it fails.

H and W pixels; images are float32 with 0 to 1 between the clip's ends of the micrograph.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy  # its parts are loaded when they are named

from emcfsys_engine.project import UNLABELLED

Pair = tuple[np.ndarray, np.ndarray]  # H×W float32, H×W uint8 class indices or unlabelled
Worse = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], Pair]


class Degradation(NamedTuple):
    """A kind of damage, what it is called, and the strengths that are fitted."""

    kind: str
    apply: Worse
    strengths: tuple[float, ...]


def defocus(image: np.ndarray, labels: np.ndarray, sigma: float, _: np.random.Generator) -> Pair:
    """Blur. Units: `sigma` in px.

    Shapes: H×W float32 and H×W uint8, in and out.
    """
    return scipy.ndimage.gaussian_filter(image, sigma).astype(np.float32), labels


def drift(image: np.ndarray, labels: np.ndarray, length: float, _: np.random.Generator) -> Pair:
    """Smear along the rows, as a stage that moves during the scan. Units: `length` in px.

    Shapes: H×W float32 and H×W uint8, in and out.
    """
    return scipy.ndimage.uniform_filter1d(image, max(1, round(length)), axis=1), labels


def noise(image: np.ndarray, labels: np.ndarray, sigma: float, rng: np.random.Generator) -> Pair:
    """Add what a short dwell time adds. Units: `sigma` in shares of the contrast.

    Shapes: H×W float32 and H×W uint8, in and out.
    """
    return image + rng.normal(0, sigma, image.shape).astype(np.float32), labels


def charging(image: np.ndarray, labels: np.ndarray, size: float, rng: np.random.Generator) -> Pair:
    """Draw bright and dark stripes along the scan. Units: `size` in shares of the contrast.

    Shapes: H×W float32 and H×W uint8, in and out.
    """
    stripes_H1 = scipy.ndimage.gaussian_filter1d(rng.normal(0, 1, (image.shape[0], 1)), 2, axis=0)
    stripes_H1 *= size / max(1e-6, float(stripes_H1.std()))
    return (image + stripes_H1).astype(np.float32), labels


def contrast(image: np.ndarray, labels: np.ndarray, gamma: float, _: np.random.Generator) -> Pair:
    """Bend the grey values; a negative gamma inverts them, too.

    Shapes: H×W float32 and H×W uint8, in and out.
    """
    bent = image.clip(0, 1) ** abs(gamma)
    return (1 - bent if gamma < 0 else bent).astype(np.float32), labels


def saturated(image: np.ndarray, labels: np.ndarray, share: float, _: np.random.Generator) -> Pair:
    """Burn the bright part out. Units: `share` of the pixels.

    Shapes: H×W float32 and H×W uint8, in and out.
    """
    return image.clip(None, float(np.quantile(image, 1 - share))).astype(np.float32), labels


def pixel_size(
    image: np.ndarray, labels: np.ndarray, factor: float, _: np.random.Generator
) -> Pair:
    """Magnify by `factor`, as an image of another pixel size that nobody told of.

    Shapes: H×W float32 and H×W uint8 in; the same out, or less of both where it gets smaller.
    """
    zoomed, values = (
        np.asarray(scipy.ndimage.zoom(plane, factor, order=order, mode="nearest", grid_mode=True))
        for plane, order in ((image, 1), (labels, 0))
    )
    height, width = (min(new, old) for new, old in zip(zoomed.shape, image.shape, strict=True))
    return zoomed[:height, :width], values[:height, :width]


def empty(image: np.ndarray, labels: np.ndarray, size: float, rng: np.random.Generator) -> Pair:
    """Show no specimen: shading and noise; whatever is found is wrong.

    Shapes: H×W float32 and H×W uint8, in and out.
    """
    rough = scipy.ndimage.gaussian_filter(rng.normal(0, 1, image.shape), size)
    made = rough / max(1e-6, float(rough.std())) + rng.normal(0, 0.2, image.shape)
    return made.astype(np.float32), labels


def shuffled(image: np.ndarray, labels: np.ndarray, cells: float, rng: np.random.Generator) -> Pair:
    """Show another specimen: pieces of this one, turned and in another order, blended in pairs.

    Shapes: H×W float32 and H×W uint8, in and out.
    """
    edge = max(8, min(image.shape) // round(cells))
    rows, columns = image.shape[0] // edge, image.shape[1] // edge
    made = image.copy()
    for row in range(rows):
        for column in range(columns):
            y, x = (int(rng.integers(0, n - edge + 1)) for n in image.shape)
            piece = np.rot90(image[y : y + edge, x : x + edge], int(rng.integers(4)))
            place = np.s_[row * edge : (row + 1) * edge, column * edge : (column + 1) * edge]
            made[place] = 0.5 * piece + 0.5 * image[place][::-1]
    return made.astype(np.float32), labels


def info_bar(image: np.ndarray, labels: np.ndarray, share: float, rng: np.random.Generator) -> Pair:
    """Paint the bar of another microscope over the top, with what looks like text in it.

    Shapes: H×W float32 and H×W uint8, in and out.
    """
    rows = max(8, round(share * image.shape[0]))
    bar = np.zeros((rows, image.shape[1]), np.float32)
    bar[rows // 4 : rows // 2] = rng.random((rows // 2 - rows // 4, image.shape[1])) > 0.7
    painted, kept = image.copy(), labels.copy()
    painted[:rows], kept[:rows] = bar, UNLABELLED
    return painted, kept


DEGRADATIONS = (
    Degradation("defocus", defocus, (1.5, 3.0, 6.0)),
    Degradation("noise", noise, (0.15, 0.4, 0.9)),
    Degradation("charging", charging, (0.15, 0.4, 0.8)),
    Degradation("pixel size", pixel_size, (0.5, 2.0, 3.0)),
    Degradation("contrast", contrast, (0.4, 2.5, -1.0)),
    Degradation("empty", empty, (3.0, 12.0)),
    Degradation("drift", drift, (7.0, 15.0)),
    Degradation("saturated", saturated, (0.3, 0.6)),
    Degradation("another specimen", shuffled, (6.0, 16.0)),
    Degradation("info bar", info_bar, (0.1, 0.3)),
)


def rounds() -> Iterator[tuple[Degradation, float]]:
    """Yield each kind at its first strength, then at its second …: any beginning has all kinds."""
    for number in range(max(len(one.strengths) for one in DEGRADATIONS)):
        for one in DEGRADATIONS:
            if number < len(one.strengths):
                yield one, one.strengths[number]
