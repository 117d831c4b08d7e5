"""Labels from any tool to any other, masks among them; micrographs to PNG that Labelme opens."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.annotations.writer import (
    LABELME_OPENS,
    LabelFormat,
    LabelWriter,
    write_png,
)
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import to_8_bit
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import free_version
from emcfsys_engine.images.reader import find_images, left_out_words, read_micrograph
from emcfsys_engine.project import Source
from emcfsys_engine.tools.convert.items import Given, Labelled
from emcfsys_engine.tools.convert.log import ConversionLog, Skipped
from emcfsys_engine.tools.convert.names import output_names
from emcfsys_engine.tools.convert.sources import labels_of


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


def convert_images(
    images: str, out: Path, *, overwrite: bool = False, base: Path | None = None
) -> Conversion:
    """Write every micrograph as an 8-bit PNG, stretched as EMCFsys sees it, for Labelme.

    Sub-folders are kept; a plane of a stack is x.0012.png, and names that collide keep their
    extension (x.dm4.png). Annotations of these PNGs pair with the originals by these names.
    """
    base = base or Path.cwd()
    root, log = root_of(images, base), ConversionLog(overwrite=overwrite, book=OutputBook(out))
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
    return _result(log, {})


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
    log = ConversionLog(overwrite=overwrite, book=OutputBook(out))
    labels = {**(own.labels if own else {}), **(labels or {})}
    if tolerance_px is not None and not 0 <= tolerance_px <= 2:
        raise InputError("--tolerance", f"{tolerance_px:g} px is outside 0 to 2", "Use 0.5")
    refs = find_images(images, base) if images else []
    image_root = root_of(images, base) if images else base
    given = Given(
        source=source, base=base, refs=refs, image_root=image_root, labels=labels, own=own
    )
    found = labels_of(given, classes, log)
    writer = LabelWriter(
        out=out,
        to=to,
        classes=found.classes,
        background=found.table.background,
        tolerance_px=tolerance_px,
        smallest_px=smallest_px,
    )
    _write_all(found.items, writer, log)
    return _result(log, found.classes)


def _result(log: ConversionLog, classes: Mapping[str, int]) -> Conversion:
    return Conversion(
        written=tuple(log.written),
        skipped=tuple(log.skipped),
        classes=dict(classes),
        notes=tuple(dict.fromkeys(log.notes)),
        shapes_drawn=log.drawn,
        shapes_skipped=log.lost,
    )


def _write_all(items: Sequence[Labelled], writer: LabelWriter, log: ConversionLog) -> None:
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
            ids, numbers = item.read(), None
            if writer.to != "masks":  # these hold classes, as they are
                ids, numbers = item.objects(ids)
        except InputError as fault:
            log.skip(fault)
            continue
        image = item.image.path if item.image else None
        if item.image and _to_be_shown(writer, item.image):
            image = _view_of(item.image, writer.out / f"{item.name}.png", item.path, log)
            if image is None:
                continue
        if coco:
            writer.write(item.name, ids, image=image, plane=item.plane, numbers=numbers)
        else:
            file = log.write(file, _writing(writer, item, ids, numbers, image))
        log.written.append(f"{file} ({item.name})" if coco else str(file))
    if whole is not None and any(log.written):
        log.write(whole, writer.finish)


def _writing(
    writer: LabelWriter,
    item: Labelled,
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


def _view_of(image: ImageRef, file: Path, source: Path, log: ConversionLog) -> Path | None:
    """Write the 8-bit picture that a Labelme file points to; return its name, None if it has none.

    It is made anew each time: the image may be another one by now. Neither the labels themselves
    nor what a person has there is taken for it.
    """
    try:
        micrograph = read_micrograph(image)
    except InputError as fault:
        log.skip(fault)
        return None
    grey = to_8_bit(micrograph.pixels, micrograph.info_bar_rows)
    if file.exists() and file.samefile(source):
        file = file.with_name(f"{file.stem}.view.png")
    free = free_version(file, log.book)
    return log.write(free, lambda to: write_png(to, grey))
