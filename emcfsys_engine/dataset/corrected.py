"""Masks that people changed: predicted ones as they were left, and classes saved by new numbers.

A predicted mask is painted over, or drawn anew by the outlines saved beside it. H and W pixels.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.draw import annotation_ids
from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.masks import (
    LabelTable,
    mask_facts,
    read_mask,
    recipe_of,
    table_of,
)
from emcfsys_engine.annotations.numbered import read_numbers
from emcfsys_engine.dataset.objects import drawn_ids
from emcfsys_engine.errors import AnnotationError, EmcfError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.reader import probe
from emcfsys_engine.project import UNLABELLED


@dataclass(frozen=True, kw_only=True)
class MaskNow:
    """What a mask says now.

    Shapes: ids uint8 H×W, 255 where unlabelled; numbers of objects integers H×W, 0 where there is
    none, or None where nothing numbers them.
    """

    ids: np.ndarray
    numbers: np.ndarray | None


def read_mask_now(
    mask: Path,
    classes: Mapping[str, int],
    book: OutputBook,
    size_HW: tuple[int, int] | None,
) -> MaskNow:
    """Return what a mask of ours says now: by outlines that a person saved beside it, else itself.

    `classes`: name -> value, the ground first. `size_HW`: of its image; None: not known.
    Raises: AnnotationError for another size, a value or label that is no class, a file that cannot
    be read, and where mask and outlines were both changed and say different things.
    """
    table = replace(table_of(classes, {}), background=next(iter(classes.values())))
    outlines = mask.with_suffix(".json")
    is_drawn = outlines.is_file() and not book.has(outlines)
    painted: np.ndarray | None = None
    if not is_drawn or not book.has(mask):
        painted = _painted(mask, table, classes, size_HW)
    if not is_drawn:
        assert painted is not None
        return MaskNow(ids=painted, numbers=read_numbers(ImageRef(path=mask), must_read=True))
    if size_HW is None:
        size_HW = mask_facts(ImageRef(path=mask), table).size_HW
    drawn = _drawn(outlines, table, size_HW)
    if painted is not None and not np.array_equal(painted, drawn.ids):
        what = f"and its outlines {outlines.name} were both changed, and say different things"
        raise AnnotationError(mask, what, "Move the one away that does not count")
    return drawn


def size_of(image: Path) -> tuple[int, int] | None:
    """Return height and width of an image in px; None where it was moved away since."""
    try:
        height, width, *_ = probe(image).shape
    except (EmcfError, OSError):
        return None
    return height, width


def _painted(
    mask: Path, table: LabelTable, classes: Mapping[str, int], size_HW: tuple[int, int] | None
) -> np.ndarray:
    ref = ImageRef(path=mask)
    facts = mask_facts(ref, table)
    _refuse_other_size(mask, facts.size_HW, size_HW)
    values = tuple(sorted(classes.values()))
    return read_mask(ref, table, recipe_of([facts], table, values), values)


def _drawn(outlines: Path, table: LabelTable, size_HW: tuple[int, int]) -> MaskNow:
    every = read_annotations(outlines)
    if len(every) != 1:
        what = f"speaks of {len(every)} images"
        raise AnnotationError(outlines, what, "Save the outlines of this image alone")
    (annotation,) = every
    if annotation.size_HW is not None:
        _refuse_other_size(outlines, annotation.size_HW, size_HW)
    ids = annotation_ids(annotation, table, size_HW)
    return MaskNow(ids=ids, numbers=drawn_ids(annotation, table, size_HW))


def _refuse_other_size(
    file: Path, its_HW: tuple[int, ...], size_HW: tuple[int, int] | None
) -> None:
    if size_HW is not None and tuple(its_HW) != tuple(size_HW):
        what = f"is {its_HW[1]} × {its_HW[0]} pixels, its image {size_HW[1]} × {size_HW[0]}"
        raise AnnotationError(file, what, "Save it in the size of its image")


_WHOLE = 0.95  # of a class's pixels, before and now: the rest may be corrected besides
_MOSTLY = 0.7  # where a model says what they were: it is never wholly right
_LENGTH = UNLABELLED + 1
Moves = dict[int, int]  # class before -> class now


def moved_classes(before: np.ndarray, now: np.ndarray, whole: float = _WHOLE) -> Moves:
    """Return the classes that became another one as a whole.

    Shapes: class indices, uint8 H×W, 255 where unlabelled; of another size nothing is known.
    Units: `whole` is the share of both that has to be the same pixels.
    """
    if before.shape != now.shape:
        return {}
    pairs = before.ravel().astype(np.int32) * _LENGTH + now.ravel()
    counts = np.bincount(pairs, minlength=_LENGTH**2).reshape(_LENGTH, _LENGTH)
    were, are = counts.sum(1), counts.sum(0)
    found: Moves = {}
    for one in np.flatnonzero(were[:UNLABELLED]).tolist():
        other = int(counts[one].argmax())
        share = counts[one, other]
        if other not in (one, UNLABELLED) and share >= whole * max(were[one], are[other]):
            found[one] = other
    return found


def moved_from(guess: np.ndarray, labels: np.ndarray) -> Moves:
    """Return the classes of a new mask that are others than a good model takes them for.

    At least two moved at once: where a model only takes one class for another, it errs itself.
    Shapes: class indices, uint8 H×W; 255 where nothing is labelled, or guessed.
    """
    found = moved_classes(np.where(labels == UNLABELLED, UNLABELLED, guess), labels, _MOSTLY)
    return found if len(found) > 1 else {}


def numbered_anew(moves: Mapping[str, Moves]) -> dict[str, Moves]:
    """Return the masks of those given, by name, that look as if saved by new numbers.

    Two classes that moved at once in one mask do, and a class that moved in several alike. A
    single one that moved in one mask is what a person mends who had named it wrongly.
    """
    often = Counter(move for one in moves.values() for move in one.items())
    return {
        name: one
        for name, one in moves.items()
        if len(one) > 1 or any(often[move] > 1 for move in one.items())
    }
