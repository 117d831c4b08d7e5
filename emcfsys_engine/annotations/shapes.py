"""What people draw: shapes with a label, in pixels of one micrograph."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from emcfsys_engine.annotations.pairing import key_of_name
from emcfsys_engine.errors import AnnotationError


def points_array(path: Path, what: str, points: object) -> np.ndarray:
    """Return points as N×2 floats.

    Raises: AnnotationError when they are not pairs of finite numbers.
    """
    if isinstance(points, Sequence) and not points:
        return np.empty((0, 2))
    array: np.ndarray
    try:
        array = np.array(points, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        what = f"{what} has points that are not pairs of numbers"
        raise AnnotationError(path, what, "Draw it again")
    return array


def last_part(name: object) -> str:
    """Return the file name of a path written on any system: folders in it are never followed."""
    return PurePosixPath(name.replace("\\", "/")).name if isinstance(name, str) else ""


def inner_path(name: object) -> str:
    """Return a relative path with everything that leads elsewhere taken out of it.

    The result is compared with the images that were found; it is never opened.
    """
    if not isinstance(name, str):
        return ""
    parts = name.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..") and ":" not in part)


def size_of(height: object, width: object) -> tuple[int, int] | None:
    """Return (H, W) when both are positive numbers, else None."""
    for side in (height, width):
        if not isinstance(side, (int, float)) or not 0 < side < 1 << 24:
            return None
    return int(height), int(width)  # type: ignore[arg-type]


def mask_from_runs(
    path: Path, what: str, counts: Sequence[int] | np.ndarray, size_HW: tuple[int, int]
) -> np.ndarray:
    """Return the mask of run lengths that begin with zeros and go down the columns, as in COCO.

    Shapes: bool H×W.
    Raises: AnnotationError unless the runs fill exactly this size.
    """
    runs = np.asarray(counts, np.int64)
    height, width = size_HW
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != height * width:
        what = f"{what} has a run-length mask that does not fill {width} × {height} pixels"
        raise AnnotationError(path, what, "Export it again")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def ellipse_ring(
    centre_xy: tuple[float, float], radii_xy: tuple[float, float], degrees: float
) -> np.ndarray:
    """Return an ellipse as a ring of 72 points. Shapes: 72×2 (x, y)."""
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    x, y = radii_xy[0] * np.cos(turn), radii_xy[1] * np.sin(turn)
    tilt = np.deg2rad(degrees)
    return np.stack(
        (
            centre_xy[0] + x * np.cos(tilt) - y * np.sin(tilt),
            centre_xy[1] + x * np.sin(tilt) + y * np.cos(tilt),
        ),
        axis=1,
    )


def box_ring(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Return a rectangle as a ring. Shapes: 4×2 (x, y)."""
    return np.array(((left, top), (right, top), (right, bottom), (left, bottom)), np.float64)


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
