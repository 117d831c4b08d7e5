"""Labelme 3 to 6 and X-AnyLabeling: polygons, boxes, circles, lines, points and masks."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from emcfsys_engine import any_names
from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.shapes import (
    Annotation,
    Gathering,
    Shape,
    ShapeKind,
    box_ring,
    last_part,
    mask_from_png,
    outline_of,
    points_array,
    size_of,
    turned,
)
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.files import reading, write_whole
from emcfsys_engine.project import Source
from emcfsys_engine.text import how_many

SUGGESTION_FLAG = "suggestion"
SUGGESTED_BY = "emcfsys"
_KINDS: Mapping[str, ShapeKind] = {
    "polygon": "polygon",
    "rectangle": "rectangle",
    "circle": "circle",
    "line": "line",
    "linestrip": "linestrip",
    "point": "point",
    "points": "point",
    "mask": "bitmap",
    "oriented_rectangle": "polygon",  # Labelme 6: four points, drawn as a polygon
    "rotation": "polygon",  # X-AnyLabeling: the four corners, turned already
    "quadrilateral": "polygon",
}
_FEWEST_POINTS: Mapping[ShapeKind, int] = {
    "polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "point": 1, "bitmap": 2,
}  # fmt: skip


def is_labelme(document: object) -> bool:
    """Tell whether a JSON document is Labelme's."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("shapes"), list)
        and ("imagePath" in document or "imageData" in document or "version" in document)
    )


def read(path: Path, document: Mapping[str, Any]) -> list[Annotation]:
    """Return the one annotation of a Labelme file.

    `imagePath` names the image only; no file is ever opened because of it, and an `imageData`
    inside is not needed. Flags do not change what a pixel is, and are not kept; group_id says which
    shapes are parts of one object.
    Raises: AnnotationError for a shape that cannot be understood.
    """
    found = Gathering()
    for number, item in enumerate(document["shapes"], start=1):
        if not isinstance(item, dict):
            raise AnnotationError(
                path, f"shape {number} is not an object", "Save it in Labelme again"
            )
        _shape(path, number, item, found)
    return [
        Annotation(
            file=path,
            format=f"Labelme {document.get('version') or '3'}",
            image_name=last_part(document.get("imagePath")),
            size_HW=size_of(document.get("imageHeight"), document.get("imageWidth")),
            shapes=tuple(found.shapes),
            skipped=tuple(found.skipped),
            is_suggestion=_is_flagged(document),
        )
    ]


def _is_flagged(document: Mapping[str, Any]) -> bool:
    flags = document.get("flags")
    return isinstance(flags, dict) and flags.get(SUGGESTION_FLAG) is True


def _shape(path: Path, number: int, item: Mapping[str, Any], found: Gathering) -> None:
    label = str(item.get("label") or "")
    said = str(item.get("shape_type") or "polygon")
    what = f"shape {number} ({label})"
    kind = _KINDS.get(said)
    points = points_array(path, what, item.get("points") or [])
    if kind is None:
        why = f"{what} is of the kind {said}, which is not drawn"
        found.skip(label, why, outline=outline_of(label, points), in_doubt=not len(points))
        return
    if len(points) < _FEWEST_POINTS[kind]:
        # A polygon of two points has no area: nothing is lost with it.
        found.skip(
            label,
            f"{what} is a {said} of {how_many(len(points), 'point')}",
            in_doubt=not len(points),
        )
        return
    if kind == "bitmap":
        bitmap = mask_from_png(path, what, item.get("mask"))
        left, top = np.rint(np.clip(points.min(axis=0), -1e9, 1e9)).astype(int)
        origin = (int(left), int(top))
        shape = Shape(label=label, kind=kind, bitmap=bitmap, origin_xy=origin)
    elif kind == "rectangle":
        shape = _rectangle(label, points, item)
    else:
        shape = Shape(label=label, kind=kind, rings=(points,))
    group = item.get("group_id")
    found.draw(shape if group is None else replace(shape, group=str(group)))


def _rectangle(label: str, points: np.ndarray, item: Mapping[str, Any]) -> Shape:
    """Return a box; X-AnyLabeling writes four corners, or turns a box by degrees."""
    degrees = item.get("rotation")
    low, high = points.min(axis=0), points.max(axis=0)
    upright = all((np.isclose(point, low) | np.isclose(point, high)).all() for point in points)
    if isinstance(degrees, (int, float)) and math.isfinite(degrees) and degrees % 360 and upright:
        ring = turned(box_ring(*low, *high), degrees)
        return Shape(label=label, kind="polygon", rings=(ring,))
    if len(points) == 4 and not upright:  # the corners are turned already
        return Shape(label=label, kind="polygon", rings=(points,))
    return Shape(label=label, kind="rectangle", rings=(points,))


VERSION = "5.5.0"  # of Labelme, whose format this is


def write_labelme(
    file: Path,
    shapes: Sequence[Shape],
    size_HW: tuple[int, int],
    image: Path,
    *,
    suggested_by: Mapping[str, Any] | None = None,
) -> None:
    """Write the polygons of one image; imagePath leads from the file to the image.

    `suggested_by`: what model they are of; Labelme shows the flag, and keeps both.
    Units: points are rounded to a hundredth of a pixel.
    """
    document: dict[str, Any] = {
        "version": VERSION,
        "flags": {SUGGESTION_FLAG: True} if suggested_by else {},
        **({SUGGESTED_BY: {**suggested_by, "digest": ""}} if suggested_by else {}),
        "shapes": [_written_shape(shape) for shape in shapes],
        "imagePath": Path(os.path.relpath(image, file.parent)).as_posix(),
        "imageData": None,
        "imageHeight": size_HW[0],
        "imageWidth": size_HW[1],
    }
    if suggested_by:
        document[SUGGESTED_BY]["digest"] = _digest_of(document)
    write_whole(file, any_names.for_others(document, indent=1))


def read_suggestion(content: bytes) -> Mapping[str, Any] | None:
    """Return what a suggestion says of its model; None: it is not as `write_labelme` wrote it."""
    try:
        document = json.loads(content)
        said = document[SUGGESTED_BY]
        whole = any_names.for_others(document, indent=1)
        return said if whole == content and said["digest"] == _digest_of(document) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _digest_of(document: Mapping[str, Any]) -> str:
    """Return the digest of a document whose own digest is empty."""
    bare = {**document, SUGGESTED_BY: {**document[SUGGESTED_BY], "digest": ""}}
    return hashlib.blake2b(any_names.for_others(bare, indent=1), digest_size=16).hexdigest()


def _written_shape(shape: Shape) -> dict[str, Any]:
    return {
        "label": shape.label,
        "points": [[round(float(x), 2), round(float(y), 2)] for x, y in shape.points],
        "group_id": int(shape.group) if shape.group else None,
        "description": "",
        "shape_type": "polygon",
        "flags": {},
        "mask": None,
    }


# Suggestions: Labelme files that a model filled in, in the folder where people draw.
#
# They are no labels until a person saved them. Such a file holds the digest of itself: saved by
# any tool, changed or not, it is another, and a person's from then on; copied it stays what it is.


class SuggestedBy(msgspec.Struct, frozen=True, kw_only=True):
    """What a suggestion says of its model."""

    model: str = ""
    score: float | None = None


def untouched(found: Mapping[Path, tuple[Annotation, ...]]) -> dict[Path, SuggestedBy]:
    """Return those of some annotation files that are suggestions nobody saved yet.

    Raises: AnnotationError for one that cannot be asked.
    """
    flagged = (path for path, every in found.items() if any(one.is_suggestion for one in every))
    return {path: by for path in flagged if (by := model_of(path)) is not None}


def model_of(file: Path) -> SuggestedBy | None:
    """Return what a suggestion says of its model; None: a person saved the file, or it is none.

    Raises: AnnotationError for a file whose disk fails: a model's outlines would be a person's.
    """
    try:
        with reading(file) as stream:
            said = read_suggestion(stream.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AnnotationError(file, f"cannot be read: {error.strerror}", "Try again") from None
    try:
        return None if said is None else msgspec.convert(said, SuggestedBy)
    except msgspec.MsgspecError:
        return SuggestedBy()


def waiting_suggestions(source: Source, folder: Path) -> dict[Path, SuggestedBy]:
    """Return the suggestions of a [[data]] table that no person saved yet, and their models.

    Raises: AnnotationError for one that cannot be asked.
    """
    if source.annotations is None:
        return {}
    return untouched(find_annotations(source.annotations, folder, [], []))
