"""What a conversion wrote and skipped, and why; it keeps what a person changed."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from emcfsys_engine.annotations.draw import is_in_doubt
from emcfsys_engine.annotations.masks import LabelTable
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.dataset.sources import IN_DOUBT
from emcfsys_engine.errors import InputError
from emcfsys_engine.files import remedy_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import free_version, place_own


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was not converted."""

    file: str
    why: str


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
