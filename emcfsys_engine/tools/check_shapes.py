"""What is wrong with drawn shapes: empty, crossing themselves, outside the image, overlapping."""

from collections.abc import Sequence

import numpy as np
import shapely

from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.label_values import LabelTable, label_table
from emcfsys_engine.annotations.rasterise import mask_of
from emcfsys_engine.annotations.shapes import Annotation, Shape
from emcfsys_engine.dataset.samples import Sample
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.reader import probe
from emcfsys_engine.project import UNLABELLED, Project
from emcfsys_engine.tools.findings import Finding

_OUTSIDE_PX = 2.0  # drawing tools let a point lie a little over the edge
_OVERLAP_SHARE = 0.1  # of the smaller shape, by a shape of another class
_MOST_IMAGES = 1000
_OVERLAP_IMAGES = 100
_MOST_NAMED = 5  # findings of one kind in one file


def shape_findings(project: Project, samples: Sequence[Sample]) -> list[Finding]:
    """Return what is wrong with the shapes of annotated images."""
    findings: list[Finding] = []
    drawn = [s for s in samples if s.label is not None and s.label.kind == "shapes"]
    for number, sample in enumerate(drawn[:_MOST_IMAGES]):
        assert sample.label is not None
        table = label_table(project, project.data[sample.source])
        try:
            annotation = read_annotations(sample.label.path)[sample.label.item]
            height, width = probe(sample.image.path).shape[:2]
        except InputError:
            continue  # named already, when the samples were gathered
        found = _of_annotation(annotation, (height, width))
        if number < _OVERLAP_IMAGES:
            found += _overlaps(annotation, table, (height, width))
        findings += found
    return findings


def _of_annotation(annotation: Annotation, size_HW: tuple[int, int]) -> list[Finding]:
    empty: list[str] = []
    crossing: list[str] = []
    outside: list[str] = []
    shapes = annotation.shapes_in(size_HW)
    for number, shape in enumerate(shapes, start=1):
        name = f"{number} ({shape.label})"
        if shape.kind == "bitmap":
            if shape.bitmap is None or not shape.bitmap.any():
                empty.append(name)
            continue
        if _is_outside(shape, size_HW):
            outside.append(name)
        if shape.kind in ("polygon", "rings"):
            if not any(_area(ring) > 0 for ring in shape.rings):
                empty.append(name)
            elif shape.kind == "polygon" and not _is_simple(shape.points):
                crossing.append(name)
    file = annotation.file
    findings: list[Finding] = []
    if not shapes:
        what = f"has no shapes: {annotation.image_name or 'its image'} counts as background"
        findings.append(Finding.warn(file, what, "Annotate it, or take the file away"))
    for names, what, remedy in (
        (empty, "no area", "Draw it again, or take it away"),
        (crossing, "an outline that crosses itself", "Draw it again: parts of it may be left out"),
        (outside, "points outside the image", "See that it belongs to this image"),
    ):
        if names:
            listed = ", ".join(names[:_MOST_NAMED]) + (" …" if len(names) > _MOST_NAMED else "")
            findings.append(
                Finding.warn(file, f"{len(names)} shapes have {what}: {listed}", remedy)
            )
    return findings


def _overlaps(annotation: Annotation, table: LabelTable, size_HW: tuple[int, int]) -> list[Finding]:
    """Return shapes that hide much of an earlier one of another class without lying inside it."""
    owner = np.full(size_HW, -1, np.int32)
    areas: list[int] = []
    classes: list[int | None] = []
    hidden: list[str] = []
    shapes = annotation.shapes_in(size_HW)
    for number, shape in enumerate(shapes):
        found = mask_of(shape, size_HW)
        classes.append(table.of_name(shape.label))
        areas.append(0)
        if found is None:
            continue
        (top, left), mask = found
        areas[number] = int(mask.sum())
        here = owner[top : top + mask.shape[0], left : left + mask.shape[1]]
        below, counts = np.unique(here[mask], return_counts=True)
        for other, count in zip(below.tolist(), counts.tolist(), strict=True):
            if other < 0 or classes[other] == classes[number] or classes[other] == UNLABELLED:
                continue
            inside = count > 0.9 * areas[number]  # a hole or an inclusion, drawn on purpose
            if count > _OVERLAP_SHARE * min(areas[other], areas[number]) and not inside:
                names = f"{other + 1} ({shapes[other].label}) and {number + 1} ({shape.label})"
                hidden.append(f"{names} share {count:,} px")
        here[mask] = number
    if not hidden:
        return []
    listed = "; ".join(hidden[:_MOST_NAMED]) + (" …" if len(hidden) > _MOST_NAMED else "")
    remedy = "The later shape wins; draw them side by side if that is not meant"
    return [Finding.warn(annotation.file, f"shapes of two classes overlap: {listed}", remedy)]


def _is_outside(shape: Shape, size_HW: tuple[int, int]) -> bool:
    points = np.concatenate(shape.rings)
    limit = np.array((size_HW[1], size_HW[0])) + _OUTSIDE_PX
    return bool((points < -_OUTSIDE_PX).any() or (points > limit).any())


def _is_simple(ring: np.ndarray) -> bool:
    return bool(shapely.is_simple(shapely.LinearRing(ring))) if len(ring) > 2 else False


def _area(ring: np.ndarray) -> float:
    """Return the area of the convex hull: 0 only where all points lie on one line."""
    return float(shapely.MultiPoint(ring).convex_hull.area)
