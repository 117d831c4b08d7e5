"""Which object each labelled pixel belongs to, and what a network learns of it.

H and W pixels. Objects are those of classes with `instances` in [classes]: numbers of a mask,
shapes one by one, else connected parts of the class.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import scipy  # its parts are loaded when they are named

from emcfsys_engine.annotations.draw import mask_of
from emcfsys_engine.annotations.masks import LabelTable, label_table, read_instances
from emcfsys_engine.annotations.numbered import read_numbers
from emcfsys_engine.annotations.pair_shapes import annotation_for
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.project import UNLABELLED, Project

Known = Literal["numbers", "shapes", "connected parts"]
NUM_PLANES = 2  # that a network gives beside its classes: distance and border
FULL = 254  # of a plane; 255 is unlabelled, as in labels
BORDER_PX = 2.0
_TOUCHING = np.ones((3, 3), bool)  # pixels that touch at a corner belong together


@dataclass(frozen=True, kw_only=True)
class ObjectTruth:
    """The objects of one image, and how they are known.

    Shapes: ids are int32 H×W, 1 … n in the order of their first pixels, 0 where there is none.
    """

    ids: np.ndarray
    known: Known
    in_parts: int  # parts that are joined to others by their number, shape or group alone
    is_full: bool = False  # its numbers are all that its type has: others may be lost


def read_objects(sample: Sample, project: Project, labels: np.ndarray) -> ObjectTruth:
    """Return the objects of a sample whose class values are known.

    A number, a shape, or shapes of one group are one object wherever their parts lie; a class with
    instances = "parts" has an object for each part. What another shape covers is that one's.
    Shapes: labels are uint8 H×W, as `read_labels` gives them.
    Raises: AnnotationError and the like when the labels cannot be read again.
    """
    known: Known = "connected parts"
    given: np.ndarray | None = None
    label = sample.label
    if label is not None and label.kind != "class_folders":
        table = label_table(project, project.data[sample.source])
        if label.kind == "shapes":
            known = "shapes"
            given = drawn_ids(annotation_for(label.place, sample.image), table, labels.shape)
        else:
            mask = ImageRef(path=label.path, plane=label.plane)
            given = read_instances(mask, table)
            given = read_numbers(mask, must_read=True) if given is None else given
            known = "connected parts" if given is None else "numbers"
    return told_apart(labels, given, project, known)


def told_apart(
    labels: np.ndarray, given: np.ndarray | None, project: Project, known: Known
) -> ObjectTruth:
    """Return the objects of class values, with the numbers that the labels give them, if any.

    Shapes: labels uint8 H×W, given integers H×W.
    """
    ids = np.zeros(labels.shape, np.int64)
    num = in_parts = 0
    for name, parts in project.instances.items():
        mine = labels == project.classes[name]
        if not mine.any():
            continue
        own = given if given is not None and given[mine].any() else None
        if own is not None:
            mine &= own > 0  # too small to be an object when the numbers were written
        pieces = _components(mine if own is None else np.where(mine, own.astype(np.int64), -1))
        if own is not None and parts == "joined":
            found, places = np.unique(own[mine], return_inverse=True)
            in_parts += int(pieces.max()) - len(found)
            ids[mine] = places.reshape(-1) + 1 + num
        else:
            ids[mine] = pieces[mine] + num
        num = int(ids.max())
    return ObjectTruth(
        ids=in_reading_order(ids),
        known=known,
        in_parts=in_parts,
        is_full=given is not None and _is_full(given),
    )


def _is_full(given: np.ndarray) -> bool:
    """Tell whether objects have every number that 8 or 16 bits hold: a script went round."""
    most = {1: 255, 2: 65_535}.get(given.dtype.itemsize, 0)
    return most > 0 and int(given.max(initial=0)) == most and len(np.unique(given)) == most + 1


def _components(values: np.ndarray) -> np.ndarray:
    """Number the connected pixels of equal values; those that are False or -1 are 0.

    Shapes: bool or int64 H×W in, int32 H×W out.
    """
    made = np.zeros(values.shape, np.int32)
    if values.dtype == bool:
        scipy.ndimage.label(values, _TOUCHING, output=made)
        return made
    inside = values >= 0
    flat, places = np.unique(values[inside], return_inverse=True)
    dense = np.zeros(values.shape, np.int32)
    dense[inside] = places.reshape(-1) + 1
    num = 0
    for place, box in enumerate(scipy.ndimage.find_objects(dense, len(flat)), 1):
        if box is None:
            continue
        own = dense[box] == place
        pieces, count = cast("tuple[np.ndarray, int]", scipy.ndimage.label(own, _TOUCHING))
        made[box][own] = pieces[own] + num
        num += count
    return made


def in_reading_order(ids: np.ndarray) -> np.ndarray:
    """Number objects 1 … n by their first pixels. Shapes: integers H×W, 0 is none; int32 out."""
    found, first, places = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(np.where(found == 0, -1, first), kind="stable")
    new = np.empty(len(found), np.int32)
    new[order] = np.arange(len(found)) + (0 if (found == 0).any() else 1)
    return new[places].reshape(ids.shape)


def drawn_ids(annotation: Annotation, table: LabelTable, size_HW: tuple[int, ...]) -> np.ndarray:
    """Return a number for each drawn object, painted as `annotation_ids` paints classes.

    Shapes: int64 H×W; 0 where no shape is, and where a skipped one may be.
    """
    height, width = size_HW[:2]
    annotation = annotation.in_pixels((height, width))
    canvas = np.zeros((height, width), np.int64)
    groups: dict[tuple[int | None, str, str], int] = {}
    for number, shape in enumerate(annotation.shapes, start=1):
        if table.is_reviewed(shape):
            continue
        key = (table.of_shape(shape), shape.label, shape.group or f"\0{number}")
        found = mask_of(shape, canvas.shape)
        if found is not None:
            (top, left), mask = found
            here = canvas[top : top + mask.shape[0], left : left + mask.shape[1]]
            here[mask] = groups.setdefault(key, number)
    return canvas


def truth_at(truth: ObjectTruth, size_HW: tuple[int, int]) -> ObjectTruth:
    """Return the objects of an image of another size: those of the pixels nearest to its own."""
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.intp)
        for new, old in zip(size_HW, truth.ids.shape, strict=True)
    )
    return replace(truth, ids=truth.ids[rows][:, columns])


def targets_of(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what a network learns of objects: how far from the border, and where borders are.

    A pixel's distance is that to the nearest pixel outside its object, over the largest of that
    object; the image's edge is no border. The border is two pixels wide, half an object's radius
    where that is less. Where the nearest pixel outside is unlabelled, neither is known.
    Shapes: ids int32 and labels uint8, H×W; uint8 2×H×W out, 0 … 254, and 255 where unlabelled.
    """
    planes = np.zeros((NUM_PLANES, *ids.shape), np.uint8)
    height, width = ids.shape
    for place, box in enumerate(scipy.ndimage.find_objects(ids), 1):
        if box is None:
            continue
        rows, columns = (
            slice(max(0, one.start - 1), min(end, one.stop + 1))
            for one, end in zip(box, (height, width), strict=True)
        )
        inside = ids[rows, columns] == place
        _one_target(planes[:, rows, columns], inside, labels[rows, columns])
    planes[:, labels == UNLABELLED] = UNLABELLED
    return planes


def _one_target(planes: np.ndarray, inside: np.ndarray, labels: np.ndarray) -> None:
    """Write one object into the planes of the rectangle around it."""
    if inside.all():  # nothing of its border is in the image
        planes[0] = FULL
        return
    distance, nearest = cast(
        "tuple[np.ndarray, np.ndarray]",
        scipy.ndimage.distance_transform_edt(inside, return_indices=True),
    )
    most = float(distance.max())
    planes[0][inside] = np.rint(distance[inside] * (FULL / most))
    planes[1][inside & (distance <= min(BORDER_PX, most / 2))] = FULL
    unknown = inside & (labels[tuple(nearest)] == UNLABELLED)
    planes[:, unknown] = UNLABELLED


def told(truths: Mapping[str, ObjectTruth], names: tuple[str, ...]) -> str:
    """Say how the objects of images are known, in one line for check and plan."""
    counts: dict[str, int] = {}
    for one in truths.values():
        counts[one.known] = counts.get(one.known, 0) + int(one.ids.max(initial=0))
    said = ", ".join(f"{count} by {known}" for known, count in sorted(counts.items()))
    text = f"objects of {', '.join(names)}: {said or 'none'}"
    parted = sum(one.in_parts for one in truths.values())
    if parted:
        text += f"; {parted} parts that do not touch were joined by their number, shape or group"
    full = [name for name, one in truths.items() if one.is_full]
    if full:
        text += f"; {full[0]} has all numbers that its mask can hold: save 32 bits if some are lost"
    return text
