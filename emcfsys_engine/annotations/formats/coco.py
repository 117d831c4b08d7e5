"""COCO: polygons and run-length masks of many images in one JSON; also segment-anything's files."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from emcfsys_engine import any_names
from emcfsys_engine.annotations.draw import DrawnRegion, fill_rings
from emcfsys_engine.annotations.shapes import (
    Annotation,
    Gathering,
    Shape,
    box_ring,
    inner_path,
    mask_from_runs,
    name_of_number,
    points_array,
    shape_of_mask,
    size_of,
)
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.files import write_whole
from emcfsys_engine.text import how_many

_LARGEST_MASK_PX = 1 << 30
_MOST_BITS = 60  # of one run length


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
    names = {_id(c["id"]): str(c["name"]) for c in document.get("categories") or ()}
    _check_ids(path, "categories", "name", document.get("categories") or ())
    _check_ids(path, "images", "file_name", images)
    objects = document["annotations"]
    if objects and not any(item.get("segmentation") for item in objects):
        _refuse(path, document)
    by_image: dict[str, Gathering] = {_id(image["id"]): Gathering() for image in images}
    sizes = {_id(one["id"]): size_of(one.get("height"), one.get("width")) for one in images}
    lost = Gathering()  # of objects whose image the file does not list
    for number, item in enumerate(objects, start=1):
        image_id = _id(item.get("image_id", images[0]["id"] if single is not None else None))
        category = item.get("category_id")
        label = "mask" if category is None else name_of_number(names, _id(category))
        what = f"object {number} ({label})"
        if image_id == "None":
            raise AnnotationError(path, f"{what} does not say of which image it is", "Export again")
        if image_id not in by_image:
            lost.skip(label, f"{what} is of image {image_id}, which the file does not list")
            continue
        _check_mask_size(path, what, item.get("segmentation"), sizes[image_id])
        _object(path, what, label, item, by_image[image_id])
    read = [_annotation(path, image, by_image[_id(image["id"])]) for image in images]
    if lost.skipped:  # an entry of its own: they say nothing of any image
        nowhere = {"file_name": None}
        found = _annotation(path, nowhere, lost)
        read.append(replace(found, unused="belongs to no image of the file"))
    return read


def _check_ids(path: Path, table: str, name: str, entries: Iterable[Mapping[str, Any]]) -> None:
    """Refuse two images or categories with one id: whose the objects are is anybody's guess."""
    seen: dict[str, object] = {}
    for entry in entries:
        known = seen.setdefault(_id(entry["id"]), entry.get(name))
        if known != entry.get(name):
            what = f"gives {table} {known} and {entry.get(name)} the same id {_id(entry['id'])}"
            raise AnnotationError(path, what, "Give each its own: joined files need new ids")


def _annotation(path: Path, image: Mapping[str, Any], found: Gathering) -> Annotation:
    return Annotation(
        file=path,
        format="COCO",
        image_name=inner_path(image.get("file_name")),
        size_HW=size_of(image.get("height"), image.get("width")),
        shapes=tuple(found.shapes),
        skipped=tuple(found.skipped),
    )


def _id(value: object) -> str:
    """Return an id as text: some tools write numbers as text, or as 2.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def runs_of_text(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed text.

    Raises: ValueError for a number that no mask can have: its digits would take for ever.
    Source: rleFrString in pycocotools (6 bits a character, differences to the run before last).
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            if shift > _MOST_BITS:
                raise ValueError("a run length is no number of pixels")
            continue
        if bits & 16:
            value |= -1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if not 0 <= value <= _LARGEST_MASK_PX:
            raise ValueError("a run length is no number of pixels")
        runs.append(value)
        value = shift = 0
    return runs


def _object(path: Path, what: str, label: str, item: Mapping[str, Any], found: Gathering) -> None:
    """Draw the parts of one object, or skip them with what is known of their pixels."""
    box = _box(label, item.get("bbox"))
    segmentation = item.get("segmentation")
    if not segmentation:
        found.skip(label, f"{what} has no outline", outline=box, in_doubt=box is None)
    elif isinstance(segmentation, dict):
        shape = _bitmap(path, what, label, segmentation)
        if shape is None:
            found.skip(label, f"{what} has a mask without a pixel")
        else:
            found.draw(shape)
    else:
        _polygons(path, what, label, segmentation, box, found)


def _check_mask_size(
    path: Path, what: str, segmentation: object, image_HW: tuple[int, int] | None
) -> None:
    if not isinstance(segmentation, dict) or image_HW is None:
        return
    own = size_of(*(segmentation.get("size") or (None, None)))
    if own is not None and own != image_HW:
        sizes = " pixels, its image ".join(
            f"{width} × {height}" for height, width in (own, image_HW)
        )
        raise AnnotationError(path, f"{what} has a mask of {sizes}", "Export it again")


def _box(label: str, given: object) -> Shape | None:
    if not isinstance(given, list) or len(given) != 4:
        return None
    if not all(isinstance(side, (int, float)) and math.isfinite(side) for side in given):
        return None
    left, top, width, height = given
    ring = box_ring(left, top, left + width, top + height)
    return Shape(label=label, kind="rings", rings=(ring,))


def _bitmap(path: Path, what: str, label: str, coded: Mapping[str, Any]) -> Shape | None:
    size = size_of(*(coded.get("size") or (None, None)))
    if size is None or size[0] * size[1] > _LARGEST_MASK_PX:
        raise AnnotationError(path, f"{what} has a mask without a size", "Export it again")
    counts = coded.get("counts")
    runs = runs_of_text(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list):
        raise AnnotationError(path, f"{what} has a mask without counts", "Export it again")
    return shape_of_mask(label, mask_from_runs(path, what, runs, size))


def _polygons(
    path: Path, what: str, label: str, segmentation: object, box: Shape | None, found: Gathering
) -> None:
    torn: list[str] = []
    polygons = list(_flat_lists(segmentation))
    for polygon in polygons:
        if not all(isinstance(value, (int, float)) for value in polygon):
            torn.append(f"{what} has an outline that is no list of numbers")
        elif len(polygon) % 2:
            torn.append(f"{what} has an outline of {len(polygon)} numbers, which are no pairs")
    for why in torn:  # below its sound parts: what the box covers is doubtful, what is drawn is not
        found.skip(label, why, outline=box, in_doubt=box is None)
    for polygon in polygons:
        if len(polygon) % 2 or not all(isinstance(value, (int, float)) for value in polygon):
            continue
        if len(polygon) < 6:  # COCO's own sets hold polygons of two points: they have no area
            found.skip(label, f"{what} has an outline of {how_many(len(polygon) // 2, 'point')}")
            continue
        pairs = list(zip(polygon[::2], polygon[1::2], strict=True))
        ring = points_array(path, what, pairs)
        found.draw(Shape(label=label, kind="rings", rings=(ring,), group=what))
    if not polygons:
        found.skip(label, f"{what} has no outline", outline=box, in_doubt=box is None)


def _flat_lists(segmentation: object) -> Iterator[list[Any]]:
    """Yield each polygon as one flat list, however deep a tool nested it; pairs are joined."""
    if not isinstance(segmentation, list) or not segmentation:
        return
    if not any(isinstance(part, list) for part in segmentation):
        yield segmentation
    elif len(segmentation) > 2 and all(_is_pair(part) for part in segmentation):
        yield [value for pair in segmentation for value in pair]
    else:
        for part in segmentation:
            if isinstance(part, list):
                yield from _flat_lists(part)
            else:
                yield [part, None]  # a number beside lists: named as no list of numbers


def _is_pair(part: object) -> bool:
    return (
        isinstance(part, list)
        and len(part) == 2
        and all(isinstance(value, (int, float)) for value in part)
    )


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


class CocoImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a COCO file. Shapes: size is (H, W)."""

    name: str  # below the images' folder
    size_HW: tuple[int, int]
    objects: tuple[dict[str, Any], ...]  # as COCO has them, but for their numbers and the image's


def coco_image(name: str, size_HW: tuple[int, int], regions: Iterable[DrawnRegion]) -> CocoImage:
    """Return an image with its regions as the file has them.

    An object with holes or of several parts is a run-length mask: COCO's polygons have no holes.
    """
    objects = tuple(_written_object(region, size_HW) for region in regions)
    return CocoImage(name=name, size_HW=size_HW, objects=objects)


def write_coco(file: Path, images: Iterable[CocoImage], names: Mapping[int, str]) -> None:
    """Write a COCO instances file; category ids are class values plus 1: 0 is often skipped."""
    listed: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        height, width = image.size_HW
        listed.append({"id": number, "file_name": image.name, "height": height, "width": width})
        for one in image.objects:
            objects.append({"id": len(objects) + 1, "image_id": number, **one})
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
    write_whole(file, any_names.for_others(document))


def runs_of_mask(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a mask down its columns, beginning with zeros.

    Shapes: bool H×W.
    """
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate(([0], changes, [flat.size]))
    runs = np.diff(edges).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def _written_object(region: DrawnRegion, size_HW: tuple[int, int]) -> dict[str, Any]:
    outer = region.rings[0]
    every = np.concatenate(region.rings)  # an object may have several parts
    low, high = every.min(axis=0), every.max(axis=0)
    box = [round(float(v), 2) for v in (*low, *(high - low))]
    segmentation: Any
    if len(region.rings) == 1:
        segmentation = [[round(float(v), 2) for v in outer.ravel()]]
    else:
        runs = runs_of_mask(fill_rings(region.rings, size_HW))
        segmentation = {"counts": runs, "size": list(size_HW)}
    return {
        "category_id": region.class_id + 1,
        "segmentation": segmentation,
        "area": region.area_px,
        "bbox": box,
        "iscrowd": 0,
    }
