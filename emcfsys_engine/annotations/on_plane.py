"""The part of an annotation that lies on one plane of a stack, or on a single image."""

from dataclasses import replace

from emcfsys_engine.annotations.planes import StackAxes
from emcfsys_engine.annotations.shapes import Annotation, Shape, SkippedShape


def planes_labelled(annotation: Annotation, axes: StackAxes) -> list[int]:
    """Return the planes that hold at least one shape of a stacked annotation, from 0."""
    places = {one.place for one in (*annotation.shapes, *annotation.skipped)}
    return [
        plane
        for plane in range(axes.num_planes)
        if any(place is None or axes.has(place, plane) for place in places)
    ]


def on_plane(annotation: Annotation, axes: StackAxes, plane: int) -> Annotation:
    """Return what a stacked annotation says of one plane; each shape keeps its reason.

    A shape whose place the stack does not have is skipped, once: on the first labelled plane.
    """
    if not annotation.is_stacked:
        return annotation
    first = next(iter(planes_labelled(annotation, axes)), 0)
    shapes: list[Shape] = []
    skipped: list[SkippedShape] = []
    kept_before = [0]  # how many of the first n shapes lie on this plane
    for number, shape in enumerate(annotation.shapes, start=1):
        if shape.place is None or axes.has(shape.place, plane):
            shapes.append(shape)
        elif plane == first and not axes.contains(shape.place):
            skipped.append(_outside(shape, number, axes, len(shapes)))
        kept_before.append(len(shapes))
    skipped += [
        replace(one, below=kept_before[one.below])
        for one in annotation.skipped
        if one.place is None
        or axes.has(one.place, plane)
        or (plane == first and not axes.contains(one.place))
    ]
    skipped.sort(key=lambda one: one.below)
    return replace(annotation, shapes=tuple(shapes), skipped=tuple(skipped))


def _outside(shape: Shape, number: int, axes: StackAxes, below: int) -> SkippedShape:
    assert shape.place is not None
    have = ", ".join(f"{length} × {letter}" for letter, length in axes.axes) or "a single plane"
    name = shape.full_name or shape.label
    why = f"region {number} ({name}) lies on {shape.place.words}, but the image has {have}"
    # On a single image it may be drawn on a slice of what this was cut out of: nobody's background.
    outline = shape if axes.num_planes == 1 else None
    return SkippedShape(why=why, label=shape.label, outline=outline, below=below)
