"""What people draw: shapes with a label, in pixels of one micrograph."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from emcfsys_engine.annotations.pairing import key_of_name

# polygon … point are drawn as Labelme draws them (a coordinate is a pixel's centre, the outline is
# filled); rings hold for all other tools (a coordinate is a pixel's corner, even-odd inside).
ShapeKind = Literal[
    "polygon", "rectangle", "circle", "line", "linestrip", "point", "bitmap", "rings"
]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One drawn shape.

    Shapes: points are N×2 (x, y); rings are several of them; bitmap is a bool H×W at origin (x, y).
    Units:  pixels.
    """

    label: str
    kind: ShapeKind
    rings: tuple[np.ndarray, ...] = ()  # one for all kinds but "rings", where holes follow
    bitmap: np.ndarray | None = None
    origin_xy: tuple[int, int] = (0, 0)

    @property
    def points(self) -> np.ndarray:
        """The first ring."""
        return self.rings[0]


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """Every shape of one micrograph, in drawing order: later ones lie over earlier ones."""

    file: Path
    format: str  # "Labelme 5.7.0", "COCO" …
    image_name: str  # as the file says it; only its last part is ever used to find an image
    size_HW: tuple[int, int] | None  # as the file says it
    shapes: tuple[Shape, ...]
    notes: tuple[str, ...] = ()  # what was skipped and why
    plane: int | None = None  # of a stack, when the file says so
    relative: bool = False  # points are fractions of the image's size (YOLO)

    def shapes_in(self, size_HW: tuple[int, int]) -> tuple[Shape, ...]:
        """Return the shapes in pixels of an image of this size."""
        if not self.relative:
            return self.shapes
        scale = np.array((size_HW[1], size_HW[0]), np.float64)
        return tuple(
            replace(shape, rings=tuple(ring * scale for ring in shape.rings))
            for shape in self.shapes
        )

    @property
    def key(self) -> tuple[str, int | None]:
        """What its image is called below the source's folder, without extension; and the plane."""
        return key_of_name(self.image_name, self.plane)
