"""VGG Image Annotator 2 (and 1): regions of many images in one JSON."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.annotations.shapes import (
    Annotation,
    Gathering,
    Shape,
    box_ring,
    ellipse_ring,
    last_part,
    points_array,
)
from emcfsys_engine.text import how_many

_LABEL_KEYS = ("label", "class", "type", "name")


def is_via(document: object) -> bool:
    """Tell whether a JSON document is VIA's: a whole project, or its exported annotations."""
    if not isinstance(document, dict):
        return False
    entries = document.get("_via_img_metadata", document)
    if not isinstance(entries, dict) or not entries:
        return "_via_img_metadata" in document
    first = next(iter(entries.values()))
    return isinstance(first, dict) and "filename" in first and "regions" in first


def read(path: Path, document: Mapping[str, Any]) -> list[Annotation]:
    """Return one annotation for every image in the file."""
    entries: Mapping[str, Any] = document.get("_via_img_metadata", document)
    return [_image(path, entry) for entry in entries.values()]


def _image(path: Path, entry: Mapping[str, Any]) -> Annotation:
    regions = entry["regions"]
    listed = list(regions.values()) if isinstance(regions, dict) else regions
    found = Gathering()
    notes: list[str] = []
    doubtful: dict[tuple[str, ...], int] = {}  # attributes that may tell the class: how many
    for number, region in enumerate(listed, start=1):
        _shape(path, number, region, found)
        keys = tuple(_keys(region.get("region_attributes") or {}))
        if len(keys) > 1:
            doubtful[keys] = doubtful.get(keys, 0) + 1
        labels = _labels(region.get("region_attributes") or {})
        if len(labels) > 1:
            many = ", ".join(labels)
            notes.append(f"region {number} has the labels {many}: the first is used")
    for keys, many in doubtful.items():
        regions_have = how_many(many, "region has", "regions have")
        told = f"{regions_have} the attributes {', '.join(keys)}"
        notes.append(f"{told}: {keys[0]} is taken for the class")
    return Annotation(
        file=path,
        format="VIA",
        image_name=last_part(entry["filename"]),
        size_HW=None,
        image_bytes=_bytes_of(entry.get("size")),
        shapes=tuple(found.shapes),
        skipped=tuple(found.skipped),
        notes=tuple(notes),
    )


def _bytes_of(size: object) -> int:
    """Return the length of the image's file in bytes; 0 where VIA did not know it (it keeps -1)."""
    return size if isinstance(size, int) and size > 0 else 0


def _keys(attributes: Mapping[str, Any]) -> list[str]:
    """Return the attributes that may tell a region's class, the likeliest first."""
    return [key for key in _LABEL_KEYS if key in attributes] or list(attributes)


def _labels(attributes: Mapping[str, Any]) -> list[str]:
    keys = _keys(attributes)
    if not keys:
        return ["unlabelled region"]
    value = attributes[keys[0]]
    if isinstance(value, dict):  # check boxes: {"mito": true}
        return [str(name) for name, on in value.items() if on] or [""]
    return [str(value).strip()]


def _shape(path: Path, number: int, region: Mapping[str, Any], found: Gathering) -> None:
    given, label = region["shape_attributes"], _labels(region.get("region_attributes") or {})[0]
    kind, what = given.get("name"), f"region {number} ({label})"
    if kind in ("polygon", "polyline"):
        pairs = list(zip(given["all_points_x"], given["all_points_y"], strict=True))
        points = points_array(path, what, pairs)
        drawn = "rings" if kind == "polygon" else "linestrip"
        if len(points) < (3 if kind == "polygon" else 2):
            why = f"{what} is a {kind} of {how_many(len(points), 'point')}"
            found.skip(label, why, in_doubt=not len(points))
            return
        ring = points
    elif kind == "rect":
        left, top = float(given["x"]), float(given["y"])
        drawn = "rings"
        ring = box_ring(left, top, left + float(given["width"]), top + float(given["height"]))
    elif kind in ("circle", "ellipse"):
        centre = (float(given["cx"]), float(given["cy"]))
        radii = (
            float(given.get("rx", given.get("r", 0))),
            float(given.get("ry", given.get("r", 0))),
        )
        tilt = math.degrees(float(given.get("theta", 0)))  # VIA keeps radians
        drawn, ring = "rings", ellipse_ring(centre, radii, tilt)
    elif kind == "point":
        drawn, ring = "point", np.array([(given["cx"], given["cy"])], np.float64)
    else:
        found.skip(label, f"{what} is a {kind}, which is not drawn", in_doubt=True)
        return
    checked = points_array(path, what, ring.tolist())
    found.draw(Shape(label=label, kind=drawn, rings=(checked,)))
