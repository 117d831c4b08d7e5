"""Finds the labels of a source: annotations, one folder of masks a class, or masks."""

from collections.abc import Mapping
from pathlib import Path

from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.pair_masks import behind_masks
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.annotations.suggestions import untouched
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.tools.convert.items import Given, Labels, Reading, table_for
from emcfsys_engine.tools.convert.log import ConversionLog
from emcfsys_engine.tools.convert.of_masks import (
    class_folders,
    labels_of_class_folders,
    labels_of_masks,
)
from emcfsys_engine.tools.convert.of_shapes import annotated, classes_of_labels

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
    items = annotated(found, table, given, log)
    return Labels(items=items, reading=Reading(classes=chosen, table=table))
