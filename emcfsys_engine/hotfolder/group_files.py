"""One JSON and one CSV file a group, for a laboratory's own system: each whole, by one rename.

Their names and columns are a contract with a version: see `manual files`. What a person changed is
never written over: the next one is called NAME.v2.json.
"""

import csv
import glob
import hashlib
import io
import os
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.files import plain_bytes
from emcfsys_engine.hotfolder import groups
from emcfsys_engine.hotfolder.judged import Judged, masks_by_plane
from emcfsys_engine.hotfolder.places import FOLDER
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import write_own
from emcfsys_engine.project import Project
from emcfsys_engine.text import cell_of

FORMAT = 1
PLACE = "groups"  # below .emcfsys of the output folder
COLUMNS = (
    "format", "project", "group", "group_verdict", "image", "plane", "verdict", "by_limits",
    "reasons", "word", "word_reason", "mask", "digest", "recipe",
)  # fmt: skip
_VERSION = re.compile(r"(\.v\d+)?\.(json|csv)")  # what follows a group's name
_MOST_LETTERS = 160  # of a file's name


def folder_of(output: Path) -> Path:
    """Return where the files of an output folder's groups lie."""
    return output / FOLDER / PLACE


def name_of(group: str) -> str:
    """Return a file's name that only this group has: what no name may hold is %XX."""
    name = quote(os.fsencode(group), safe=" ()+,;=@")
    if name.startswith((".", "~")):  # hidden, or taken for somebody's backup
        name = f"%{ord(name[0]):02X}{name[1:]}"
    name = re.sub(r"\.(?=v\d+$)", "%2E", name)  # NAME.v2 is what comes beside a changed NAME
    if len(name) > _MOST_LETTERS:
        digest = hashlib.sha256(os.fsencode(group)).hexdigest()[:16]
        name = f"{name[: _MOST_LETTERS - 17]}-{digest}"
    return name


def write(
    connection: sqlite3.Connection, group: groups.Group, project: Project, book: OutputBook
) -> None:
    """Write the two files of a group as it is now; nothing where they say that already.

    Raises: OSError.
    """
    images = list(groups.images_of(connection, group.name))
    recipes = groups.recipes_of(connection, group.name)
    place = folder_of(book.out) / name_of(group.name)
    document = any_names.for_others(_document(group, project, images, recipes), indent=2) + b"\n"
    for ending, content in ((".json", document), (".csv", _table(group, project, images, recipes))):
        file = place.with_name(place.name + ending)
        if not _is_told(file, content):
            write_own(file, content, book)


def remove(group: str, book: OutputBook) -> None:
    """Remove the files of a group that is none any more; what a person changed stays.

    Raises: OSError.
    """
    place = folder_of(book.out) / name_of(group)
    for ending in (".json", ".csv"):
        versions = place.parent.glob(f"{glob.escape(place.name)}.v*{ending}")
        for file in (place.with_name(place.name + ending), *versions):
            if _VERSION.fullmatch(file.name.removeprefix(place.name)):
                book.remove(file, of_image=False)


def _is_told(file: Path, content: bytes) -> bool:
    try:
        return plain_bytes(file) == content
    except OSError:
        return False


def _document(
    group: groups.Group, project: Project, images: Sequence[Judged], recipes: dict[str, str]
) -> dict[str, Any]:
    counts = {state or "not_judged": number for state, number in group.verdicts.items()}
    return {
        "kind": "emcfsys-group",
        "format": FORMAT,
        "project": project.name,
        "group": group.name,
        "verdict": group.state,
        "reasons": list(group.reasons),
        "counts": {key: counts.get(key, 0) for key in ("pass", "review", "fail", "not_judged")},
        "limits": msgspec.to_builtins(project.group_limits),
        "numbers": group.numbers,
        "images": [
            {
                "image": one.path,
                "mask": one.mask,
                "digest": one.digest,
                "recipe": recipes.get(one.path, ""),
                "verdict": one.verdict,
                "by_limits": one.state,
                "reasons": list(one.reasons),
                "word": one.word,
                "word_reason": one.word_reason,
                "numbers": one.numbers,
            }
            for one in images
        ],
    }


def _table(
    group: groups.Group, project: Project, images: Sequence[Judged], recipes: dict[str, str]
) -> bytes:
    names = sorted({name for one in images for found in one.numbers.values() for name in found})
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(map(cell_of, (*COLUMNS, *names)))
    for one in images:
        masks = masks_by_plane(one)
        for plane, numbers in one.numbers.items() or (("", {}),):
            cells: list[Any] = [FORMAT, project.name, group.name, group.state, one.path, plane]
            cells += [one.verdict, one.state, "; ".join(one.reasons), one.word, one.word_reason]
            cells += [masks.get(plane, one.mask), one.digest, recipes.get(one.path, "")]
            cells += [numbers.get(name, "") for name in names]
            writer.writerow(map(cell_of, cells))
    return text.getvalue().encode("utf-8", "surrogateescape")
