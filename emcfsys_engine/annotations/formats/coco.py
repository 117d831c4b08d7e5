"""COCO: polygons and run-length masks of many images in one JSON; also segment-anything's files."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.annotations.draw import Region, fill_rings
from emcfsys_engine.annotations.shapes import (
    Annotation,
    Shape,
    inner_path,
    mask_from_runs,
    points_array,
    size_of,
)
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.files import write_whole

_LARGEST_MASK_PX = 1 << 30


def is_coco(document: object) -> bool:
    """Tell whether a JSON document is COCO's."""
    if not isinstance(document, dict) or not isinstance(document.get("annotations"), list):
        return False
    return isinstance(document.get("images"), list) or isinstance(document.get("image"), dict)


def read(path: Path, document: Mapping[str, Any]) -> list[Annotation]:
    """Return one annotation for every image the file lists.

    `file_name` only names an image; its folders are compared, never opened.
    Raises: AnnotationError for what is no segmentation: captions, labels or boxes alone.
    """
    single = document.get("image")
    images = document["images"] if single is None else [{**single, "id": single["image_id"]}]
    names = {int(c["id"]): str(c["name"]) for c in document.get("categories") or ()}
    drawn: defaultdict[Any, list[Shape]] = defaultdict(list)
    without = 0
    sizes = {image["id"]: size_of(image.get("height"), image.get("width")) for image in images}
    for number, item in enumerate(document["annotations"], start=1):
        if not item.get("segmentation"):
            without += 1
            continue
        image_id = item.get("image_id", images[0]["id"] if single is not None else None)
        category = item.get("category_id")
        label = "mask" if category is None else names.get(int(category), str(category))
        drawn[image_id] += _shapes(path, number, label, item["segmentation"])
    if without and not any(drawn.values()):
        _refuse(path, document)
    notes = (f"{without} objects have no outline: not used",) if without else ()
    return [
        Annotation(
            file=path,
            format="COCO",
            image_name=inner_path(image.get("file_name")),
            size_HW=sizes[image["id"]],
            shapes=tuple(drawn.get(image["id"], ())),
            notes=notes if place == 0 else (),
        )
        for place, image in enumerate(images)
    ]


def runs_of_text(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed text.

    Source: rleFrString in pycocotools (6 bits a character, differences to the run before last).
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value |= -1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    return runs


def _shapes(path: Path, number: int, label: str, segmentation: object) -> list[Shape]:
    what = f"object {number} ({label})"
    if isinstance(segmentation, dict):
        size = size_of(*segmentation.get("size", (None, None)))
        if size is None or size[0] * size[1] > _LARGEST_MASK_PX:
            raise AnnotationError(path, f"{what} has a mask without a size", "Export it again")
        counts = segmentation.get("counts")
        runs = runs_of_text(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, list):
            raise AnnotationError(path, f"{what} has a mask without counts", "Export it again")
        mask = mask_from_runs(path, what, runs, size)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return []
        top, left = int(rows[0]), int(columns[0])
        # A copy of the small part: hundreds of whole-image masks would not fit into memory.
        part = mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()
        return [Shape(label=label, kind="bitmap", bitmap=part, origin_xy=(left, top))]
    shapes: list[Shape] = []
    for polygon in segmentation if isinstance(segmentation, list) else ():
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            continue  # COCO's own sets hold polygons of two points
        pairs = list(zip(polygon[::2], polygon[1::2], strict=True))
        shapes.append(Shape(label=label, kind="rings", rings=(points_array(path, what, pairs),)))
    return shapes


def _refuse(path: Path, document: Mapping[str, Any]) -> None:
    first = document["annotations"][0]
    if "caption" in first:
        what = "holds captions, not outlines"
    elif "segments_info" in first:
        what = "is COCO panoptic: its labels are in PNG files beside it"
    elif first.get("bbox"):
        what = "holds boxes without outlines: they do not say which pixels belong to an object"
    else:
        what = "holds labels of whole images, not outlines"
    raise AnnotationError(path, what, "Export a segmentation (polygons or masks)")


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """One image of a COCO file. Shapes: size is (H, W)."""

    name: str  # below the images' folder
    size_HW: tuple[int, int]
    regions: tuple[Region, ...]


def write_coco(file: Path, images: Iterable[CocoImage], names: Mapping[int, str]) -> None:
    """Write a COCO instances file; category ids are class values plus 1, since 0 is often skipped.

    An object with holes is a run-length mask: COCO's polygons have none.
    """
    listed: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        height, width = image.size_HW
        listed.append({"id": number, "file_name": image.name, "height": height, "width": width})
        for region in image.regions:
            objects.append(_object(len(objects) + 1, number, region, image.size_HW))
    categories = [
        {"id": value + 1, "name": name, "supercategory": ""}
        for value, name in sorted(names.items())
    ]
    document = {
        "info": {"description": "written by EMCFsys"},
        "licenses": [],
        "images": listed,
        "annotations": objects,
        "categories": categories,
    }
    write_whole(file, json.dumps(document, ensure_ascii=False).encode("utf-8"))


def runs_of_mask(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a mask down its columns, beginning with zeros.

    Shapes: bool H×W.
    """
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate(([0], changes, [flat.size]))
    runs = np.diff(edges).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def _object(number: int, image: int, region: Region, size_HW: tuple[int, int]) -> dict[str, Any]:
    outer = region.rings[0]
    low, high = outer.min(axis=0), outer.max(axis=0)
    box = [round(float(v), 2) for v in (*low, *(high - low))]
    segmentation: Any
    if len(region.rings) == 1:
        segmentation = [[round(float(v), 2) for v in outer.ravel()]]
    else:
        runs = runs_of_mask(fill_rings(region.rings, size_HW))
        segmentation = {"counts": runs, "size": list(size_HW)}
    return {
        "id": number,
        "image_id": image,
        "category_id": region.class_id + 1,
        "segmentation": segmentation,
        "area": region.area_px,
        "bbox": box,
        "iscrowd": 0,
    }
