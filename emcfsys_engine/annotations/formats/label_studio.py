"""Label Studio: polygons, rectangles, ellipses and masks, in percent of the image."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from emcfsys_engine.annotations.shapes import (
    Annotation,
    Gathering,
    Shape,
    box_ring,
    ellipse_ring,
    last_part,
    mask_from_png,
    points_array,
    shape_of_mask,
    size_of,
)
from emcfsys_engine.errors import AnnotationError

# Which keys make which shape, the most telling first.
_SHAPES: Mapping[str, frozenset[str]] = {
    "bitmask": frozenset({"imageDataURL"}),
    "brush": frozenset({"rle"}),
    "polygon": frozenset({"points"}),
    "ellipse": frozenset({"radiusX", "radiusY", "x", "y"}),
    "rectangle": frozenset({"width", "height", "x", "y"}),
    "keypoint": frozenset({"x", "y"}),
}
_GEOMETRY = sorted(frozenset[str]().union(*_SHAPES.values()) | {"rotation"})
_LABELS = (
    "polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels", "bitmasklabels",
    "keypointlabels", "labels", "vectorlabels", "videorectanglelabels",
)  # fmt: skip
_OF_WHOLE_IMAGE = (
    None, "choices", "textarea", "number", "rating", "taxonomy", "datetime", "pairwise", "relation",
    "ranker",
)  # fmt: skip
_LARGEST_MASK_PX = 1 << 28
# "/data/upload/3/1f2e3d4c-a.tif", with a server's address before it, or "upload/3/1f2e3d4c-a.tif".
_UPLOADED = re.compile(r"(?:(?:\w+://[^/]*)?/data/|)upload/(?:\d+/)?[0-9a-f]{8}-(?=[^/]+$)")


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
    unused = ""
    if "data" in task:
        name = _image_name(task["data"]) or last_part(task.get("file_upload"))
        every = task.get("annotations", task.get("completions")) or ()
        done = [a for a in every if not a.get("was_cancelled") and not a.get("skipped")]
        done.sort(key=lambda a: not a.get("ground_truth"))
        results = done[0].get("result") or () if done else ()
        if len(done) > 1:
            notes.append(f"task {number} was annotated {len(done)} times: one of them is used")
        if not done:
            unused = f"task {number} was {'skipped' if every else 'not annotated'}"
    else:
        name = _image_name(task)
        results = [one for value in task.values() if isinstance(value, list) for one in value]
        if not any(isinstance(one, dict) for one in results) and task.get("annotation_id") is None:
            unused = f"task {number} was not annotated"
    found = Gathering()
    size = None
    for region in _regions(results):
        size = size_of(region.get("original_height"), region.get("original_width")) or size
        what = f"task {number}: region {region.get('id') or '?'}"
        _region(path, what, region, found)
        labels = _labels_of(region)
        if len(labels) > 1:
            notes.append(f"{what} has the labels {', '.join(labels)}: the first is used")
    return Annotation(
        file=path,
        format="Label Studio",
        image_name=name,
        size_HW=size,
        shapes=tuple(found.shapes),
        skipped=tuple(found.skipped),
        notes=tuple(dict.fromkeys(notes)),
        unused=unused,
    )


def _regions(results: Iterable[Any]) -> list[dict[str, Any]]:
    """Return one table a region: its shape and its labels can be two results with one id.

    JSON-MIN has no ids: there, both results repeat the same shape.
    """
    regions: dict[str, dict[str, Any]] = {}
    for number, result in enumerate(results):
        if not isinstance(result, dict):
            continue
        value = result.get("value", {})
        flat = {**result, **value} if isinstance(value, dict) else dict(result)
        geometry = json.dumps({key: flat[key] for key in _GEOMETRY if key in flat}, default=str)
        key = str(flat["id"]) if flat.get("id") is not None else geometry
        if key == "{}":
            key = f"{number}"  # speaks of the whole image
        merged = regions.setdefault(key, {})
        merged.setdefault("types", []).append(flat.get("type"))
        merged |= {name: item for name, item in flat.items() if name != "type"}
    return list(regions.values())


def _image_name(data: Mapping[str, Any]) -> str:
    """Return the image's own name: uploads, and they alone, get eight digits before theirs.

    Those digits are hexadecimal, and so is the date of 20261128-a.tif in a storage.
    """
    keys = [key for key in ("image", "img", "photo") if key in data] or list(data)
    for key in keys:
        if isinstance(data[key], str):
            address, _, asked = unquote(data[key]).partition("?")
            asked_by, _, value = asked.partition("=")
            path = value if asked_by in ("d", "filepath") else address
            return _UPLOADED.sub("", path) if _UPLOADED.match(path) else last_part(path)
    return ""


def _labels_of(region: Mapping[str, Any]) -> list[str]:
    found = next((region[key] for key in _LABELS if region.get(key)), None)
    return [str(one) for one in found] if isinstance(found, list) else []


def _region(path: Path, what: str, region: Mapping[str, Any], found: Gathering) -> None:
    """Draw one region, or skip it: without a label its pixels are of no known class."""
    label = next(iter(_labels_of(region)), None)
    drawable = next((kind for kind, keys in _SHAPES.items() if keys <= region.keys()), None)
    if drawable is None:
        kinds = [str(kind) for kind in region["types"] if kind not in _OF_WHOLE_IMAGE]
        if label is not None or kinds:
            kind = kinds[0] if kinds else "label without a shape"
            why = f"{what} ({label or 'no label'}) is a {kind}, which is not drawn"
            found.skip(label, why, in_doubt=True)
        return
    size = size_of(region.get("original_height"), region.get("original_width"))
    if size is None:
        raise AnnotationError(
            path, f"{what} does not say how large its image is", "Export it again"
        )
    if float(region.get("image_rotation") or 0) % 360:
        why = f"{what} ({label}) was drawn on the image turned by {region['image_rotation']}°"
        found.skip(label, why, in_doubt=True)
        return
    shape = _shape(path, what, label or "", drawable, region, size)
    if shape is None:
        found.skip(label, f"{what} ({label}) has too few points or pixels")
    elif label is None:
        found.skip(None, f"{what} has a shape without a label", outline=shape)
    else:
        found.draw(shape)


def _shape(
    path: Path,
    what: str,
    label: str,
    kind: str,
    region: Mapping[str, Any],
    size: tuple[int, int],
) -> Shape | None:
    scale = np.array((size[1], size[0])) / 100
    if kind == "brush":
        return shape_of_mask(label, brush_mask(path, what, region["rle"], size))
    if kind == "bitmask":
        return shape_of_mask(label, _bitmask(path, what, region, size))
    if kind == "keypoint":
        points = points_array(path, what, [(region["x"], region["y"])]) * scale
        return Shape(label=label, kind="point", rings=(points,))
    if kind == "polygon":
        ring = points_array(path, what, region["points"]) * scale
        if len(ring) < 3:
            return None
    elif kind == "ellipse":
        centre = (region["x"] * scale[0], region["y"] * scale[1])
        radii = (region["radiusX"] * scale[0], region["radiusY"] * scale[1])
        ring = ellipse_ring(centre, radii, float(region.get("rotation") or 0))
    else:
        ring = _rectangle(region, scale)
    return Shape(label=label, kind="rings", rings=(points_array(path, what, ring.tolist()),))


def _bitmask(
    path: Path, what: str, region: Mapping[str, Any], size_HW: tuple[int, int]
) -> np.ndarray:
    """Return the mask of a bitmask: a PNG in the file, whose set pixels are the region's."""
    mask = mask_from_png(path, what, str(region["imageDataURL"]).partition("base64,")[2])
    if mask.shape != size_HW:
        have, wanted = (f"{w} × {h}" for h, w in (mask.shape, size_HW))
        raise AnnotationError(path, f"{what} is a mask of {have}, its image is {wanted} pixels")
    return mask


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
        if height * width > _LARGEST_MASK_PX:
            raise ValueError("more pixels than an image has")
        bits = np.unpackbits(np.array(rle, np.uint8))
        values = _decoded(bits, height * width * 4)
    except (ValueError, TypeError, IndexError, OverflowError):
        values = None
    if values is None:
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
