"""Suggestions: Labelme files that a model filled in, in the folder where people draw.

They are no labels until a person saved them: the file is then not the one that this program wrote,
which the book of outputs beside it (`.emcfsys/outputs.jsonl`) knows by its digest.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.formats.labelme import SUGGESTED_BY
from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.project import Source


class SuggestedBy(msgspec.Struct, frozen=True, kw_only=True):
    """What a suggestion says of its model."""

    model: str = ""
    score: float | None = None


def untouched(
    found: Mapping[Path, tuple[Annotation, ...]], root: Path
) -> dict[Path, tuple[Annotation, ...]]:
    """Return of some annotation files the suggestions that no person saved yet."""
    flagged = {
        path: every for path, every in found.items() if any(one.is_suggestion for one in every)
    }
    if not flagged:
        return {}
    book = OutputBook(root)
    return {path: every for path, every in flagged.items() if book.has(path)}


def waiting_suggestions(source: Source, folder: Path) -> dict[Path, SuggestedBy]:
    """Return the suggestions of a [[data]] table that no person saved yet, and their models."""
    if source.annotations is None:
        return {}
    found = find_annotations(source.annotations, folder, [], [])
    return dict(_with_models(untouched(found, root_of(source.annotations, folder))))


def _with_models(files: Iterable[Path]) -> Iterable[tuple[Path, SuggestedBy]]:
    for file in files:
        try:
            said = json.loads(file.read_bytes()).get(SUGGESTED_BY, {})
            yield file, msgspec.convert(said, SuggestedBy)
        except (OSError, ValueError, AttributeError, msgspec.MsgspecError):
            yield file, SuggestedBy()
