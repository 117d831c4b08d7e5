"""Class ids to a Labelme file, so that a person corrects a prediction in their own tool."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emcfsys_engine.annotations.shapes import Shape
from emcfsys_engine.run.folder import write_whole

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
        "shapes": [_shape(shape) for shape in shapes],
        "imagePath": Path(os.path.relpath(image, file.parent)).as_posix(),
        "imageData": None,
        "imageHeight": size_HW[0],
        "imageWidth": size_HW[1],
    }
    write_whole(file, json.dumps(document, indent=1, ensure_ascii=False).encode("utf-8"))


def _shape(shape: Shape) -> dict[str, Any]:
    return {
        "label": shape.label,
        "points": [[round(float(x), 2), round(float(y), 2)] for x, y in shape.points],
        "group_id": None,
        "description": "",
        "shape_type": "polygon",
        "flags": {},
        "mask": None,
    }
