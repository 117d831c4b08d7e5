"""What people draw: shapes with a label, in pixels of one micrograph."""

import base64
import binascii
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

import imagecodecs
import numpy as np

from emcfsys_engine.annotations.pairing import key_of_name
from emcfsys_engine.annotations.planes import StackPlace
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.text import few, how_many

_LARGEST_MASK_PX = 1 << 30


ShapeKind = Literal[
    "polygon", "rectangle", "circle", "line", "linestrip", "point", "bitmap", "rings"
]
Number = TypeVar("Number", int, str)
_NAMED = 6  # so many skipped shapes are named in a message, the rest counted


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One drawn shape.

    Shapes: rings are N×2 float64 (x, y) each; bitmap is bool H×W, its corner at origin (x, y).
    Units:  pixels.
    """

    label: str
    kind: ShapeKind
    rings: tuple[np.ndarray, ...] = ()  # one for all kinds but "rings", where holes follow
    bitmap: np.ndarray | None = None
    origin_xy: tuple[int, int] = (0, 0)
    full_name: str = ""  # as the file says it, where label is that name without its number
    place: StackPlace | None = None  # of a stack, when the file says so
    width_px: int | None = None  # of a line, when the file says so
    group: str = ""  # shapes of one label and group are parts of one object

    @property
    def points(self) -> np.ndarray:
        """The first ring.

        Shapes: N×2 float64, x before y.
        """
        return self.rings[0]


@dataclass(frozen=True, kw_only=True)
class SkippedShape:
    """A shape that a file holds and that is not drawn: its pixels are nobody's background."""

    why: str  # one line that names it: "shape 3 (pore) is a cuboid, which is not drawn"
    label: str | None  # None: the file does not say which class it is
    outline: Shape | None = None  # its pixels as far as known, which become unlabelled
    in_doubt: bool = False  # where it lies is not known: it may be anywhere in its image
    below: int = 0  # how many shapes of the annotation were drawn before it
    place: StackPlace | None = None


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """Every shape of one micrograph, in drawing order: later ones lie over earlier ones.

    Law: what the file holds is drawn or skipped: `num_read` is the sum of both.
    """

    file: Path
    format: str  # "Labelme 5.7.0", "COCO" …
    image_name: str  # as the file says it; only its last part is ever used to find an image
    size_HW: tuple[int, int] | None  # as the file says it
    image_bytes: int = 0  # how long the image's file was when it was drawn on; 0: not said
    shapes: tuple[Shape, ...]
    skipped: tuple[SkippedShape, ...] = ()
    notes: tuple[str, ...] = ()  # what else there is to say of the file
    unused: str = ""  # why the file says nothing about this image, though it lists it
    relative: bool = False  # points are fractions of the image's size (YOLO)
    is_suggestion: bool = False  # a model's outlines: no labels until a person saved them

    @property
    def num_read(self) -> int:
        """How many shapes the file holds for this image."""
        return len(self.shapes) + len(self.skipped)

    @property
    def is_stacked(self) -> bool:
        """Tell whether any shape says on which plane of a stack it lies."""
        return any(one.place is not None for one in (*self.shapes, *self.skipped))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What must not go without a word: what was skipped, and the file's own notes."""
        if not self.skipped:
            return self.notes
        reasons = list(dict.fromkeys(one.why for one in self.skipped))
        named = few(reasons, _NAMED, between="; ")
        drawn = f"{len(self.shapes)} drawn, {len(self.skipped)} skipped"
        return (f"{how_many(self.num_read, 'shape')}, {drawn}: {named}", *self.notes)

    def in_pixels(self, size_HW: tuple[int, int]) -> "Annotation":
        """Return the same with every shape, skipped ones too, in pixels of an image of a size."""
        if not self.relative:
            return self
        scale = np.array((size_HW[1], size_HW[0]), np.float64)

        def scaled(shape: Shape) -> Shape:
            return replace(shape, rings=tuple(ring * scale for ring in shape.rings))

        return replace(
            self,
            shapes=tuple(map(scaled, self.shapes)),
            skipped=tuple(
                replace(one, outline=scaled(one.outline) if one.outline is not None else None)
                for one in self.skipped
            ),
            relative=False,
        )

    def shapes_in(self, size_HW: tuple[int, int]) -> tuple[Shape, ...]:
        """Return the shapes in pixels of an image of this size."""
        return self.in_pixels(size_HW).shapes

    @property
    def key(self) -> tuple[str, int | None]:
        """What its image is called below the source's folder, without extension."""
        return key_of_name(self.image_name)


@dataclass(kw_only=True)
class Gathering:
    """The shapes of one image while a reader meets them: each is drawn or skipped, none is lost."""

    shapes: list[Shape] = field(default_factory=list)
    skipped: list[SkippedShape] = field(default_factory=list)

    def draw(self, shape: Shape) -> None:
        """Add a shape over those before it; one without a label is of no known class."""
        if shape.label.strip():
            self.shapes.append(shape)
        else:
            number = len(self.shapes) + len(self.skipped) + 1
            self.skip(None, f"shape {number} has no label", outline=shape, place=shape.place)

    def skip(
        self,
        label: str | None,
        why: str,
        *,
        outline: Shape | None = None,
        in_doubt: bool = False,
        place: StackPlace | None = None,
    ) -> None:
        """Add a shape that is not drawn, with its reason."""
        self.skipped.append(
            SkippedShape(
                why=why,
                label=label,
                outline=outline,
                in_doubt=in_doubt,
                below=len(self.shapes),
                place=place,
            )
        )


def points_array(path: Path, what: str, points: object) -> np.ndarray:
    """Return points as an array.

    Shapes: N×2 float64 (x, y) out, in the file's unit.
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


def name_of_number(names: Mapping[Number, str], number: Number) -> str:
    """Return what a file calls a class that it keeps by number, its own words where it has none.

    Where a file names its classes, a number that it does not name is none of them: taken for a
    class's value, as in files without names, it would be any class's.
    """
    if names and number not in names:
        return f"category {number}"
    return names.get(number, str(number))


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

    Shapes: counts are K integers; bool H×W out.
    Raises: AnnotationError unless the runs fill exactly this size.
    """
    runs = np.asarray(counts, np.int64)
    height, width = size_HW
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != height * width:
        what = f"{what} has a run-length mask that does not fill {width} × {height} pixels"
        raise AnnotationError(path, what, "Export it again")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def shape_of_mask(label: str, mask: np.ndarray) -> Shape | None:
    """Return a mask of a whole image as a shape of its set pixels; None where none is set.

    A copy of the small part: hundreds of whole-image masks would not fit into memory.
    Shapes: bool H×W.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()
    return Shape(label=label, kind="bitmap", bitmap=part, origin_xy=(left, top))


def mask_from_png(path: Path, what: str, coded: object) -> np.ndarray:
    """Return the mask of a PNG in base64: where it is not transparent, else not black.

    Shapes: bool H×W.
    Raises: AnnotationError when it is no PNG.
    """
    try:
        png = base64.b64decode(str(coded), validate=True)
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        # A PNG cannot hold more than 1032 pixels a byte and channel: refuse bombs before decoding.
        if png[:4] != b"\x89PNG" or not 0 < width * height < min(_LARGEST_MASK_PX, len(png) * 8400):
            raise ValueError("not a believable PNG")
        pixels = np.asarray(imagecodecs.png_decode(png))
    except (ValueError, binascii.Error, zlib.error, RuntimeError, io.UnsupportedOperation):
        raise AnnotationError(path, f"{what} has a mask that is no PNG", "Draw it again") from None
    if pixels.ndim == 2:
        return pixels > 0
    if pixels.shape[2] in (2, 4) and not pixels[..., -1].all():
        return pixels[..., -1] > 0  # drawn on a transparent picture, in whatever colour
    if pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    return np.any(pixels > 0, axis=2)


def ellipse_ring(
    centre_xy: tuple[float, float], radii_xy: tuple[float, float], degrees: float
) -> np.ndarray:
    """Return an ellipse as a ring of 72 points or more, which strays 0.005 px.

    Shapes: N×2 float64 (x, y).
    """
    largest = min(max(map(abs, radii_xy)), 1e6)  # what is larger is outside every image
    num_points = max(72, math.ceil(math.pi * math.sqrt(largest / (2 * 0.005))))
    turn = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
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
    """Return a rectangle as a ring. Shapes: 4×2 float64 (x, y)."""
    return np.array(((left, top), (right, top), (right, bottom), (left, bottom)), np.float64)


def turned(ring: np.ndarray, degrees: float) -> np.ndarray:
    """Return a ring turned about the middle of its corners, clockwise on the screen.

    Shapes: N×2 (x, y) of any real dtype in, float64 out.
    """
    tilt = np.deg2rad(degrees)
    turn = np.array(((np.cos(tilt), np.sin(tilt)), (-np.sin(tilt), np.cos(tilt))))
    centre = ring.mean(axis=0)
    return (ring - centre) @ turn + centre


def outline_of(label: str, points: np.ndarray) -> Shape | None:
    """Return the pixels that a shape of an unknown kind can cover: the box around its points.

    Shapes: points are N×2 of any real dtype, x before y.
    """
    if not len(points):
        return None
    ring = box_ring(*points.min(axis=0), *points.max(axis=0))
    return Shape(label=label, kind="rings", rings=(ring,))


# polygon … point are drawn as Labelme draws them (a coordinate is a pixel's centre, the outline is
# filled); rings hold for all other tools (a coordinate is a pixel's corner, even-odd inside).
