"""Class ids of many images to one COCO file: polygons, and run lengths where there are holes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.annotations.draw import Region
from emcfsys_engine.annotations.rasterise import fill_rings
from emcfsys_engine.run.folder import write_whole


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
