"""The shared annotation files, drawn."""

from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.shapes import Annotation
from tests.annotations.painted import rasterise


def formats(shared_data: Path) -> Path:
    return shared_data / "annotation-formats"


def drawn(annotation: Annotation, size: tuple[int, int]) -> np.ndarray:
    """Paint every shape with 1."""
    return rasterise([(shape, 1) for shape in annotation.shapes_in(size)], size, background=0)
