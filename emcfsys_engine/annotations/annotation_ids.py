"""One annotation's shapes to class ids."""

from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.label_values import LabelTable
from emcfsys_engine.annotations.rasterise import rasterise
from emcfsys_engine.annotations.shapes import Annotation, Shape
from emcfsys_engine.errors import AnnotationError


def annotation_ids(
    annotation: Annotation, table: LabelTable, size_HW: tuple[int, int]
) -> np.ndarray:
    """Return the class ids that an annotation's shapes paint.

    Shapes: uint8 H×W.
    Raises: AnnotationError for a label that is no class.
    """
    pairs: list[tuple[Shape, int]] = []
    for shape in annotation.shapes_in(size_HW):
        class_id = table.of_name(shape.label)
        if class_id is None:
            raise unknown_label(annotation.file, shape.label, table)
        pairs.append((shape, class_id))
    return rasterise(pairs, size_HW, background=table.background)


def unknown_label(path: Path, name: str, table: LabelTable) -> AnnotationError:
    """Return the error for a label that is no class, with the nearest that is."""
    near = table.nearest_name(name)
    remedy = f'Did you mean "{near}"? ' if near else ""
    remedy += f'Add it to [classes], or map it under [data.labels]: "{name}" = "…"'
    return AnnotationError(path, f'label "{name}" is no class', remedy)
