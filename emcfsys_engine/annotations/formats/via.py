"""VGG Image Annotator 2 (and 1): regions of many images in one JSON."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from emcfsys_engine.annotations.shapes import (
    Annotation,
    Shape,
    box_ring,
    ellipse_ring,
    last_part,
    points_array,
)

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
    notes: list[str] = []
    shapes: list[Shape] = []
    for number, region in enumerate(listed, start=1):
        shapes += _shapes(path, number, region, notes)
    return Annotation(
        file=path,
        format="VIA",
        image_name=last_part(entry["filename"]),
        size_HW=None,
        shapes=tuple(shapes),
        notes=tuple(notes),
    )


def _label(attributes: Mapping[str, Any]) -> str:
    keys = [key for key in _LABEL_KEYS if key in attributes] or list(attributes)
    if not keys:
        return "unlabelled region"
    value = attributes[keys[0]]
    if isinstance(value, dict):  # check boxes: {"mito": true}
        chosen = [name for name, on in value.items() if on]
        return str(chosen[0]) if chosen else ""
    return str(value).strip()


def _shapes(
    path: Path, number: int, region: Mapping[str, Any], notes: list[str]
) -> Iterable[Shape]:
    given, label = region["shape_attributes"], _label(region.get("region_attributes") or {})
    kind, what = given.get("name"), f"region {number} ({label})"
    if kind in ("polygon", "polyline"):
        pairs = list(zip(given["all_points_x"], given["all_points_y"], strict=True))
        points = points_array(path, what, pairs)
        if len(points) > 1:
            yield Shape(
                label=label, kind="rings" if kind == "polygon" else "linestrip", rings=(points,)
            )
    elif kind == "rect":
        left, top = float(given["x"]), float(given["y"])
        ring = box_ring(left, top, left + float(given["width"]), top + float(given["height"]))
        yield Shape(label=label, kind="rings", rings=(ring,))
    elif kind in ("circle", "ellipse"):
        centre = (float(given["cx"]), float(given["cy"]))
        radii = (
            float(given.get("rx", given.get("r", 0))),
            float(given.get("ry", given.get("r", 0))),
        )
        tilt = float(given.get("theta", 0)) * 57.29577951308232  # VIA keeps radians
        yield Shape(label=label, kind="rings", rings=(ellipse_ring(centre, radii, tilt),))
    elif kind == "point":
        points = points_array(path, what, [(given["cx"], given["cy"])])
        yield Shape(label=label, kind="point", rings=(points,))
    else:
        notes.append(f"{what} is a {kind}, which is not drawn")
