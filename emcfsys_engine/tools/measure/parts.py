"""Measurements of any number of masks in flat memory: tables in parts, with a list of the parts.

A part is a Parquet file of so many objects or masks. `parts.json` names the parts of one
measurement and is written last: who reads it sees a whole measurement, the last one or this one.
"""

import re
import secrets
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import free_version, write_own
from emcfsys_engine.tools.measure.tables import (
    MaskMeasured,
    Table,
    Unit,
    images_table,
    objects_table,
    parquet_of,
)

PARTS_FILE = "parts.json"
_FOLDER = "parts"
_FORMAT = 1
_MOST_OBJECTS = 250_000  # of one part: 50 MB of numbers
_MOST_MASKS = 5_000
_PART = re.compile(_FOLDER + r"/(objects|images)-[0-9a-f]{8}-\d{6}\.parquet")
_Kind = Literal["objects", "images"]


class PartsList(msgspec.Struct, frozen=True, kw_only=True):
    """What `parts.json` says: the parts of a measurement, relative to its folder."""

    format: int
    unit: Unit
    num_masks: int
    num_objects: int
    objects: tuple[str, ...]
    images: tuple[str, ...]


class PartsWriter:
    """Writes what is measured as it comes; `finish` makes it the folder's measurement."""

    def __init__(
        self, out: Path, unit: Unit, names: Sequence[tuple[int, str]], stamp: str = ""
    ) -> None:
        """`stamp`: eight hexadecimal digits in the parts' names; empty: new ones.

        Raises: InputError when the folder holds a parts.json of somebody else.
        """
        self._out, self.names = out, tuple(names)
        self._unit: Unit = unit
        self._book = OutputBook(out)
        file = out / PARTS_FILE
        if free_version(file, self._book) != file:
            what = "is not as this program wrote it, and kept"
            raise InputError(file, what, "Give --out another folder, or move the file away")
        self._stamp = stamp or secrets.token_hex(4)
        self._open: list[MaskMeasured] = []
        self._num_open = 0
        self._files: dict[_Kind, list[str]] = {"objects": [], "images": []}
        self.num_masks = self.num_objects = 0
        self.area_of: defaultdict[int, float] = defaultdict(float)  # by value, in the unit squared
        self.labelled_area = 0.0

    def take(self, one: MaskMeasured) -> None:
        """Add one mask. Raises: OSError when a part cannot be written."""
        self._open.append(one)
        self.num_masks += 1
        self.num_objects += len(one.objects)
        pixel_area = one.pixel[0] * one.pixel[1]
        self.labelled_area += pixel_area * one.labelled_px
        for share in one.shares:
            self.area_of[share.value] += pixel_area * share.area_px
        self._num_open += len(one.objects)
        if self._num_open >= _MOST_OBJECTS or len(self._open) >= _MOST_MASKS:
            self._write()

    def finish(self) -> PartsList:
        """Write the rest and the list, then remove the parts of the measurement before.

        Raises: OSError.
        """
        if self._open:
            self._write()
        before = read_parts(self._out)
        listed = PartsList(
            format=_FORMAT,
            unit=self._unit,
            num_masks=self.num_masks,
            num_objects=self.num_objects,
            objects=tuple(self._files["objects"]),
            images=tuple(self._files["images"]),
        )
        write_own(self._out / PARTS_FILE, any_names.encode(listed), self._book)
        if before is not None:
            now = {*listed.objects, *listed.images}
            self._remove([one for one in (*before.objects, *before.images) if one not in now])
        return listed

    def give_up(self) -> None:
        """Remove the parts written so far: the measurement before stays the folder's."""
        before = read_parts(self._out)
        kept = () if before is None else (*before.objects, *before.images)
        made = (*self._files["objects"], *self._files["images"])
        self._remove([one for one in made if one not in kept])

    def _write(self) -> None:
        measured, self._open, self._num_open = self._open, [], 0
        if any(len(one.objects) for one in measured):
            self._write_table("objects", objects_table(measured, self.names, self._unit))
        self._write_table("images", images_table(measured, self._unit))

    def _write_table(self, kind: _Kind, table: Table) -> None:
        name = f"{_FOLDER}/{kind}-{self._stamp}-{len(self._files[kind]) + 1:06}.parquet"
        self._files[kind].append(name)
        write_own(self._out / name, parquet_of(table), self._book)

    def _remove(self, names: Sequence[str]) -> None:
        """Remove parts that are as we wrote them; a list that was changed leads nowhere else."""
        for name in names:
            if _PART.fullmatch(name):
                self._book.remove(self._out / name, of_image=False)


def read_parts(out: Path) -> PartsList | None:
    """Return the list of a folder's parts; None where it has none that can be read."""
    try:
        listed = any_names.read(out / PARTS_FILE, PartsList)
    except OSError:
        return None
    if listed is None or listed.format != _FORMAT:
        return None
    return listed


def part_files(out: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of a list of parts.

    Raises: InputError when the list names one outside its folder, or one is gone.
    """
    files: list[Path] = []
    for name in names:
        if not _PART.fullmatch(name):
            what = f"names {name!r}, which is no part of a measurement"
            raise InputError(out / PARTS_FILE, what, "Measure again")
        files.append(out / name)
        if not files[-1].is_file():
            raise InputError(files[-1], "is gone", "Bring it back, or measure again")
    return files
