"""What is said of a conversion: files that are skipped, shapes that are not drawn, notes."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from emcfsys_engine.annotations.draw import is_in_doubt
from emcfsys_engine.annotations.masks import LabelTable
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.dataset.sources import IN_DOUBT
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef


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
