"""What is to be converted, each item with how it is read, and what is said of it meanwhile."""

from collections.abc import Mapping, Sequence
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
from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.dataset.sources import IN_DOUBT
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.images.micrograph import ImageRef
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


class Reading(msgspec.Struct, frozen=True, kw_only=True):
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
        every = read_annotations(Path(item.path))
        if item.number >= len(every):
            what = "speaks of fewer images than when it was looked at"
            raise AnnotationError(item.path, what, "Convert again")
        return annotation_ids(
            part_for(every[item.number], item.image_ref), self.table, item.size_HW
        )

    def objects_of(self, item: ToConvert, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return class ids, and the numbers that a mask, or the file beside it, gives its objects.

        None where the labels have none. Shapes: uint8 H×W and integers H×W.
        """
        if item.kind != "mask":
            return ids, None
        numbers = read_instances(item.ref, self.table)
        if numbers is None and (beside := read_numbers(item.ref)) is not None:
            return all_numbered(ids, beside, self.table.background)
        return ids, numbers


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
    reading: Reading


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
