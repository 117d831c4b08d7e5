"""Annotations that are converted: whose each is, its size and its classes."""

from collections.abc import Mapping
from pathlib import Path

from emcfsys_engine.annotations.masks import (
    BACKGROUND_LABELS,
    IGNORED_LABELS,
    LabelTable,
)
from emcfsys_engine.annotations.pair_masks import NotedOrigins
from emcfsys_engine.annotations.pair_shapes import Place, pair_shapes, part_for
from emcfsys_engine.annotations.pairing import key_of_file
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.dataset.sources import LabelRef, size_mismatch
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import probe
from emcfsys_engine.tools.convert.items import Given, ToConvert
from emcfsys_engine.tools.convert.log import ConversionLog, Skipped
from emcfsys_engine.tools.convert.names import name_of_key, output_names


def annotated(
    found: Mapping[Path, tuple[Annotation, ...]],
    table: LabelTable,
    given: Given,
    log: ConversionLog,
) -> list[ToConvert]:
    """Return the annotations of images, and those that belong to none."""
    refs, image_root, root = given.refs, given.image_root, given.root
    pairs = pair_shapes(refs, image_root, found, root)
    log.notes += pairs.notes
    images_of: dict[Place, list[ImageRef]] = {}
    for image, place in pairs.of_image.items():
        images_of.setdefault(place, []).append(image)
    named = dict(zip(refs, output_names(refs, image_root), strict=True))
    items: list[ToConvert] = []
    counting = {path: several for path, several in found.items() if path not in pairs.left_out}
    taken = {named[image] for image in pairs.of_image}
    known = NotedOrigins()
    for path, number in ((p, n) for p, several in counting.items() for n in range(len(several))):
        place = (path, number)
        by_others = place not in images_of and _name_of(place, found, root) in taken
        if by_others and known.is_as_written(path):
            log.notes.append(f"{path}: says of images what other files beside it say: not used")
            continue
        for image in images_of.get(place, [None]):
            annotation = part_for(found[path][number], image)
            log.count(annotation, image, table)
            if annotation.unused:
                continue
            size = _drawn_size(annotation, image, log)
            if size is None:
                continue
            name = named[image] if image else _name_of(place, found, root)
            items.append(
                ToConvert(
                    name=name,
                    kind="shapes",
                    path=str(path),
                    plane=image.plane if image else None,
                    number=number,
                    size_HW=size,
                ).of(image)
            )
    return items


def _drawn_size(
    annotation: Annotation, image: ImageRef | None, log: ConversionLog
) -> tuple[int, int] | None:
    """Return the size to draw in; None, and a reason in the log, where file and image disagree."""
    own, known = annotation.size_HW, _size(image) if image else None
    path = annotation.file
    if own and known and tuple(own) != tuple(known) and image:
        label = LabelRef(path=path, kind="shapes")
        log.skip(size_mismatch(label, own, image, known))
        return None
    if own is None and known is None:
        why = "does not say how large its image is, and the image was not found"
        log.skipped.append(Skipped(file=str(path), why=f"{why}. Name the images"))
    return known or own


def _name_of(place: Place, found: Mapping[Path, tuple[Annotation, ...]], root: Path) -> str:
    """Return the output name of an annotation whose image was not found."""
    annotation = found[place[0]][place[1]]
    alone = len(found[place[0]]) == 1 or not annotation.image_name
    return name_of_key(key_of_file(place[0], root) if alone else annotation.key)


def classes_of_labels(
    found: Mapping[Path, tuple[Annotation, ...]], labels: Mapping[str, str]
) -> dict[str, int]:
    """Return classes for labels as they are: background 0, then the names in alphabetic order."""
    every = [one for several in found.values() for one in several]
    names = {
        labels.get(shape.full_name, labels.get(shape.label, shape.label))
        for one in every
        for shape in one.shapes
    }
    # A shape that cannot be drawn is of a class all the same: its pixels are not background.
    names |= {
        labels.get(lost.label, lost.label)
        for one in every
        for lost in one.skipped
        if lost.label and (lost.in_doubt or lost.outline is not None)
    }
    names = sorted(names - BACKGROUND_LABELS - IGNORED_LABELS)
    return {"background": 0} | {name: value for value, name in enumerate(names[:254], start=1)}


def _size(image: ImageRef) -> tuple[int, int] | None:
    try:
        shape = probe(image.path).shape
    except InputError:
        return None
    return shape[0], shape[1]
