"""CVAT XML 1.1 for images and for video: polygons, boxes, ellipses, masks, lines and points."""

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.shapes import (
    Annotation,
    Shape,
    box_ring,
    ellipse_ring,
    inner_path,
    points_array,
    size_of,
)
from emcfsys_engine.errors import AnnotationError

_DRAWN = ("polygon", "box", "ellipse", "mask", "polyline", "points")


def read(path: Path, root: ET.Element) -> list[Annotation]:
    """Return one annotation an image, or a frame of a video.

    Of a video the frames that the file spells out are used; CVAT exports every frame when asked.
    """
    images = [_image(path, image) for image in root.iter("image")]
    return images or _video(path, root)


def _image(path: Path, image: ET.Element) -> Annotation:
    name = inner_path(image.get("name"))
    subset = image.get("subset")
    notes: list[str] = []
    elements = sorted(image, key=lambda e: int(e.get("z_order") or 0))
    shapes = [s for e in elements for s in _shapes(path, e, e.get("label") or "", notes)]
    return Annotation(
        file=path,
        format="CVAT",
        image_name=f"{subset}/{name}" if subset else name,
        size_HW=size_of(_number(image.get("height")), _number(image.get("width"))),
        shapes=tuple(shapes),
        notes=tuple(notes),
    )


def _video(path: Path, root: ET.Element) -> list[Annotation]:
    size = root.find(".//original_size")
    size_HW = None
    if size is not None:
        size_HW = size_of(_number(size.findtext("height")), _number(size.findtext("width")))
    frames: defaultdict[int, list[tuple[int, ET.Element, str]]] = defaultdict(list)
    notes: list[str] = []
    for track in root.iter("track"):
        for element in track:
            frame = int(element.get("frame") or 0)
            frames[frame]
            if element.get("outside") != "1":
                order = int(element.get("z_order") or 0)
                frames[frame].append((order, element, track.get("label") or ""))
    result: list[Annotation] = []
    for frame, drawn in sorted(frames.items()):
        drawn.sort(key=lambda one: one[0])
        shapes = [s for _, element, label in drawn for s in _shapes(path, element, label, notes)]
        result.append(
            Annotation(
                file=path,
                format="CVAT video",
                image_name=f"frame_{frame:06d}",
                size_HW=size_HW,
                shapes=tuple(shapes),
                notes=tuple(notes),
            )
        )
        notes.clear()
    return result


def _shapes(path: Path, element: ET.Element, label: str, notes: list[str]) -> Iterable[Shape]:
    kind = element.tag
    if kind not in _DRAWN:
        if kind != "tag":
            notes.append(f"a {kind} ({label}) is not drawn")
        return
    what = f"a {kind} ({label})"
    if kind == "box":
        sides = [float(element.get(side, "nan")) for side in ("xtl", "ytl", "xbr", "ybr")]
        ring = points_array(path, what, box_ring(*sides).tolist())
        yield Shape(label=label, kind="rings", rings=(ring,))
    elif kind == "ellipse":
        x, y, across, down = (float(element.get(key, "nan")) for key in ("cx", "cy", "rx", "ry"))
        tilt = float(element.get("rotation") or 0)
        yield Shape(label=label, kind="rings", rings=(ellipse_ring((x, y), (across, down), tilt),))
    elif kind == "mask":
        yield _mask(path, what, label, element)
    else:
        text = element.get("points") or ""
        points = points_array(path, what, [p.split(",") for p in text.split(";") if p])
        if kind == "points":
            for point in points:
                yield Shape(label=label, kind="point", rings=(point[None],))
        elif len(points) > 1:
            drawn = "rings" if kind == "polygon" else "linestrip"
            yield Shape(label=label, kind=drawn, rings=(points,))


def _mask(path: Path, what: str, label: str, element: ET.Element) -> Shape:
    """Return a mask: run lengths along the rows of a box, beginning with zeros."""
    left, top, width, height = (
        int(element.get(k) or 0) for k in ("left", "top", "width", "height")
    )
    runs = np.array([int(n) for n in (element.get("rle") or "").split(",") if n.strip()], np.int64)
    if (runs < 0).any() or int(runs.sum()) != width * height:
        raise AnnotationError(path, f"{what} has a mask that does not fill its box", "Export again")
    bitmap = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return Shape(label=label, kind="bitmap", bitmap=bitmap, origin_xy=(left, top))


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
