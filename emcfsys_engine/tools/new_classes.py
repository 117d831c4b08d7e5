"""Propose classes for labels that are there: names of shapes, values and colours of masks."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

import numpy as np

from emcfsys_engine.annotations.contradictions import contradictions
from emcfsys_engine.annotations.draw import paint
from emcfsys_engine.annotations.masks import (
    BACKGROUND_LABELS,
    IGNORED_LABELS,
    REVIEWED,
    MaskFacts,
    levels_of,
    mask_facts,
    ranges_between,
    table_of,
)
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.project import MAX_CLASS_VALUE, UNLABELLED

_BACKGROUND = frozenset({*BACKGROUND_LABELS, "bg"})
_MOST_CLASSES = 30  # values of masks beyond so many are numbers of objects
_MOST_COLOURS = 20
_STROKES = frozenset({"line", "linestrip", "point"})
_BARE = 0.5  # of an image: less is covered by shapes
_ALIKE = 0.8  # similarity of two names that may be one class


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Classes, what own values or names mean, and what to say of it."""

    classes: dict[str, int]
    labels: dict[str, str] = field(default_factory=dict)
    undrawn: Literal["background", "ignore"] = "background"
    notes: tuple[str, ...] = ()
    held: dict[str, tuple[int, int]] = field(default_factory=dict)  # class -> shapes, images
    alike: tuple[tuple[str, str], ...] = ()  # pairs of labels that may be one class


def from_shapes(
    annotations: Sequence[Annotation], merge: Mapping[str, str] | None = None
) -> Proposal | None:
    """Return classes by the names of shapes; None where nothing is drawn.

    `merge`: names of shapes that mean the class of another name.
    """
    merge = merge or {}
    counts = Counter(shape.label for one in annotations for shape in one.shapes)
    counts += Counter(lost.label for one in annotations for lost in one.skipped if lost.in_doubt)
    names = sorted(
        name for name in counts if name and name not in IGNORED_LABELS and name not in merge
    )
    background = [name for name in names if name.lower() in _BACKGROUND]
    others = [name for name in names if name not in background and name != REVIEWED]
    if not counts:
        return None
    notes: list[str] = []
    if len(others) > MAX_CLASS_VALUE:
        notes.append(f"{len(others)} labels are more than 254 classes: the rest is left out")
        others = others[:MAX_CLASS_VALUE]
    undrawn: Literal["background", "ignore"] = "background"
    marked = bool(background) or REVIEWED in counts
    bare = _mostly_bare(annotations)
    if bare and (marked or _mostly_strokes(annotations)):
        undrawn = "ignore"
        notes.append('most of each image is bare: undrawn = "ignore", only what is drawn teaches')
    elif bare:  # objects on a background look like this, too
        notes.append(
            "most of each image is bare, and taken as background: if it was not looked at, set "
            'undrawn = "ignore"'
        )
    first = background[0] if background and background[0] not in BACKGROUND_LABELS else "background"
    has_background = undrawn == "background" or marked or len(others) < 2
    classes = {first: 0} if has_background else {}
    classes |= {name: value for value, name in enumerate(others, start=1)}
    if len(classes) == 1:
        classes["object"] = 1
    notes.insert(0, f"classes: {', '.join(classes)}")
    alike = _near_duplicates(others)
    notes += [
        f'"{one}" and "{other}" may be one class: '
        f'join them under [data.labels]: "{one}" = "{other}"'
        for one, other in alike
    ]
    labels = {name: to for name, to in merge.items() if name in counts and to in classes}
    if "" in counts:
        labels[""] = "ignore"
        notes.append('shapes without a label are unlabelled pixels ("" = "ignore")')
    return Proposal(
        classes=classes,
        labels=labels,
        undrawn=undrawn,
        notes=tuple(notes),
        held=_held(annotations, classes, labels),
        alike=alike,
    )


def _held(
    annotations: Sequence[Annotation], classes: Mapping[str, int], labels: Mapping[str, str]
) -> dict[str, tuple[int, int]]:
    """Return how many shapes each class has, and in how many images; undrawn ones are none."""
    shapes, images = Counter[str](), Counter[str]()
    for one in annotations:
        names = [labels.get(shape.label, shape.label) for shape in one.shapes]
        shapes.update(names)
        images.update(set(names))
    return {name: (shapes[name], images[name]) for name in classes}


def from_masks(masks: Iterable[ImageRef], faults: list[InputError] | None = None) -> Proposal:
    """Return classes by the values or colours of masks.

    `faults` gets masks that are unreadable or contradict each other.
    """
    facts = facts_of(masks, faults)
    found = from_facts(facts)
    table = table_of(found.classes, found.labels)
    if faults is not None:
        faults += contradictions(facts, table, sorted(found.classes.values()))
    images = Counter[int | None]()
    for _, one in facts:
        images.update({one.class_of(value, table) for value, _ in one.values})
    held = {name: (0, images[value]) for name, value in found.classes.items()}
    return replace(found, held=held)


def facts_of(
    masks: Iterable[ImageRef],
    faults: list[InputError] | None = None,
) -> list[tuple[ImageRef, MaskFacts]]:
    """Return what masks hold; `faults` gets those that are unreadable, which `check` names, too."""
    facts: list[tuple[ImageRef, MaskFacts]] = []
    for mask in masks:
        try:
            facts.append((mask, mask_facts(mask, table_of({}, {}))))
        except InputError as fault:
            if faults is not None:
                faults.append(fault)
    return facts


def from_facts(facts: Sequence[tuple[ImageRef, MaskFacts]]) -> Proposal:
    """Return classes by the values or colours that masks hold."""
    values = Counter[int]()
    for _, one in facts:
        values.update(dict(one.values))
    if any(one.in_colour for _, one in facts):
        return _of_colours(facts)
    levels = next((found for mask, one in facts if (found := levels_of(one, mask))), ())
    if levels:
        names = _numbered_names(len(levels))
        labels = dict(zip(ranges_between(levels), names, strict=True))
        note = f"masks have smoothed edges around {', '.join(map(str, levels))}: ranges are mapped"
        return Proposal(classes=_enumerated(names), labels=labels, notes=(note,))
    held = set(values) - {UNLABELLED}
    if any(one.transparent for _, one in facts) and len(values) == 1:
        note = (
            f"masks show {min(values)} where they are not transparent, and what is transparent is "
            "unlabelled: nothing would be background. Save them without transparency"
        )
        return Proposal(classes={"background": 0, "object": 1}, notes=(note,))
    if held <= {0}:
        return Proposal(
            classes={"background": 0, "object": 1}, notes=("masks hold 0 and 255: two classes",)
        )
    largest = max(values)
    if len(held) > _MOST_CLASSES:
        note = f"masks hold {len(held):,} values up to {largest:,}: numbered objects of one class"
        labels = {f"1-{largest}": "object"}
        return Proposal(classes={"background": 0, "object": 1}, labels=labels, notes=(note,))
    listed = ", ".join(map(str, sorted(held)))
    if largest > MAX_CLASS_VALUE and largest != UNLABELLED:
        names = ["background", "object"] if len(held) == 2 else _numbered_names(len(held))
        labels = {
            str(value): name for value, name in zip(sorted(held), names, strict=True) if value
        }
        note = f"mask values {listed} (16 bits): give the classes their names"
        return Proposal(classes=_enumerated(names), labels=labels, notes=(note,))
    classes = {"background" if value == 0 else f"class_{value}": value for value in sorted(held)}
    if len(classes) == 1:
        classes["background"] = 0
    border = "; 255 is unlabelled" if UNLABELLED in values else ""
    note = f"mask values {listed}{border}: give the classes their names"
    return Proposal(classes=classes, notes=(note,))


def from_class_folders(folders: Sequence[str]) -> Proposal:
    """Return classes by the names of folders that hold the masks of one class each."""
    others = [name for name in folders if name not in IGNORED_LABELS | _BACKGROUND]
    empty = next((name for name in folders if name in _BACKGROUND), "background")
    labels = {name: "ignore" for name in folders if name in IGNORED_LABELS}
    note = f"one folder of masks a class: {', '.join(folders)}; where none is set is {empty}"
    return Proposal(classes=_enumerated([empty, *others]), labels=labels, notes=(note,))


def _of_colours(facts: Sequence[tuple[ImageRef, MaskFacts]]) -> Proposal:
    colours = Counter[int]()
    for _, one in facts:
        pairs = ((v if one.in_colour else v * 0x010101, n) for v, n in one.values)
        colours.update(dict(pairs))
    total = sum(colours.values())
    kept = [colour for colour, count in colours.most_common() if count >= 1e-4 * total]
    kept = kept[:_MOST_COLOURS]
    kept.sort(key=lambda colour: (colour != 0, -colours[colour]))
    names = _numbered_names(len(kept))
    labels = {f"#{colour:06x}": name for colour, name in zip(kept, names, strict=True)}
    note = f"masks are colour pictures of {len(colours)} colours: give the classes their names"
    if len(colours) > len(kept):
        labels["other"] = "ignore"
        note += '; rare colours, as of smoothed edges, are unlabelled ("other" = "ignore")'
    classes = _enumerated(names) if len(names) > 1 else {"background": 0, "object": 1}
    return Proposal(classes=classes, labels=labels, notes=(note,))


def _numbered_names(count: int) -> list[str]:
    if count == 2:
        return ["background", "object"]
    return ["background", *(f"class_{value}" for value in range(1, count))]


def _enumerated(names: Sequence[str]) -> dict[str, int]:
    return {name: value for value, name in enumerate(names)}


def _mostly_strokes(annotations: Sequence[Annotation]) -> bool:
    kinds = Counter(shape.kind in _STROKES for one in annotations for shape in one.shapes)
    return kinds[True] > kinds[False]


def _mostly_bare(annotations: Sequence[Annotation]) -> bool:
    """Tell whether shapes cover less than half of the typical annotated image."""
    covered: list[float] = []
    for one in annotations:
        size = one.size_HW or (256, 256) if one.relative else one.size_HW
        if size is None or not one.shapes:
            continue
        canvas = np.zeros(size, np.uint8)
        for shape in one.shapes_in(size):
            if shape.label not in IGNORED_LABELS:
                paint(canvas, shape, 1)
        covered.append(float(canvas.mean()))
    return bool(covered) and float(np.median(covered)) < _BARE


def _near_duplicates(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return pairs of labels that may be one class: "mitochondria" beside "mitochondrion"."""
    pairs: list[tuple[str, str]] = []
    for one, other in combinations(names, 2):
        first, second = (re.sub(r"[\s_-]+", " ", name.lower()).strip() for name in (one, other))
        numbered = re.sub(r"\d+", "", first) == re.sub(r"\d+", "", second) and first != second
        alike = difflib.SequenceMatcher(None, first, second).ratio() >= _ALIKE
        if alike and not numbered:
            pairs.append((one, other))
    return tuple(pairs)
