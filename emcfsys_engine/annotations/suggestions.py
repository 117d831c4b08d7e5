"""Suggestions: Labelme files that a model filled in, in the folder where people draw.

They are no labels until a person saved them. Such a file holds the digest of itself: saved by any
tool, changed or not, it is another, and a person's from then on; copied it stays what it is.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.formats.labelme import read_suggestion
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.files import reading
from emcfsys_engine.project import Source


class SuggestedBy(msgspec.Struct, frozen=True, kw_only=True):
    """What a suggestion says of its model."""

    model: str = ""
    score: float | None = None


def untouched(found: Mapping[Path, tuple[Annotation, ...]]) -> dict[Path, SuggestedBy]:
    """Return those of some annotation files that are suggestions nobody saved yet."""
    flagged = (path for path, every in found.items() if any(one.is_suggestion for one in every))
    return {path: by for path in flagged if (by := model_of(path)) is not None}


def model_of(file: Path) -> SuggestedBy | None:
    """Return what a suggestion says of its model; None: a person saved the file, or it is none."""
    try:
        with reading(file) as stream:
            said = read_suggestion(stream.read())
    except OSError:
        return None
    try:
        return None if said is None else msgspec.convert(said, SuggestedBy)
    except msgspec.MsgspecError:
        return SuggestedBy()


def waiting_suggestions(source: Source, folder: Path) -> dict[Path, SuggestedBy]:
    """Return the suggestions of a [[data]] table that no person saved yet, and their models."""
    if source.annotations is None:
        return {}
    return untouched(find_annotations(source.annotations, folder, [], []))
