"""What is to be converted: the labels of each image, and what is said of them on the way."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from emcfsys_engine.annotations.draw import annotation_ids, is_in_doubt, unknown_label
from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.layouts import MasksByClass, masks_by_class, paint_stencils
from emcfsys_engine.annotations.masks import (
    BACKGROUND_LABELS,
    IGNORED_LABELS,
    LabelTable,
    MaskFacts,
    MaskRecipe,
    read_instances,
    read_mask,
    recipe_of,
    table_of,
)
from emcfsys_engine.annotations.numbered import all_numbered, read_numbers
from emcfsys_engine.annotations.pair_masks import (
    Masks,
    NotedOrigins,
    behind_masks,
    masks_that_count,
)
from emcfsys_engine.annotations.pair_shapes import Place, pair_shapes, part_for
from emcfsys_engine.annotations.pairing import Key, key_of_file, match, picks_some, root_of
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.annotations.suggestions import untouched
from emcfsys_engine.dataset.sources import IN_DOUBT, LabelRef, size_mismatch
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.files import remedy_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import free_version, place_own
from emcfsys_engine.images.reader import find_images, probe
from emcfsys_engine.images.writers import is_companion
from emcfsys_engine.project import Source
from emcfsys_engine.tools.new_classes import facts_of, from_facts


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was not converted."""

    file: str
    why: str


_BEHIND = "the mask beside it was changed, or made anew, since"
_BY_THEMSELVES = 'Convert the masks by themselves: "FOLDER/*.png"'


@dataclass(kw_only=True)
class ConversionLog:
    """What was written and skipped so far, and why; it knows which files are ours."""

    overwrite: bool
    book: OutputBook
    written: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    behind: list[Path] = field(default_factory=list)  # outlines that say less than their masks
    drawn: int = 0
    lost: int = 0

    def count(self, annotation: Annotation, image: ImageRef | None, table: LabelTable) -> None:
        """Count an annotation's shapes, and say which of them are not drawn."""
        self.drawn += len(annotation.shapes)
        self.lost += len(annotation.skipped)
        where = f"{annotation.file}"
        if image is not None and image.plane is not None:
            where += f"#{image.plane}"
        if annotation.unused and not annotation.skipped:
            name = annotation.image_name or "an image"
            self.notes.append(f"{where}: {name}: {annotation.unused}: nothing is written for it")
        self.notes += [f"{where}: {remark}" for remark in annotation.remarks]
        if is_in_doubt(annotation, table):
            self.notes.append(f"{where}: where a skipped shape lies is not known: {IN_DOUBT}")

    def skip(self, fault: InputError) -> None:
        """Note a file that is not converted, with its reason."""
        why = f"{fault.what}. {fault.remedy}".strip().rstrip(".")
        self.skipped.append(Skipped(file=str(fault.where), why=why))

    def place_for(self, file: Path, source: Path) -> Path | None:
        """Return where a file may be written: itself, or a new version beside a person's; or None.

        Only what this program wrote, and nobody changed since, is ever replaced.
        """
        if not os.path.lexists(file):
            return file
        if file.exists() and file.samefile(source):
            why = "would be overwritten by its own conversion. Give another --out"
        elif self.overwrite:
            free = free_version(file, self.book)
            if free != file:
                what = "is not as this program wrote it, and kept: the new version is"
                self.notes.append(f"{file} {what} {free.name}")
            return free
        else:
            why = f"{file} exists already. Give --overwrite to replace it, or another --out"
        self.skipped.append(Skipped(file=str(source), why=why))
        return None

    def write(self, file: Path, write: Callable[[Path], object]) -> Path:
        """Write a file whole, and return its name; it is known as ours from then on.

        Raises: InputError if it cannot be written.
        """
        try:
            placed = place_own(file, self.book, write)
            if placed != file:
                what = "was saved by somebody meanwhile, and is kept: the new version is"
                self.notes.append(f"{file} {what} {placed.name}")
            return placed
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            raise InputError(file, what, remedy_of(error)) from None


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labels of one image, to be read when their turn comes. Shapes: read gives uint8 H×W."""

    name: str  # below the output folder, without extension
    path: Path
    image: ImageRef | None
    plane: int | None
    read: Callable[[], np.ndarray]
    # Class ids in, these and the numbers of objects out: None where the labels have none.
    objects: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]] = lambda ids: (ids, None)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a conversion was given: where the labels are, whose they are, what they are called."""

    source: str
    base: Path
    refs: Sequence[ImageRef]
    image_root: Path
    labels: Mapping[str, str]
    own: Source | None  # the [[data]] table of a project that the labels are of

    @property
    def root(self) -> Path:
        """The folder that relative paths of the labels start at."""
        return root_of(self.source, self.base)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of all images, and the classes that they are read with."""

    items: list[Labelled]
    classes: dict[str, int]
    table: LabelTable


def labels_of(given: Given, classes: Mapping[str, int] | None, log: ConversionLog) -> Labels:
    """Return the labels of a source: of annotations, of one folder a class, or of masks.

    Raises: AnnotationError where there is nothing to convert.
    """
    found = _annotations(given, log)
    where = given.base / given.source
    if found:
        made = _of_annotations(found, given, classes, log)
    elif by_class := _class_folders(given, classes):
        made = _of_class_folders(by_class, given, classes, log)
    else:
        made = _of_masks(given, classes, log)
    if not made.items and not log.skipped and found:
        what = f"says nothing of any image: {log.notes[0]}"
        raise AnnotationError(where, what, "Finish and save a task first")
    if not made.items and not log.skipped and log.behind:
        raise AnnotationError(where, f"holds no outlines that count: {_BEHIND}", _BY_THEMSELVES)
    if not made.items and not log.skipped:
        raise AnnotationError(where, "holds no masks and no annotations known here")
    return made


def _annotations(given: Given, log: ConversionLog) -> dict[Path, tuple[Annotation, ...]]:
    faults: list[InputError] = []
    found = find_annotations(given.source, given.base, faults, log.notes)
    for fault in faults:
        log.skip(fault)
    if waiting := untouched(found):
        log.notes.append(f"{len(waiting)} suggestions that nobody saved yet: left out")
        found = {path: every for path, every in found.items() if path not in waiting}
        if not found:
            what = "holds nothing but suggestions that nobody saved yet"
            raise AnnotationError(given.base / given.source, what, "Save them in Labelme first")
    return _without_beaten(found, log)


def _without_beaten(
    found: Mapping[Path, tuple[Annotation, ...]], log: ConversionLog
) -> dict[Path, tuple[Annotation, ...]]:
    """Leave out outlines of ours whose mask a person corrected, or another model made anew.

    Where all of them are, the masks are converted; else each is said to be skipped.
    """
    beaten = log.behind = behind_masks(found)
    left = {path: every for path, every in found.items() if path not in beaten}
    for path in beaten if left else ():
        log.skip(AnnotationError(path, _BEHIND, _BY_THEMSELVES))
    return left


def _of_annotations(
    found: Mapping[Path, tuple[Annotation, ...]],
    given: Given,
    classes: Mapping[str, int] | None,
    log: ConversionLog,
) -> Labels:
    chosen = dict(classes) if classes else classes_of_labels(found, given.labels)
    table = table_for(chosen, given)
    return Labels(items=annotated(found, table, given, log), classes=chosen, table=table)


def _of_class_folders(
    by_class: MasksByClass, given: Given, classes: Mapping[str, int] | None, log: ConversionLog
) -> Labels:
    log.notes.clear()  # the files that are no annotations are masks, or said to be none
    chosen = dict(classes) if classes else classes_of_folders(by_class, log)
    table = table_for(chosen, given)
    for name in [name for name in by_class if table.of_name(name) is None]:
        log.skip(unknown_label(given.root / name, name, table))
        del by_class[name]
    return Labels(items=in_class_folders(by_class, table, given), classes=chosen, table=table)


def _of_masks(given: Given, classes: Mapping[str, int] | None, log: ConversionLog) -> Labels:
    log.notes.clear()
    images = set(given.refs)
    every = find_images(given.source, given.base)
    masks = [ref for ref in every if ref not in images and not is_companion(ref.path)]
    counting = masks_that_count(masks)
    if classes is not None and not given.labels:
        for mask in counting.of_other_classes(classes):
            what, remedy = "a model of other classes made it", "Convert it with its own classes"
            log.skip(AnnotationError(str(mask), what, remedy))
            counting.drop(mask)
    facts = facts_of(counting.refs, by_colours=any("#" in one for one in given.labels))
    if classes is None:
        classes, labels, notes = _classes_of_masks(facts, given.labels)
        given = replace(given, labels=labels)
        log.notes += notes
    table = table_for(classes, given)
    recipe = recipe_of([one for _, one in facts], table, sorted(classes.values()))
    items = masked(counting, recipe, table, classes, given)
    log.notes += counting.notes
    return Labels(items=items, classes=dict(classes), table=table)


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
    return proposal.classes, proposal.labels, notes


def _class_folders(given: Given, classes: Mapping[str, int] | None) -> MasksByClass:
    """Return the masks of a source that has one folder a class: by itself, or as classes say."""
    if picks_some(given.source, given.base):
        return {}
    by_class = masks_by_class(given.base / Path(given.source).expanduser())
    known = table_of(classes, given.labels) if classes else None
    if known and all(known.of_name(name) is None for name in by_class):
        return {}
    return by_class


def table_for(classes: Mapping[str, int], given: Given) -> LabelTable:
    """Return what labels mean, as the table of a project that they are of says it."""
    table, own = table_of(classes, given.labels), given.own
    if own is None:
        return table
    return replace(table, ignores_undrawn=own.undrawn == "ignore", reviewed=own.reviewed)


def output_names(refs: Sequence[ImageRef], root: Path) -> list[str]:
    """Return a name below the output folder for each image: x, x.0012, or x.dm4 on collision.

    No two are alike, also where a file system takes A for a.
    """
    planes: dict[Path, list[int | None]] = {}
    for ref in refs:
        planes.setdefault(ref.path, []).append(ref.plane)
    stems = {path: key_of_file(path, root)[0].removeprefix("./") for path in planes}
    owners = Counter(stem.casefold() for stem in stems.values())
    taken: set[str] = set()
    found: dict[tuple[Path, int | None], str] = {}
    for path in sorted(planes, key=lambda path: len(path.name)):
        bases = _bases(path, stems[path], is_alone=owners[stems[path].casefold()] == 1)
        every = (
            [base if plane is None else f"{base}.{plane:04d}" for plane in planes[path]]
            for base in bases
        )
        names = next(names for names in every if taken.isdisjoint(map(str.casefold, names)))
        taken.update(map(str.casefold, names))
        found.update(zip([(path, plane) for plane in planes[path]], names, strict=True))
    return [found[ref.path, ref.plane] for ref in refs]


def _bases(path: Path, stem: str, *, is_alone: bool) -> Iterator[str]:
    """Yield names for one image, the best first; each is another one."""
    whole = str(Path(stem).parent / path.name)
    first = [stem, whole] if is_alone else [whole]
    return itertools.chain(first, (f"{whole}~{number}" for number in itertools.count(2)))


def annotated(
    found: Mapping[Path, tuple[Annotation, ...]],
    table: LabelTable,
    given: Given,
    log: ConversionLog,
) -> list[Labelled]:
    """Return the annotations of images, and those that belong to none."""
    refs, image_root, root = given.refs, given.image_root, given.root
    pairs = pair_shapes(refs, image_root, found, root)
    log.notes += pairs.notes
    images_of: dict[Place, list[ImageRef]] = {}
    for image, place in pairs.of_image.items():
        images_of.setdefault(place, []).append(image)
    named = dict(zip(refs, output_names(refs, image_root), strict=True))
    items: list[Labelled] = []
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
                Labelled(
                    name=name,
                    path=path,
                    image=image,
                    plane=image.plane if image else None,
                    read=lambda annotation=annotation, size=size: annotation_ids(
                        annotation, table, size
                    ),
                )
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
    return _name_of_key(key_of_file(place[0], root) if alone else annotation.key)


def masked(
    counting: Masks,
    recipe: MaskRecipe,
    table: LabelTable,
    classes: Mapping[str, int],
    given: Given,
) -> list[Labelled]:
    """Return the masks of images, and those that belong to none."""
    refs, image_root, root = given.refs, given.image_root, given.root
    masks = counting.refs
    image_of = {mask: ref for ref, mask in counting.pairs(refs, image_root, root)[0].items()}
    named = dict(zip(refs, output_names(refs, image_root), strict=True))
    own = dict(zip(masks, output_names(masks, root), strict=True))
    values = tuple(sorted(classes.values()))
    return [
        Labelled(
            name=named[image_of[mask]] if mask in image_of else own[mask],
            path=mask.path,
            image=image_of.get(mask),
            plane=mask.plane,
            read=lambda mask=mask: read_mask(mask, table, recipe, values),
            objects=lambda ids, mask=mask: _objects_of(mask, ids, table),
        )
        for mask in masks
    ]


def _objects_of(
    mask: ImageRef, ids: np.ndarray, table: LabelTable
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return class ids, and the numbers that a mask, or the file beside it, gives its objects."""
    numbers = read_instances(mask, table)
    if numbers is None and (beside := read_numbers(mask)) is not None:
        return all_numbered(ids, beside, table.background)
    return ids, numbers


def in_class_folders(by_class: MasksByClass, table: LabelTable, given: Given) -> list[Labelled]:
    """Return the masks of images that lie in one folder a class, painted over each other."""
    refs, image_root = given.refs, given.image_root
    parts: dict[Key, list[tuple[str, Path]]] = {}
    for name in sorted(by_class, key=lambda name: table.of_name(name) or 0):
        for key, mask in by_class[name].items():
            parts.setdefault(key, []).append((name, mask.path))
    image_of = {key: ref for ref, key in match(refs, image_root, {k: k for k in parts})[0].items()}
    named = dict(zip(refs, output_names(refs, image_root), strict=True))
    items: list[Labelled] = []
    for key, every in parts.items():
        image = image_of.get(key)
        size = probe(every[0][1]).shape[:2]
        items.append(
            Labelled(
                name=named[image] if image else _name_of_key(key),
                path=every[0][1],
                image=image,
                plane=None,
                read=lambda every=every, size=size: paint_stencils(every, table, size),
            )
        )
    return items


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


def classes_of_folders(by_class: MasksByClass, log: ConversionLog) -> dict[str, int]:
    """Return classes by the names of folders that hold the masks of one class each."""
    log.notes.append(f"one folder of masks a class: {', '.join(by_class)}")
    names = [name for name in by_class if name not in BACKGROUND_LABELS | IGNORED_LABELS]
    return {"background": 0} | {name: value for value, name in enumerate(names, start=1)}


def _size(image: ImageRef) -> tuple[int, int] | None:
    try:
        shape = probe(image.path).shape
    except InputError:
        return None
    return shape[0], shape[1]


def _name_of_key(key: Key) -> str:
    name, plane = key
    name = name.removeprefix("./").lstrip("/")
    return name if plane is None else f"{name}.{plane:04d}"
