"""One item after another is read and written; what became of all is one answer."""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np

from emcfsys_engine.annotations.formats.coco import CocoImage
from emcfsys_engine.annotations.numbered import write_numbers
from emcfsys_engine.annotations.writer import LabelWriter, write_png
from emcfsys_engine.errors import InputError, OutputError
from emcfsys_engine.files import remedy_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import to_8_bit
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import instances_of
from emcfsys_engine.images.own_outputs import place_own
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.text import how_many
from emcfsys_engine.tools.convert.items import LabelReading, Skipped, Target, ToConvert


class OfAll(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for all items of a conversion, and what is said before any is written."""

    to: Target
    reading: LabelReading
    instances: tuple[int, ...] = ()  # in masks: classes whose objects are written beside them
    tolerance_px: float | None = None
    smallest_px: int = 0
    whole: str = ""  # COCO's one file
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    shapes_drawn: int = 0
    shapes_skipped: int = 0


class ItemOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one item."""

    written: str = ""
    skipped: Skipped | None = None
    notes: tuple[str, ...] = ()
    coco: CocoImage | None = None


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
            line += f"; {how_many(self.shapes_drawn, 'shape')} drawn, {self.shapes_skipped} skipped"
        return line


class Converter:
    """Reads items and writes each to its file below one folder."""

    def __init__(self, of_all: OfAll, out: Path, book: OutputBook) -> None:
        self._of_all, self._book = of_all, book
        self._writer = _writer(of_all, out)

    def one(self, item: ToConvert) -> ItemOutcome:
        """Convert one item; COCO's is kept for its one file.

        Raises: OutputError if its file cannot be written.
        """
        notes = list(item.notes)
        try:
            if item.why_not:
                raise InputError(item.path, item.why_not)
            if item.kind == "picture":
                made = ItemOutcome(written=self._picture(item.ref, Path(item.file), notes))
            else:
                made = self._labels(item, notes)
        except OutputError:
            raise
        except InputError as fault:
            made = ItemOutcome(skipped=Skipped.of(fault))
        return msgspec.structs.replace(made, notes=tuple(notes))

    def _labels(self, item: ToConvert, notes: list[str]) -> ItemOutcome:
        reading, writer = self._of_all.reading, self._writer
        assert writer is not None  # of all but pictures
        ids = reading.ids_of(item)
        if writer.to == "masks":  # these hold classes, as they are
            return ItemOutcome(written=str(self._mask(item, ids, writer, notes)))
        ids, numbers = reading.objects_of(item, ids)
        if writer.to == "coco":
            whole = f"{self._of_all.whole} ({item.name})"
            return ItemOutcome(written=whole, coco=writer.in_coco(item.name, ids, numbers))
        image = item.image_ref
        shown = image.path if image is not None else None
        if image is not None and item.view:
            shown = Path(self._picture(image, Path(item.file).with_name(item.view), notes))
        write = _writing(writer, item, ids, numbers, shown)
        return ItemOutcome(written=str(_place(Path(item.file), self._book, write, notes)))

    def _mask(
        self, item: ToConvert, ids: np.ndarray, writer: LabelWriter, notes: list[str]
    ) -> Path:
        """Write a mask, and what numbers its objects where they are told apart."""
        values = self._of_all.instances
        numbers = self._of_all.reading.objects_of(item, ids.copy())[1] if values else None
        write = _writing(writer, item, ids, None, None)
        mask = _place(Path(item.file), self._book, write, notes)
        if numbers is not None:
            own = np.where(np.isin(ids, values), numbers, 0)
            _place(instances_of(mask), self._book, lambda to: write_numbers(to, ids, own), notes)
        return mask

    def _picture(self, image: ImageRef, file: Path, notes: list[str]) -> str:
        """Write an 8-bit picture of an image; it is made anew each time, of the image of today."""
        micrograph = read_micrograph(image)
        grey = to_8_bit(micrograph.pixels, micrograph.info_bar_rows)
        return str(_place(file, self._book, lambda to: write_png(to, grey), notes))


def gathered(
    of_all: OfAll, became: Iterable[tuple[ToConvert, ItemOutcome]], out: Path, book: OutputBook
) -> Conversion:
    """Return what became of all items, in their order, once COCO's one file is written.

    Raises: OutputError if it cannot be.
    """
    written: list[str] = []
    skipped, notes = list(of_all.skipped), list(of_all.notes)
    writer = _writer(of_all, out)
    for item, one in became:
        written += [one.written] if one.written else []
        skipped += [one.skipped] if one.skipped is not None else []
        notes += one.notes
        if writer is not None and one.coco is not None:
            writer.add(one.coco, Path(item.image) if item.image and item.plane is None else None)
    if writer is not None and of_all.whole and written:
        _place(Path(of_all.whole), book, writer.finish, notes)
    return Conversion(
        written=tuple(written),
        skipped=tuple(skipped),
        classes=of_all.reading.classes,
        notes=tuple(dict.fromkeys(notes)),
        shapes_drawn=of_all.shapes_drawn,
        shapes_skipped=of_all.shapes_skipped,
    )


def _writer(of_all: OfAll, out: Path) -> LabelWriter | None:
    if of_all.to == "png":
        return None
    return LabelWriter(
        out=out,
        to=of_all.to,
        classes=of_all.reading.classes,
        background=of_all.reading.table.background,
        tolerance_px=of_all.tolerance_px,
        smallest_px=of_all.smallest_px,
    )


def _writing(
    writer: LabelWriter,
    item: ToConvert,
    ids: np.ndarray,
    numbers: np.ndarray | None,
    image: Path | None,
) -> Callable[[Path], None]:
    return lambda to: writer.write(
        item.name, ids, image=image, plane=item.plane, numbers=numbers, to_file=to
    )


def _place(file: Path, book: OutputBook, write: Callable[[Path], object], notes: list[str]) -> Path:
    """Write a file whole, and return its name; it is known as ours from then on."""
    try:
        placed = place_own(file, book, write)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise OutputError(file, what, remedy_of(error), errno=error.errno or 0) from None
    if placed != file:
        what = "was saved by somebody meanwhile, and is kept: the new version is"
        notes.append(f"{file} {what} {placed.name}")
    return placed
