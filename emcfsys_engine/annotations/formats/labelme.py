"""Labelme 3 to 5: polygons, rectangles, circles, lines, points and masks in one JSON an image."""

import base64
import binascii
import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from emcfsys_engine.annotations.shapes import (
    Annotation,
    Shape,
    ShapeKind,
    last_part,
    points_array,
    size_of,
)
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.files import write_whole

_KINDS: Mapping[str, ShapeKind] = {
    "polygon": "polygon",
    "rectangle": "rectangle",
    "circle": "circle",
    "line": "line",
    "linestrip": "linestrip",
    "point": "point",
    "points": "point",
    "mask": "bitmap",
}
_FEWEST_POINTS: Mapping[ShapeKind, int] = {
    "polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "point": 1, "bitmap": 2,
}  # fmt: skip
_LARGEST_MASK_PX = 1 << 30


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
    inside is not needed. group_id and flags do not change what a pixel is, and are not kept.
    Raises: AnnotationError for a shape that cannot be understood.
    """
    shapes: list[Shape] = []
    notes: list[str] = []
    for number, item in enumerate(document["shapes"], start=1):
        if not isinstance(item, dict):
            raise AnnotationError(
                path, f"shape {number} is not an object", "Save it in Labelme again"
            )
        shape = _shape(path, number, item, notes)
        if shape is not None:
            shapes.append(shape)
    return [
        Annotation(
            file=path,
            format=f"Labelme {document.get('version') or '3'}",
            image_name=last_part(document.get("imagePath")),
            size_HW=size_of(document.get("imageHeight"), document.get("imageWidth")),
            shapes=tuple(shapes),
            notes=tuple(notes),
        )
    ]


def _shape(path: Path, number: int, item: Mapping[str, Any], notes: list[str]) -> Shape | None:
    label = str(item.get("label", ""))
    said = str(item.get("shape_type") or "polygon")
    kind = _KINDS.get(said)
    if kind is None:
        notes.append(f"shape {number} ({label}) is a {said}, which is not drawn")
        return None
    points = points_array(path, f"shape {number} ({label})", item.get("points"))
    if len(points) < _FEWEST_POINTS[kind]:
        notes.append(f"shape {number} ({label}) is a {said} of {len(points)} points: skipped")
        return None
    if kind != "bitmap":
        return Shape(label=label, kind=kind, rings=(points,))
    bitmap = _mask(path, number, item.get("mask"))
    left, top = np.rint(np.clip(points.min(axis=0), -1e9, 1e9)).astype(int)
    return Shape(label=label, kind=kind, bitmap=bitmap, origin_xy=(int(left), int(top)))


def _mask(path: Path, number: int, coded: object) -> np.ndarray:
    try:
        png = base64.b64decode(str(coded), validate=True)
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        # A PNG cannot hold more than 1032 pixels a byte and channel: refuse bombs before decoding.
        if png[:4] != b"\x89PNG" or not 0 < width * height < min(_LARGEST_MASK_PX, len(png) * 8400):
            raise ValueError("not a believable PNG")
        pixels = np.asarray(imagecodecs.png_decode(png))
    except (ValueError, binascii.Error, zlib.error, RuntimeError, io.UnsupportedOperation):
        raise AnnotationError(
            path, f"shape {number} has a mask that is no PNG", "Draw it again in Labelme"
        ) from None
    return (pixels if pixels.ndim == 2 else pixels[..., 0]) > 0


VERSION = "5.5.0"  # of Labelme, whose format this is


def write_labelme(
    file: Path, shapes: Sequence[Shape], size_HW: tuple[int, int], image: Path
) -> None:
    """Write the polygons of one image; imagePath leads from the file to the image.

    Units: points are rounded to a hundredth of a pixel.
    """
    document = {
        "version": VERSION,
        "flags": {},
        "shapes": [_written_shape(shape) for shape in shapes],
        "imagePath": Path(os.path.relpath(image, file.parent)).as_posix(),
        "imageData": None,
        "imageHeight": size_HW[0],
        "imageWidth": size_HW[1],
    }
    write_whole(file, json.dumps(document, indent=1, ensure_ascii=False).encode("utf-8"))


def _written_shape(shape: Shape) -> dict[str, Any]:
    return {
        "label": shape.label,
        "points": [[round(float(x), 2), round(float(y), 2)] for x, y in shape.points],
        "group_id": None,
        "description": "",
        "shape_type": "polygon",
        "flags": {},
        "mask": None,
    }
