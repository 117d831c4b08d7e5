"""Shapes painted over each other: what tests compare masks with."""

from collections.abc import Iterable

import numpy as np

from emcfsys_engine.annotations.draw import paint
from emcfsys_engine.annotations.shapes import Shape


def rasterise(
    shapes: Iterable[tuple[Shape, int]], size_HW: tuple[int, int], *, background: int
) -> np.ndarray:
    """Return class ids; later shapes lie over earlier ones. Shapes: uint8 H×W."""
    canvas = np.full(size_HW, background, np.uint8)
    for shape, class_id in shapes:
        paint(canvas, shape, class_id)
    return canvas
