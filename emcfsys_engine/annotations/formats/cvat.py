"""CVAT XML 1.1 for images and for video: polygons, boxes, ellipses, masks, lines and points."""

import math
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.shapes import (
    Annotation,
    Gathering,
    Shape,
    box_ring,
    ellipse_ring,
    inner_path,
    outline_of,
    points_array,
    size_of,
    turned,
)
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.text import how_many

_LARGEST_MASK_PX = 1 << 28
_DRAWN = ("polygon", "box", "ellipse", "mask", "polyline", "points")


def read(path: Path, root: ET.Element) -> list[Annotation]:
    """Return one annotation an image, or a frame of a video.

    Of a video the frames that the file spells out are used; CVAT exports every frame when asked.
    A frame on which nothing is but ends is not used: CVAT writes it after the last one that a
    person drew on, whether anybody looked at it or not.
    """
    images = [_image(path, image) for image in root.iter("image")]
    return images or _video(path, root)


def _image(path: Path, image: ET.Element) -> Annotation:
    name = inner_path(image.get("name"))
    subset = image.get("subset")
    found = Gathering()
    for element in sorted(image, key=lambda e: int(e.get("z_order") or 0)):
        _shape(path, element, element.get("label") or "", found)
    return Annotation(
        file=path,
        format="CVAT",
        image_name=f"{subset}/{name}" if subset else name,
        size_HW=size_of(_number(image.get("height")), _number(image.get("width"))),
        shapes=tuple(found.shapes),
        skipped=tuple(found.skipped),
    )


def _video(path: Path, root: ET.Element) -> list[Annotation]:
    size = root.find(".//original_size")
    size_HW = None
    if size is not None:
        size_HW = size_of(_number(size.findtext("height")), _number(size.findtext("width")))
    frames: defaultdict[int, list[tuple[int, ET.Element, str]]] = defaultdict(list)
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
        found = Gathering()
        for _, element, label in drawn:
            _shape(path, element, label, found)
        result.append(
            Annotation(
                file=path,
                format="CVAT video",
                image_name=f"frame_{frame:06d}",
                size_HW=size_HW,
                shapes=tuple(found.shapes),
                skipped=tuple(found.skipped),
                unused="" if drawn else "says only that what was on a frame before it ends",
            )
        )
    return result


def _shape(path: Path, element: ET.Element, label: str, found: Gathering) -> None:
    kind, what = element.tag, f"a {element.tag} ({label})"
    if kind == "tag":  # says something of the whole image
        return
    if kind not in _DRAWN:
        outline = outline_of(label, _any_points(element))
        found.skip(label, f"{what} is not drawn", outline=outline, in_doubt=outline is None)
    elif kind in ("box", "ellipse"):
        degrees = _number(element.get("rotation")) or 0.0
        ring = _box(element, degrees) if kind == "box" else _ellipse(element, degrees)
        checked = points_array(path, what, ring.tolist())
        found.draw(Shape(label=label, kind="rings", rings=(checked,)))
    elif kind == "mask":
        found.draw(_mask(path, what, label, element))
    else:
        text = element.get("points") or ""
        points = points_array(path, what, [p.split(",") for p in text.split(";") if p])
        _points(kind, what, label, points, found)


def _points(kind: str, what: str, label: str, points: np.ndarray, found: Gathering) -> None:
    fewest = {"polygon": 3, "polyline": 2}.get(kind, 1)
    if len(points) < fewest:
        found.skip(label, f"{what} has {how_many(len(points), 'point')}", in_doubt=not len(points))
    elif kind == "points":
        for point in points:
            found.draw(Shape(label=label, kind="point", rings=(point[None],)))
    else:
        drawn = "rings" if kind == "polygon" else "linestrip"
        found.draw(Shape(label=label, kind=drawn, rings=(points,)))


def _box(element: ET.Element, degrees: float) -> np.ndarray:
    """Return a box as CVAT draws it: turned clockwise about its centre."""
    sides = [_number(element.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")]
    return turned(box_ring(*(math.nan if side is None else side for side in sides)), degrees)


def _ellipse(element: ET.Element, degrees: float) -> np.ndarray:
    given = [_number(element.get(key)) for key in ("cx", "cy", "rx", "ry")]
    x, y, across, down = (math.nan if value is None else value for value in given)
    return ellipse_ring((x, y), (across, down), degrees)


def _any_points(element: ET.Element) -> np.ndarray:
    """Return every point that an element of another kind names: a cuboid, a skeleton."""
    pairs: list[tuple[float, float]] = []
    for one in element.iter():
        for pair in (one.get("points") or "").split(";"):
            x, _, y = pair.partition(",")
            numbers = (_number(x), _number(y))
            if numbers[0] is not None and numbers[1] is not None:
                pairs.append((numbers[0], numbers[1]))
        for key, value in one.items():
            x, y = _number(value), _number(one.get(f"y{key[1:]}"))
            if re.fullmatch(r"x[a-z]+\d", key) and x is not None and y is not None:
                pairs.append((x, y))
    return np.array(pairs, np.float64).reshape(-1, 2)


def _mask(path: Path, what: str, label: str, element: ET.Element) -> Shape:
    """Return a mask: run lengths along the rows of a box, beginning with zeros."""
    left, top, width, height = (
        int(element.get(k) or 0) for k in ("left", "top", "width", "height")
    )
    runs = np.array([int(n) for n in (element.get("rle") or "").split(",") if n.strip()], np.int64)
    is_sound = 0 <= width * height <= _LARGEST_MASK_PX and not ((runs < 0) | (runs > 1 << 30)).any()
    if not is_sound or int(runs.sum()) != width * height:
        raise AnnotationError(path, f"{what} has a mask that does not fill its box", "Export again")
    bitmap = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return Shape(label=label, kind="bitmap", bitmap=bitmap, origin_xy=(left, top))


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
