"""Labels that are converted: annotations, masks of one file an image or of one folder a class."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from emcfsys_engine.annotations.contradictions import contradictions, may_contradict, notes_of_masks
from emcfsys_engine.annotations.draw import unknown_label
from emcfsys_engine.annotations.layouts import MasksByClass, masks_by_class
from emcfsys_engine.annotations.masks import (
    BACKGROUND_LABELS,
    IGNORED_LABELS,
    LabelTable,
    MaskFacts,
    recipe_of,
    table_of,
)
from emcfsys_engine.annotations.pair_masks import (
    Masks,
    NotedOrigins,
    masks_that_count,
)
from emcfsys_engine.annotations.pair_shapes import Place, pair_shapes, part_for
from emcfsys_engine.annotations.pairing import Key, key_of_file, match, picks_some
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.dataset.sources import LabelRef, size_mismatch
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, probe
from emcfsys_engine.images.writers import is_companion
from emcfsys_engine.tools.convert.items import (
    ConversionLog,
    Given,
    LabelReading,
    Labels,
    Skipped,
    ToConvert,
    name_of_key,
    output_names,
    table_for,
)
from emcfsys_engine.tools.new_classes import facts_of, from_facts


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


def labels_of_masks(given: Given, classes: Mapping[str, int] | None, log: ConversionLog) -> Labels:
    """Return the masks of a source that has one file an image."""
    log.notes.clear()
    images = set(given.refs)
    every = find_images(given.source, given.base)
    beside = {ref for ref in every if ref not in images and is_companion(ref.path)}
    counting = masks_that_count([ref for ref in every if ref not in images | beside])
    counting.name_beside(beside)
    if classes is not None and not given.labels:
        for mask in counting.of_other_classes(classes):
            log.skip(counting.other_classes(mask, "Convert it with its own classes"))
            counting.drop(mask)
    elif classes is not None:
        counting.doubt_values(classes, given.labels)
    # Of all masks together their values say what the classes are, and whether 0 and 255 are two.
    is_asked = classes is None or may_contradict(counting, len(classes))
    facts = facts_of(counting.refs) if is_asked else []
    if classes is None:
        classes, labels, notes = _classes_of_masks(facts, given.labels)
        given = replace(given, labels=labels)
        log.notes += notes
    table = table_for(classes, given)
    values = sorted(classes.values())
    if faults := contradictions(facts, table, values):
        raise faults[0]
    recipe = recipe_of([one for _, one in facts], table, values)
    items = masked(counting, given)
    log.notes += [*counting.notes, *notes_of_masks(dict(facts), table)]
    reading = LabelReading(classes=dict(classes), table=table, recipe=recipe)
    return Labels(items=items, reading=reading)


def _classes_of_masks(
    facts: Sequence[tuple[ImageRef, MaskFacts]], labels: Mapping[str, str]
) -> tuple[Mapping[str, int], Mapping[str, str], Sequence[str]]:
    """Return classes and labels as `new` proposes them, or for the labels that were given."""
    given = [name for name in dict.fromkeys(labels.values()) if name != "ignore"]
    if given:
        others = [name for name in given if name != "background"]
        named = {name: value for value, name in enumerate(others, start=1)}
        return {"background": 0} | named, labels, ()
    proposal = from_facts(facts)
    notes = [f"no classes were given: {note}" for note in proposal.notes]
    return proposal.classes, {**labels, **proposal.labels}, notes


def class_folders(given: Given, classes: Mapping[str, int] | None) -> MasksByClass:
    """Return the masks of a source that has one folder a class: by itself, or as classes say."""
    if picks_some(given.source, given.base):
        return {}
    by_class = masks_by_class(given.base / Path(given.source).expanduser())
    known = table_of(classes, given.labels) if classes else None
    if known and all(known.of_name(name) is None for name in by_class):
        return {}
    return by_class


def labels_of_class_folders(
    by_class: MasksByClass, given: Given, classes: Mapping[str, int] | None, log: ConversionLog
) -> Labels:
    """Return the masks of a source that has one folder a class."""
    log.notes.clear()  # the files that are no annotations are masks, or said to be none
    chosen = dict(classes) if classes else classes_of_folders(by_class, log)
    table = table_for(chosen, given)
    for name in [name for name in by_class if table.of_name(name) is None]:
        log.skip(unknown_label(given.root / name, name, table))
        del by_class[name]
    items = in_class_folders(by_class, table, given)
    return Labels(items=items, reading=LabelReading(classes=chosen, table=table))


def masked(
    counting: Masks,
    given: Given,
) -> list[ToConvert]:
    """Return the masks of images, and those that belong to none."""
    refs, image_root, root = given.refs, given.image_root, given.root
    masks = counting.refs
    image_of = {mask: ref for ref, mask in counting.pairs(refs, image_root, root)[0].items()}
    named = dict(zip(refs, output_names(refs, image_root), strict=True))
    own = dict(zip(masks, output_names(masks, root), strict=True))
    return [
        ToConvert(
            name=named[image_of[mask]] if mask in image_of else own[mask],
            kind="mask",
            path=str(mask.path),
            plane=mask.plane,
        ).of(image_of.get(mask))
        for mask in masks
    ]


def in_class_folders(by_class: MasksByClass, table: LabelTable, given: Given) -> list[ToConvert]:
    """Return the masks of images that lie in one folder a class, painted over each other."""
    refs, image_root = given.refs, given.image_root
    parts: dict[Key, list[tuple[str, Path]]] = {}
    for name in sorted(by_class, key=lambda name: table.of_name(name) or 0):
        for key, mask in by_class[name].items():
            parts.setdefault(key, []).append((name, mask.path))
    image_of = {key: ref for ref, key in match(refs, image_root, {k: k for k in parts})[0].items()}
    named = dict(zip(refs, output_names(refs, image_root), strict=True))
    return [
        ToConvert(
            name=named[image_of[key]] if key in image_of else name_of_key(key),
            kind="class_folders",
            path=str(every[0][1]),
            parts=tuple((name, str(mask)) for name, mask in every),
        ).of(image_of.get(key))
        for key, every in parts.items()
    ]


def classes_of_folders(by_class: MasksByClass, log: ConversionLog) -> dict[str, int]:
    """Return classes by the names of folders that hold the masks of one class each."""
    log.notes.append(f"one folder of masks a class: {', '.join(by_class)}")
    names = [name for name in by_class if name not in BACKGROUND_LABELS | IGNORED_LABELS]
    return {"background": 0} | {name: value for value, name in enumerate(names, start=1)}
