"""Label Studio: polygons, rectangles, ellipses and brush masks, in percent of the image."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from emcfsys_engine.annotations.shapes import (
    Annotation,
    Shape,
    box_ring,
    ellipse_ring,
    last_part,
    points_array,
    size_of,
)
from emcfsys_engine.errors import AnnotationError

_KINDS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels", "keypointlabels")
_LARGEST_MASK_PX = 1 << 28


def is_label_studio(document: object) -> bool:
    """Tell whether a JSON document is Label Studio's, in full or as JSON-MIN."""
    if not isinstance(document, list) or not document or not isinstance(document[0], dict):
        return False
    first = document[0]
    return ("data" in first and ("annotations" in first or "completions" in first)) or (
        "annotation_id" in first and "annotator" in first
    )


def read(path: Path, document: list[Mapping[str, Any]]) -> list[Annotation]:
    """Return one annotation a task: of several people's work the ground truth, else the first."""
    return [_task(path, number, task) for number, task in enumerate(document, start=1)]


def _task(path: Path, number: int, task: Mapping[str, Any]) -> Annotation:
    notes: list[str] = []
    if "data" in task:
        name = _image_name(task["data"]) or last_part(task.get("file_upload"))
        done = [
            a
            for a in task.get("annotations", task.get("completions", ()))
            if not a.get("was_cancelled")
        ]
        done.sort(key=lambda a: not a.get("ground_truth"))
        results = done[0].get("result", ()) if done else ()
        if len(done) > 1:
            notes.append(f"task {number} was annotated {len(done)} times: one of them is used")
    else:
        name = _image_name(task)
        results = [one for value in task.values() if isinstance(value, list) for one in value]
    shapes: list[Shape] = []
    size = None
    for result in results:
        if not isinstance(result, dict):
            continue
        flat = (
            {**result, **result.get("value", {})}
            if isinstance(result.get("value", {}), dict)
            else result
        )
        size = size_of(flat.get("original_height"), flat.get("original_width")) or size
        shapes += _shapes(path, f"task {number}", flat, notes)
    return Annotation(
        file=path,
        format="Label Studio",
        image_name=name,
        size_HW=size,
        shapes=tuple(shapes),
        notes=tuple(dict.fromkeys(notes)),
    )


def _image_name(data: Mapping[str, Any]) -> str:
    """Return the image's own name: uploads get eight hexadecimal digits before theirs."""
    keys = [key for key in ("image", "img", "photo") if key in data] or list(data)
    for key in keys:
        if isinstance(data[key], str):
            path = unquote(data[key]).partition("?d=")[2] or unquote(data[key]).split("?")[0]
            return re.sub(r"^[0-9a-f]{8}-", "", last_part(path))
    return ""


def _shapes(path: Path, what: str, result: Mapping[str, Any], notes: list[str]) -> Iterable[Shape]:
    kind = next((name for name in _KINDS if result.get(name)), None)
    size = size_of(result.get("original_height"), result.get("original_width"))
    if kind is None:
        if result.get("type") not in (None, "choices", "textarea", "labels"):
            notes.append(f"{what}: a {result.get('type')} result is not drawn")
        return
    if size is None:
        raise AnnotationError(
            path, f"{what} does not say how large its image is", "Export it again"
        )
    label = str(result[kind][0])
    scale = np.array((size[1], size[0])) / 100
    if kind == "polygonlabels":
        points = points_array(path, what, result["points"]) * scale
        if len(points) > 2:
            yield Shape(label=label, kind="rings", rings=(points,))
    elif kind == "rectanglelabels":
        yield Shape(label=label, kind="rings", rings=(_rectangle(result, scale),))
    elif kind == "ellipselabels":
        centre = (result["x"] * scale[0], result["y"] * scale[1])
        radii = (result["radiusX"] * scale[0], result["radiusY"] * scale[1])
        ring = ellipse_ring(centre, radii, float(result.get("rotation", 0)))
        yield Shape(label=label, kind="rings", rings=(ring,))
    elif kind == "keypointlabels":
        points = points_array(path, what, [(result["x"], result["y"])]) * scale
        yield Shape(label=label, kind="point", rings=(points,))
    else:
        mask = brush_mask(path, what, result["rle"], size)
        yield Shape(label=label, kind="bitmap", bitmap=mask)


def _rectangle(result: Mapping[str, Any], scale: np.ndarray) -> np.ndarray:
    left, top = result["x"] * scale[0], result["y"] * scale[1]
    ring = box_ring(left, top, left + result["width"] * scale[0], top + result["height"] * scale[1])
    tilt = np.deg2rad(float(result.get("rotation", 0)))  # about the corner at the top left
    turn = np.array(((np.cos(tilt), np.sin(tilt)), (-np.sin(tilt), np.cos(tilt))))
    return (ring - ring[0]) @ turn + ring[0]


def brush_mask(path: Path, what: str, rle: object, size_HW: tuple[int, int]) -> np.ndarray:
    """Return the mask of a brush: run lengths of bits, of an RGBA picture whose alpha counts.

    Shapes: bool H×W.
    Source: label_studio_sdk.converter.brush.decode_rle.
    """
    height, width = size_HW
    try:
        bits = np.unpackbits(np.array(rle, np.uint8))
        values = _decoded(bits, height * width * 4)
    except (ValueError, TypeError, IndexError, OverflowError):
        values = None
    if values is None or height * width > _LARGEST_MASK_PX:
        raise AnnotationError(path, f"{what} has a damaged brush mask", "Export it again")
    return values.reshape(height, width, 4)[..., 3] > 0


def _decoded(bits: np.ndarray, wanted: int) -> np.ndarray | None:
    text = bits.tobytes().translate(bytes.maketrans(b"\0\1", b"01")).decode("ascii")
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(text[at - count : at], 2)

    total, word = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    if total != wanted or word != 8:
        return None
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        repeated = take(1)
        end = min(total, done + 1 + take(widths[take(2)]))
        if repeated:
            values[done:end] = take(word)
        else:
            values[done:end] = [take(word) for _ in range(end - done)]
        done = end
    return values
