"""What is to be converted: how each item is read, where it is written, what is said of it then."""

import itertools
import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from emcfsys_engine.annotations.draw import annotation_ids, is_in_doubt
from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.layouts import paint_stencils
from emcfsys_engine.annotations.masks import (
    LabelTable,
    MaskRecipe,
    read_instances,
    read_mask,
    table_of,
)
from emcfsys_engine.annotations.numbered import all_numbered, read_numbers
from emcfsys_engine.annotations.pair_shapes import part_for
from emcfsys_engine.annotations.pairing import Key, key_of_file, root_of
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.annotations.writer import LABELME_OPENS, LabelFormat, file_of
from emcfsys_engine.dataset.objects import drawn_ids
from emcfsys_engine.dataset.sources import IN_DOUBT
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_names import LONGEST_NAME, as_blind_disks_see
from emcfsys_engine.images.own_outputs import free_version, opened_book
from emcfsys_engine.images.reader import probe
from emcfsys_engine.project import Source


class ToConvert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One micrograph, or the labels of one image: what reads it needs no other's."""

    name: str  # below the output folder, without extension
    kind: Literal["picture", "mask", "shapes", "class_folders"]
    path: str
    plane: int | None = None  # of a stack of masks or pictures; of shapes, their image's
    number: int = 0  # shapes: which of the images that their file speaks of
    size_HW: tuple[int, int] = (0, 0)  # shapes: of their image
    parts: tuple[tuple[str, str], ...] = ()  # class_folders: (label, mask), the lowest first
    image: str = ""  # that the labels are of; empty: it was not found
    image_plane: int | None = None
    file: str = ""  # that it is written to; empty for COCO's one file
    view: str = ""  # the name beside it of the picture that Labelme is to show
    notes: tuple[str, ...] = ()  # what is said of that file
    why_not: str = ""  # it is not converted

    def of(self, image: ImageRef | None) -> "ToConvert":
        """Return the same labels, of an image."""
        if image is None:
            return self
        return msgspec.structs.replace(self, image=str(image.path), image_plane=image.plane)

    @property
    def ref(self) -> ImageRef:
        """What is read."""
        return ImageRef(path=Path(self.path), plane=self.plane)

    @property
    def image_ref(self) -> ImageRef | None:
        """The image that the labels are of."""
        return ImageRef(path=Path(self.image), plane=self.image_plane) if self.image else None


class LabelReading(msgspec.Struct, frozen=True, kw_only=True):
    """What the labels of all images are read with: found once, the same for each."""

    classes: dict[str, int]
    table: LabelTable
    recipe: MaskRecipe = "index"

    def ids_of(self, item: ToConvert) -> np.ndarray:
        """Return the class ids of an item. Shapes: uint8 H×W.

        Raises: AnnotationError, ImageError for labels that cannot be read, or are of no class.
        """
        if item.kind == "mask":
            values = tuple(sorted(self.classes.values()))
            return read_mask(item.ref, self.table, self.recipe, values)
        if item.kind == "class_folders":
            parts = [(label, Path(mask)) for label, mask in item.parts]
            return paint_stencils(parts, self.table, probe(Path(item.path)).shape[:2])
        return annotation_ids(_drawn(item), self.table, item.size_HW)

    def objects_of(self, item: ToConvert, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return class ids, and the numbers that a mask, or the file beside it, gives its objects.

        Shapes are objects one by one. None where the labels have none.
        Shapes: uint8 H×W and integers H×W.
        """
        if item.kind == "class_folders":
            return ids, None
        if item.kind == "shapes":
            numbers = drawn_ids(_drawn(item), self.table, item.size_HW)
            numbers[ids == self.table.background] = 0
            return ids, numbers
        numbers = read_instances(item.ref, self.table)
        if numbers is None and (beside := read_numbers(item.ref, must_read=True)) is not None:
            return all_numbered(ids, beside, self.table.background)
        return ids, numbers


def _drawn(item: ToConvert) -> Annotation:
    every = read_annotations(Path(item.path))
    if item.number >= len(every):
        what = "speaks of fewer images than when it was looked at"
        raise AnnotationError(item.path, what, "Convert again")
    return part_for(every[item.number], item.image_ref)


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
    """The labels of all images, and what they are read with."""

    items: list[ToConvert]
    reading: LabelReading


def table_for(classes: Mapping[str, int], given: Given) -> LabelTable:
    """Return what labels mean, as the table of a project that they are of says it."""
    table, own = table_of(classes, given.labels), given.own
    if own is None:
        return table
    return replace(table, ignores_undrawn=own.undrawn == "ignore", reviewed=own.reviewed)


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was not converted."""

    file: str
    why: str

    @classmethod
    def of(cls, fault: InputError) -> "Skipped":
        """Return the file that a fault names, with its reason."""
        why = f"{fault.what}. {fault.remedy}".strip().rstrip(".")
        return cls(file=str(fault.where), why=why)


@dataclass(kw_only=True)
class ConversionLog:
    """What there is to say before anything is written."""

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
        self.skipped.append(Skipped.of(fault))


# Where each item is written to: decided of all of them before the first is written.
#
# So no two meet, and who goes on after a kill knows which files were not there before.

Target = LabelFormat | Literal["png"]


class Places:
    """The files of an output folder that a conversion is about to write.

    Only what this program wrote, and nobody changed since, is ever replaced.
    """

    def __init__(self, out: Path, to: Target, *, overwrite: bool) -> None:
        self._to: Target = to
        self._out, self._overwrite = out, overwrite
        self._book = opened_book(out)

    def of_all(self, items: Sequence[ToConvert]) -> list[ToConvert]:
        """Return items with where they go, or with why they go nowhere."""
        held = Counter(item.name for item in items)
        files = set() if self._to == "coco" else {self._file_of(name) for name in held}
        views = {self._view_of(item.name) for item in items if self._is_shown(item)}
        return [self._placed(one, files, views, is_alone=held[one.name] == 1) for one in items]

    def of_one(self, source: str) -> tuple[str, str, str]:
        """Return COCO's one file, what is said of it, and why it is not written."""
        return self._place(file_of(self._out, "coco", ""), source, ())

    def _placed(
        self, item: ToConvert, files: Container[Path], views: Container[Path], *, is_alone: bool
    ) -> ToConvert:
        file = note = why = view = ""
        if self._to != "coco":
            file, note, why = self._place(self._file_of(item.name), item.path, files)
        if not why and not is_alone:
            why = f"shares the name {item.name} with another file"
        if not why and self._is_shown(item):
            view = self._view(item, views).name
        notes = (*item.notes, note) if note else item.notes
        return msgspec.structs.replace(item, file=file, view=view, notes=notes, why_not=why)

    def _place(self, file: Path, source: str, others: Container[Path]) -> tuple[str, str, str]:
        if len(os.fsencode(file.name)) > LONGEST_NAME:
            return "", "", f"{file.name} would be too long for a name. Give it a shorter one"
        if not os.path.lexists(file):
            return str(file), "", ""
        if file.exists() and file.samefile(source):
            return "", "", "would be overwritten by its own conversion. Give another --out"
        if not self._overwrite:
            why = f"{file} exists already. Give --overwrite to replace it, or another --out"
            return "", "", why
        free = free_version(file, self._book, others)
        what = "is not as this program wrote it, and kept: the new version is"
        return str(free), "" if free == file else f"{file} {what} {free.name}", ""

    def _file_of(self, name: str) -> Path:
        return self._view_of(name) if self._to == "png" else file_of(self._out, self._to, name)

    def _view_of(self, name: str) -> Path:
        return self._out / f"{name}.png"

    def _is_shown(self, item: ToConvert) -> bool:
        """Tell whether Labelme needs a picture of the image: it opens few formats, no planes."""
        image = item.image_ref
        if self._to != "labelme" or image is None:
            return False
        return image.plane is not None or image.path.suffix.lower() not in LABELME_OPENS

    def _view(self, item: ToConvert, views: Container[Path]) -> Path:
        """Return the picture of an image: neither its labels nor what a person has there."""
        file = self._view_of(item.name)
        if file.exists() and file.samefile(item.path):
            file = file.with_name(f"{file.stem}.view.png")
        return free_version(file, self._book, views)


def output_names(refs: Sequence[ImageRef], root: Path) -> list[str]:
    """Return a name below the output folder for each image: x, x.0012, or x.dm4 on collision.

    No two are alike, also where a file system takes A for a.
    """
    planes: dict[Path, list[int | None]] = {}
    for ref in refs:
        planes.setdefault(ref.path, []).append(ref.plane)
    stems = {path: key_of_file(path, root)[0].removeprefix("./") for path in planes}
    owners = Counter(map(as_blind_disks_see, stems.values()))
    taken: set[str] = set()
    found: dict[tuple[Path, int | None], str] = {}
    for path in sorted(planes, key=lambda path: len(path.name)):
        bases = _bases(path, stems[path], is_alone=owners[as_blind_disks_see(stems[path])] == 1)
        every = (
            [base if plane is None else f"{base}.{plane:04d}" for plane in planes[path]]
            for base in bases
        )
        names = next(names for names in every if taken.isdisjoint(map(as_blind_disks_see, names)))
        taken.update(map(as_blind_disks_see, names))
        found.update(zip([(path, plane) for plane in planes[path]], names, strict=True))
    return [found[ref.path, ref.plane] for ref in refs]


def _bases(path: Path, stem: str, *, is_alone: bool) -> Iterator[str]:
    """Yield names for one image, the best first; each is another one."""
    whole = str(Path(stem).parent / path.name)
    first = [stem, whole] if is_alone else [whole]
    return itertools.chain(first, (f"{whole}~{number}" for number in itertools.count(2)))


def name_of_key(key: Key) -> str:
    """Return the name of labels whose image is not known."""
    name, plane = key
    name = name.removeprefix("./").lstrip("/")
    return name if plane is None else f"{name}.{plane:04d}"
