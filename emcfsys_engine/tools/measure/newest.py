"""Which tables in a folder are those of its newest measurement: one answer for all who read them.

Of a table that a person changed the next measurement writes a version beside it, and a folder may
have tables of several formats.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emcfsys_engine.errors import InputError
from emcfsys_engine.files import changed_ns
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.text import few
from emcfsys_engine.tools.measure.parts import PARTS_FILE, part_files, read_parts

REMEDY = "Name a folder that measure wrote"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The files of one measurement; of parts there may be many."""

    objects: tuple[Path, ...]
    images: tuple[Path, ...]
    is_csv: bool
    told_by: Path  # of all its tables the one that is noted first


def newest_tables(folder: Path) -> Tables:
    """Return the newest measurement of a folder: its parts, its Parquet files or its CSV files.

    Raises: InputError for a folder without any, where only half of one was written, or where nobody
    knows which is the newest.
    """
    kinds = [newest_of(folder, "objects", end) for end in (".parquet", ".csv")]
    parts = folder / PARTS_FILE
    newest = _newest(folder, [one for one in (parts if parts.is_file() else None, *kinds) if one])
    if newest is None:
        raise InputError(folder, "holds no table of objects", REMEDY)
    if newest != parts:
        images = newest_of(folder, "images", newest.suffix)
        if images is not None:
            _refuse_older(images, newest)
        return Tables(
            objects=(newest,),
            images=() if images is None else (images,),
            is_csv=newest.suffix == ".csv",
            told_by=newest,
        )
    listed = read_parts(folder)
    if listed is None:
        raise InputError(parts, "is no list of tables that can be read", REMEDY)
    return Tables(
        objects=tuple(part_files(folder, listed.objects)),
        images=tuple(part_files(folder, listed.images)),
        is_csv=False,
        told_by=parts,
    )


def newest_of(folder: Path, stem: str, end: str) -> Path | None:
    """Return the newest version of a table, as objects.v2.csv of objects.csv; None: it has none.

    Raises: InputError where nobody knows which it is.
    """
    name = re.compile(rf"{re.escape(stem)}(\.v\d+)?{re.escape(end)}")
    return _newest(
        folder, [one for one in folder.glob(f"{stem}*{end}") if name.fullmatch(one.name)]
    )


def _newest(folder: Path, files: Sequence[Path]) -> Path | None:
    """Return the file that was written last; what a person changed is no measurement's.

    Raises: InputError where nothing is noted of them: a copy may have any times.
    """
    if len(files) < 2:
        return files[0] if files else None
    book = OutputBook(folder)
    if not any(map(book.order_of, files)):
        what = f"has several tables, {few([one.name for one in files], 3)}, and no note of the"
        remedy = "Move the older ones away, or copy the folder with its .emcfsys"
        raise InputError(folder, f"{what} newer one", remedy)

    def rank(file: Path) -> tuple[int, int]:
        return book.order_of(file) if book.has(file) else 0, changed_ns(file)

    return max(files, key=rank)


def is_earlier(file: Path, than: Path) -> bool:
    """Tell whether a file of a folder was written by a measurement before that of a table."""
    book = OutputBook(than.parent)
    return 0 < book.order_of(file) < book.order_of(than)


def _refuse_older(images: Path, objects: Path) -> None:
    if is_earlier(images, objects):
        what = f"is of an earlier measurement than {objects.name}"
        raise InputError(images, what, "Measure again")
