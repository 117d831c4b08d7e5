"""Suggestions: Labelme files that a model filled in, in the folder where people draw.

They are no labels until a person saved them. Such a file holds the digest of itself: saved by any
tool, changed or not, it is another, and a person's from then on; copied it stays what it is.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.formats.labelme import SUGGESTED_BY, is_as_suggested
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.files import reading
from emcfsys_engine.project import Source


class SuggestedBy(msgspec.Struct, frozen=True, kw_only=True):
    """What a suggestion says of its model."""

    model: str = ""
    score: float | None = None


def untouched(found: Mapping[Path, tuple[Annotation, ...]]) -> dict[Path, tuple[Annotation, ...]]:
    """Return of some annotation files the suggestions that no person saved yet."""
    return {
        path: every
        for path, every in found.items()
        if any(one.is_suggestion for one in every) and is_untouched(path)
    }


def is_untouched(file: Path) -> bool:
    """Tell whether a file is a suggestion as it was written, byte by byte."""
    try:
        with reading(file) as stream:
            return is_as_suggested(stream.read())
    except OSError:
        return False


def waiting_suggestions(source: Source, folder: Path) -> dict[Path, SuggestedBy]:
    """Return the suggestions of a [[data]] table that no person saved yet, and their models."""
    if source.annotations is None:
        return {}
    found = find_annotations(source.annotations, folder, [], [])
    return dict(_with_models(untouched(found)))


def _with_models(files: Iterable[Path]) -> Iterable[tuple[Path, SuggestedBy]]:
    for file in files:
        try:
            said = json.loads(file.read_bytes()).get(SUGGESTED_BY, {})
            yield file, msgspec.convert(said, SuggestedBy)
        except (OSError, ValueError, AttributeError, msgspec.MsgspecError):
            yield file, SuggestedBy()
