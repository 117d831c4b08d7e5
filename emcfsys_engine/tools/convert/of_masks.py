"""Masks that are converted, of one file an image or of one folder a class."""

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
    masks_that_count,
)
from emcfsys_engine.annotations.pairing import Key, match, picks_some
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images
from emcfsys_engine.images.writers import is_companion
from emcfsys_engine.tools.convert.items import (
    Given,
    Labels,
    Reading,
    ToConvert,
    table_for,
)
from emcfsys_engine.tools.convert.log import ConversionLog
from emcfsys_engine.tools.convert.names import name_of_key, output_names
from emcfsys_engine.tools.new_classes import facts_of, from_facts


def labels_of_masks(given: Given, classes: Mapping[str, int] | None, log: ConversionLog) -> Labels:
    """Return the masks of a source that has one file an image."""
    log.notes.clear()
    images = set(given.refs)
    every = find_images(given.source, given.base)
    masks = [ref for ref in every if ref not in images and not is_companion(ref.path)]
    counting = masks_that_count(masks)
    if classes is not None and not given.labels:
        for mask in counting.of_other_classes(classes):
            log.skip(counting.other_classes(mask, "Convert it with its own classes"))
            counting.drop(mask)
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
    reading = Reading(classes=dict(classes), table=table, recipe=recipe)
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
    return Labels(items=items, reading=Reading(classes=chosen, table=table))


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
