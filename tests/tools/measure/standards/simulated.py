"""Materials made by chance, whose true numbers are known."""

import math

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.special import ndtri


def voronoi_grains(rng: np.random.Generator, side: int, area_px: float) -> np.ndarray:
    """Return cells around points by chance, numbered from 1; they touch without a boundary."""
    pad = 4 * math.sqrt(area_px)
    num = rng.poisson((side + 2 * pad) ** 2 / area_px)
    points = rng.uniform(-pad, side + pad, (num, 2))
    rows, columns = np.indices((side, side))
    _, nearest = cKDTree(points).query(np.column_stack((rows.ravel(), columns.ravel())))
    return (nearest + 1).reshape(side, side).astype(np.int32)


def voronoi_crossings(area_px: float) -> float:
    """Return the boundaries a line crosses a pixel: 4 √λ / π (Meijering 1953)."""
    return 4 / (math.pi * math.sqrt(area_px))


def blobs(rng: np.random.Generator, side: int, width: float, fraction: float) -> np.ndarray:
    """Return a phase with this fraction: a smooth random field above a level."""
    pad = math.ceil(5 * width)
    noise = rng.standard_normal((side + 2 * pad, side + 2 * pad))
    smooth = gaussian_filter(noise, width, mode="wrap")[pad:-pad, pad:-pad]
    return smooth * (2 * width * math.sqrt(math.pi)) > ndtri(1 - fraction)


def discs(
    rng: np.random.Generator, side: int, radii: np.ndarray, density: float
) -> list[tuple[float, float, float]]:
    """Return centres and radii of discs whose centres lie anywhere around a frame."""
    reach = float(radii.max()) + 1
    num = rng.poisson(density * (side + 2 * reach) ** 2)
    places = rng.uniform(-reach, side + reach, (num, 2))
    return [(y, x, r) for (y, x), r in zip(places, rng.choice(radii, num), strict=True)]
