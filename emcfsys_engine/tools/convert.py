"""Labels from any tool to any other, masks among them; micrographs to PNG that Labelme opens."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from emcfsys_engine.annotations.draw import annotation_ids, is_in_doubt
from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.masks import (
    BACKGROUND_LABELS,
    IGNORED_LABELS,
    LabelTable,
    mask_facts,
    read_instances,
    read_mask,
    table_of,
)
from emcfsys_engine.annotations.pair_shapes import Place, pair_shapes, part_for
from emcfsys_engine.annotations.pairing import Key, key_of_file, match, root_of
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.annotations.suggestions import untouched
from emcfsys_engine.annotations.writer import (
    LABELME_OPENS,
    LabelFormat,
    LabelWriter,
    write_png,
)
from emcfsys_engine.dataset.sources import IN_DOUBT, LabelRef, size_mismatch
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.files import remedy_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import to_8_bit
from emcfsys_engine.images.output_book import OutputBook, free_version, place_own
from emcfsys_engine.images.reader import find_images, left_out_words, probe, read_micrograph
from emcfsys_engine.images.writers import is_companion
from emcfsys_engine.project import UNLABELLED, Source


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was not converted."""

    file: str
    why: str


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversion did: every file written, every one skipped and why."""

    written: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    classes: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    shapes_drawn: int = 0  # of annotations, as they were read
    shapes_skipped: int = 0  # each with its reason in the notes

    @property
    def summary(self) -> str:
        """One line: how many were converted and skipped."""
        line = f"{len(self.written)} written, {len(self.skipped)} skipped"
        if self.shapes_skipped:
            line += f"; {self.shapes_drawn} shapes drawn, {self.shapes_skipped} skipped"
        return line


@dataclass(kw_only=True)
class _Log:
    overwrite: bool
    book: OutputBook
    written: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
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
        self.skipped.append(Skipped(file=str(fault.where), why=_why(fault)))

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

    def write(self, file: Path, write: Callable[[Path], object]) -> None:
        """Write a file whole; it is known as ours from then on.

        Raises: InputError if it cannot be written.
        """
        try:
            place_own(file, self.book, write)
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            raise InputError(file, what, remedy_of(error)) from None

    def result(self, classes: Mapping[str, int]) -> Conversion:
        return Conversion(
            written=tuple(self.written),
            skipped=tuple(self.skipped),
            classes=dict(classes),
            notes=tuple(dict.fromkeys(self.notes)),
            shapes_drawn=self.drawn,
            shapes_skipped=self.lost,
        )


@dataclass(frozen=True, kw_only=True)
class _Labelled:
    """Labels of one image, to be read when their turn comes. Shapes: read gives uint8 H×W."""

    name: str  # below the output folder, without extension
    path: Path
    image: ImageRef | None
    plane: int | None
    read: Callable[[], np.ndarray]
    numbers: Callable[[], np.ndarray | None] = lambda: None  # of objects, where a mask has them


def convert_images(
    images: str, out: Path, *, overwrite: bool = False, base: Path | None = None
) -> Conversion:
    """Write every micrograph as an 8-bit PNG, stretched as EMCFsys sees it, for Labelme.

    Sub-folders are kept; a plane of a stack is x.0012.png, and names that collide keep their
    extension (x.dm4.png). Annotations of these PNGs pair with the originals by these names.
    """
    base = base or Path.cwd()
    root, log = root_of(images, base), _Log(overwrite=overwrite, book=OutputBook(out))
    left_out: list[Path] = []
    refs = find_images(images, base, left_out)
    if left_out:
        log.notes.append(left_out_words(left_out))
    for ref, name in zip(refs, output_names(refs, root), strict=True):
        file = log.place_for(out / f"{name}.png", ref.path)
        if file is None:
            continue
        try:
            micrograph = read_micrograph(ref)
        except InputError as fault:
            log.skip(fault)
            continue
        grey = to_8_bit(micrograph.pixels, micrograph.info_bar_rows)
        log.write(file, lambda to, grey=grey: write_png(to, grey))
        log.written.append(str(file))
    return log.result({})


def convert_labels(
    source: str,
    out: Path,
    *,
    to: LabelFormat,
    images: str | None = None,
    classes: Mapping[str, int] | None = None,
    labels: Mapping[str, str] | None = None,
    own: Source | None = None,
    tolerance_px: float | None = None,
    smallest_px: int = 0,
    overwrite: bool = False,
    base: Path | None = None,
) -> Conversion:
    """Convert masks or annotations of any known tool to masks or to another tool's annotations.

    Without classes those found are used: labels in alphabetic order from 1 with background 0, or
    the values of masks. Labels are read as in [data.labels] of project.toml; `own` is the table of
    a project that these labels are of. Objects that a mask numbers stay objects of their own.
    Units:  outlines stray at most tolerance_px (0 to 2; by default 0.5 for Labelme and 0.3, which
            moves no pixel, for the others); regions below smallest_px are left out.
    Raises: InputError when nothing is found at all.
    """
    base = base or Path.cwd()
    log = _Log(overwrite=overwrite, book=OutputBook(out))
    labels = {**(own.labels if own else {}), **(labels or {})}
    if tolerance_px is not None and not 0 <= tolerance_px <= 2:
        raise InputError("--tolerance", f"{tolerance_px:g} px is outside 0 to 2", "Use 0.5")
    refs = find_images(images, base) if images else []
    image_root = root_of(images, base) if images else base
    faults: list[InputError] = []
    found = find_annotations(source, base, faults, log.notes)
    if waiting := untouched(found):
        log.notes.append(f"{len(waiting)} suggestions that nobody saved yet: left out")
        found = {path: every for path, every in found.items() if path not in waiting}
        if not found:
            what = "holds nothing but suggestions that nobody saved yet"
            raise AnnotationError(base / source, what, "Save them in Labelme first")
    for fault in faults:
        log.skip(fault)
    if found:
        chosen = dict(classes) if classes else _classes_of_labels(found, labels)
        table = _table(chosen, labels, own)
        items = _annotated(found, table, refs, image_root, root_of(source, base), log)
    else:
        known = set(refs)
        log.notes.clear()  # the files that are no annotations are masks, or said to be none
        masks = [
            ref
            for ref in find_images(source, base)
            if ref not in known and not is_companion(ref.path)
        ]
        chosen = dict(classes) if classes else _classes_of_masks(masks, labels, log)
        table = _table(chosen, labels, own)
        items = _masked(masks, table, chosen, refs, image_root, root_of(source, base))
    if not items and not log.skipped:
        raise AnnotationError(base / source, "holds no masks and no annotations known here")
    writer = LabelWriter(
        out=out,
        to=to,
        classes=chosen,
        background=table.background,
        tolerance_px=tolerance_px,
        smallest_px=smallest_px,
    )
    _write_all(items, writer, log)
    return log.result(chosen)


def _table(classes: Mapping[str, int], labels: Mapping[str, str], own: Source | None) -> LabelTable:
    table = table_of(classes, labels)
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


def _annotated(
    found: Mapping[Path, tuple[Annotation, ...]],
    table: LabelTable,
    refs: Sequence[ImageRef],
    image_root: Path,
    root: Path,
    log: _Log,
) -> list[_Labelled]:
    pairs = pair_shapes(refs, image_root, found, root)
    images_of: dict[Place, list[ImageRef]] = {}
    for image, place in pairs.of_image.items():
        images_of.setdefault(place, []).append(image)
    named = dict(zip(refs, output_names(refs, image_root), strict=True))
    items: list[_Labelled] = []
    for path, number in ((p, n) for p, several in found.items() for n in range(len(several))):
        place = (path, number)
        for image in images_of.get(place, [None]):
            annotation = part_for(found[path][number], image)
            log.count(annotation, image, table)
            if annotation.unused:
                continue
            size = _drawn_size(annotation, image, log)
            if size is None:
                continue
            name = named[image] if image else _name_of(place, annotation, found, root)
            items.append(
                _Labelled(
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
    annotation: Annotation, image: ImageRef | None, log: _Log
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


def _name_of(
    place: Place,
    annotation: Annotation,
    found: Mapping[Path, tuple[Annotation, ...]],
    root: Path,
) -> str:
    """Return the output name of an annotation whose image was not found."""
    alone = len(found[place[0]]) == 1 or not annotation.image_name
    return _name_of_key(key_of_file(place[0], root) if alone else annotation.key)


def _masked(
    masks: Sequence[ImageRef],
    table: LabelTable,
    classes: Mapping[str, int],
    refs: Sequence[ImageRef],
    image_root: Path,
    root: Path,
) -> list[_Labelled]:
    keys = {mask: key_of_file(mask.path, root, mask.plane) for mask in masks}
    image_of = {mask: ref for ref, mask in match(refs, image_root, keys)[0].items()}
    named = dict(zip(refs, output_names(refs, image_root), strict=True))
    own = dict(zip(masks, output_names(masks, root), strict=True))
    values = tuple(sorted(classes.values()))
    return [
        _Labelled(
            name=named[image_of[mask]] if mask in image_of else own[mask],
            path=mask.path,
            image=image_of.get(mask),
            plane=mask.plane,
            read=lambda mask=mask: read_mask(mask, table, "index", values),
            numbers=lambda mask=mask: read_instances(mask, table),
        )
        for mask in masks
    ]


def _write_all(items: Sequence[_Labelled], writer: LabelWriter, log: _Log) -> None:
    twice = {name for name, count in Counter(item.name for item in items).items() if count > 1}
    coco = writer.to == "coco"
    whole = log.place_for(writer.file_of(""), items[0].path) if coco and items else None
    if coco and items and whole is None:
        return
    for item in items:
        file = whole or log.place_for(writer.file_of(item.name), item.path)
        if file is None:
            continue
        try:
            if item.name in twice:
                raise AnnotationError(item.path, f"shares the name {item.name} with another file")
            ids, numbers = item.read(), item.numbers()
        except InputError as fault:
            log.skip(fault)
            continue
        image = item.image.path if item.image else None
        if item.image and _to_be_shown(writer, item.image):
            image = writer.out / f"{item.name}.png"
            if not _write_view(item.image, image, log):
                continue
        if coco:
            writer.write(item.name, ids, image=image, plane=item.plane, numbers=numbers)
        else:
            log.write(file, _writing(writer, item, ids, numbers, image))
        log.written.append(f"{file} ({item.name})" if coco else str(file))
    if whole is not None and any(log.written):
        log.write(whole, writer.finish)


def _writing(
    writer: LabelWriter,
    item: _Labelled,
    ids: np.ndarray,
    numbers: np.ndarray | None,
    image: Path | None,
) -> Callable[[Path], None]:
    return lambda to: writer.write(
        item.name, ids, image=image, plane=item.plane, numbers=numbers, to_file=to
    )


def _to_be_shown(writer: LabelWriter, image: ImageRef) -> bool:
    """Tell whether Labelme needs a picture of the image: it opens few formats, and no planes."""
    opens = image.plane is None and image.path.suffix.lower() in LABELME_OPENS
    return writer.to == "labelme" and not opens


def _write_view(image: ImageRef, file: Path, log: _Log) -> bool:
    """Write the 8-bit picture that a Labelme file points to, unless it is there."""
    if file.exists():
        return True
    try:
        micrograph = read_micrograph(image)
    except InputError as fault:
        log.skip(fault)
        return False
    grey = to_8_bit(micrograph.pixels, micrograph.info_bar_rows)
    log.write(file, lambda to: write_png(to, grey))
    return True


def _classes_of_labels(
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


def _classes_of_masks(
    masks: Sequence[ImageRef], labels: Mapping[str, str], log: _Log
) -> dict[str, int]:
    """Return classes for the values that masks hold; 0 is the background."""
    given = [name for name in dict.fromkeys(labels.values()) if name != "ignore"]
    if given:
        return {"background": 0} | {
            name: value for value, name in enumerate([n for n in given if n != "background"], 1)
        }
    table = table_of({f"class {value}": value for value in range(255)}, {})
    values: set[int] = set()
    for mask in masks:
        try:
            values |= {value for value, _ in mask_facts(mask, table).values if value < UNLABELLED}
        except InputError:
            continue  # it is skipped, with its reason, when its turn comes
    log.notes.append("no classes were given: values are named class 1, class 2 …")
    return {"background": 0} | {f"class {value}": value for value in sorted(values - {0})}


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


def _why(fault: InputError) -> str:
    return f"{fault.what}. {fault.remedy}".strip().rstrip(".")
