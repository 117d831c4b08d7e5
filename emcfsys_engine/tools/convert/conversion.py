"""Labels from any tool to any other, masks among them; micrographs to PNG that Labelme opens."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.formats.labelme import untouched
from emcfsys_engine.annotations.masks import LabelTable
from emcfsys_engine.annotations.pair_masks import behind_masks
from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.annotations.writer import LabelFormat
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.images.other_outputs import left_out_outputs
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.reader import find_images, left_out_words
from emcfsys_engine.project import Source
from emcfsys_engine.run.records import ConvertRequest
from emcfsys_engine.tools.convert.items import (
    ConversionLog,
    Given,
    LabelReading,
    Labels,
    Places,
    Skipped,
    ToConvert,
    output_names,
    table_for,
)
from emcfsys_engine.tools.convert.labels import (
    annotated,
    class_folders,
    classes_of_labels,
    labels_of_class_folders,
    labels_of_masks,
)
from emcfsys_engine.tools.convert.writing import Conversion, Converter, OfAll, gathered


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is to be converted, before any of it is written."""

    items: list[ToConvert]
    of_all: OfAll


def convert_images(
    images: str, out: Path, *, overwrite: bool = False, base: Path | None = None
) -> Conversion:
    """Write every micrograph as an 8-bit PNG, stretched as EMCFsys sees it, for Labelme.

    Sub-folders are kept; a plane of a stack is x.0012.png, and names that collide keep their
    extension (x.dm4.png). Annotations of these PNGs pair with the originals by these names.
    """
    return _converted(plan_images(images, out, overwrite=overwrite, base=base), out)


def convert_labels(source: str, out: Path, **options: Any) -> Conversion:
    """Convert masks or annotations of any known tool to masks or to another tool's annotations.

    Options and what is raised are those of `plan_labels`.
    """
    return _converted(plan_labels(source, out, **options), out)


def options_of(request: ConvertRequest) -> dict[str, Any]:
    """Return what `plan_labels` is given by a request, beside its source and its output."""
    names = ("to", "classes", "labels", "own", "instances", "tolerance_px")
    names += ("smallest_px", "overwrite")
    asked = {name: getattr(request, name) for name in names}
    return {**asked, "images": request.images or None}


def plan_images(
    images: str, out: Path, *, overwrite: bool = False, base: Path | None = None
) -> Plan:
    """Return the micrographs that `convert_images` writes, and where each goes."""
    base = base or Path.cwd()
    left_out: list[Path] = []
    refs = find_images(images, base, left_out)
    names = output_names(refs, root_of(images, base))
    items = [
        ToConvert(name=name, kind="picture", path=str(ref.path), plane=ref.plane)
        for ref, name in zip(refs, names, strict=True)
    ]
    of_all = OfAll(
        to="png",
        reading=LabelReading(classes={}, table=LabelTable(values=())),
        notes=(left_out_words(left_out),) if left_out else (),
    )
    return Plan(items=Places(out, "png", overwrite=overwrite).of_all(items), of_all=of_all)


def plan_labels(
    source: str,
    out: Path,
    *,
    to: LabelFormat,
    images: str | None = None,
    classes: Mapping[str, int] | None = None,
    labels: Mapping[str, str] | None = None,
    own: Source | None = None,
    instances: Collection[str] = (),
    tolerance_px: float | None = None,
    smallest_px: int = 0,
    overwrite: bool = False,
    base: Path | None = None,
) -> Plan:
    """Return the labels that `convert_labels` writes, where each goes, and what all are read with.

    Without classes those found are used: labels in alphabetic order from 1 with background 0, or
    the values of masks. Labels are read as in [data.labels] of project.toml; `own` is the table of
    a project that these labels are of. Objects that a mask numbers, and shapes, stay
    objects of their own; to masks, those of the classes in `instances`, in `x.instances.tif`.
    Units:  outlines stray at most tolerance_px (0 to 2; by default 0.5 for Labelme and 0.3, which
            moves no pixel, for the others); regions below smallest_px are left out.
    Raises: InputError when nothing is found at all.
    """
    base, log = base or Path.cwd(), ConversionLog()
    if tolerance_px is not None and not 0 <= tolerance_px <= 2:
        raise InputError("--tolerance", f"{tolerance_px:g} px is outside 0 to 2", "Use 0.5")
    if to == "masks" and smallest_px:
        what = "leaves out outlines, and masks keep every pixel of their classes"
        raise InputError("--smallest", what, "Leave it out, or convert to outlines")
    given = Given(
        source=source,
        base=base,
        refs=find_images(images, base) if images else [],
        image_root=root_of(images, base) if images else base,
        labels={**(own.labels if own else {}), **(labels or {})},
        own=own,
    )
    found = labels_of(given, classes, log)
    places = Places(out, to, overwrite=overwrite)
    items, whole = places.of_all(found.items), ""
    if to == "coco" and items:
        whole, note, why = places.of_one(items[0].path)
        log.notes += [note] if note else []
        if why:
            log.skipped.append(Skipped(file=items[0].path, why=why))
            items = []
    of_all = OfAll(
        to=to,
        reading=found.reading,
        instances=tuple(found.reading.classes[name] for name in instances),
        tolerance_px=tolerance_px,
        smallest_px=smallest_px,
        whole=whole,
        skipped=tuple(log.skipped),
        notes=tuple(log.notes),
        shapes_drawn=log.drawn,
        shapes_skipped=log.lost,
    )
    return Plan(items=items, of_all=of_all)


def _converted(plan: Plan, out: Path) -> Conversion:
    book = OutputBook(out)
    converter = Converter(plan.of_all, out, book)
    became = ((item, converter.one(item)) for item in plan.items)
    return gathered(plan.of_all, became, out, book)


_BEHIND = "the mask beside it was changed, or made anew, since"
_BY_THEMSELVES = 'Convert the masks by themselves: "FOLDER/*.png"'


def labels_of(given: Given, classes: Mapping[str, int] | None, log: ConversionLog) -> Labels:
    """Return the labels of a source: of annotations, of one folder a class, or of masks.

    Raises: AnnotationError where there is nothing to convert.
    """
    found = _annotations(given, log)
    where = given.base / given.source
    if found:
        made = _of_annotations(found, given, classes, log)
    elif by_class := class_folders(given, classes):
        made = labels_of_class_folders(by_class, given, classes, log)
    else:
        made = labels_of_masks(given, classes, log)
    if not made.items and not log.skipped and found:
        what = f"says nothing of any image: {log.notes[0]}"
        raise AnnotationError(where, what, "Finish and save a task first")
    if not made.items and not log.skipped and log.behind:
        raise AnnotationError(where, f"holds no outlines that count: {_BEHIND}", _BY_THEMSELVES)
    elsewhere = left_out_outputs(given.source, given.base)
    if not made.items and not log.skipped:
        what = "holds no masks and no annotations known here"
        raise AnnotationError(where, what, f"{elsewhere}. Name that" if elsewhere else "")
    log.notes += filter(None, [elsewhere])
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
    items = annotated(found, table, given, log)
    return Labels(items=items, reading=LabelReading(classes=chosen, table=table))
