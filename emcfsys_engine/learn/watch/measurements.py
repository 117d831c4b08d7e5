"""Measurements of a hot folder: one line an image in one CSV, beside the ledger.

Lines are appended before the ledger's, on the disk: a kill between the two leaves lines of images
that the ledger does not know. They are replaced once these are measured again, so that no image is
counted twice; of images that are gone by then they stay, as their masks do.
"""

import csv
import errno
import io
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import scipy  # its parts are loaded when they are named

from emcfsys_engine.files import free_name, named_after, open_own, reading_own, write_whole
from emcfsys_engine.hotfolder.places import FOLDER
from emcfsys_engine.learn.inference.expected import Expected
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.text import cell_of, text_of_cell
from emcfsys_engine.verdicts import number_of_class

Line = Mapping[str, str | int]
_FILE = "measurements.csv"
_MOST_BYTES = 1 << 30  # of millions of images
_PLANE = re.compile(r"(.+)#\d+", re.DOTALL)  # no micrograph's own name ends like this
_FIRST_COLUMN = "image"
INFO_BAR = "info_bar_rows"  # of the height; no class can have a column of this ending


def measured(
    image: str,
    pixel_nm: tuple[float, float] | None,
    size_HW: tuple[int, int],
    info_bar_rows: int,
    confidence: float,
    unlike: str,
    classes: Mapping[str, Line],
) -> dict[str, str | int]:
    """Return an image's line: its own columns, then what `of_classes` says of each class.

    The classes' are those of the specimen, above the info bar.
    """
    area_nm2 = area_of(pixel_nm)
    line: dict[str, str | int] = {
        _FIRST_COLUMN: image,
        "height_px": size_HW[0],
        "width_px": size_HW[1],
        "pixel_nm": "" if area_nm2 is None else f"{math.sqrt(area_nm2):.6g}",
        "confidence": "" if math.isnan(confidence) else f"{confidence:.4f}",
        "unlike_training_data": unlike,
        INFO_BAR: info_bar_rows,
    }
    for name, told in classes.items():
        for word, number in told.items():
            line[_free_column(number_of_class(name, word), line)] = number
    return line


def line_expected(found: Expected | None, card: ModelCard) -> dict[str, str | int]:
    """Return how good the mask is expected to be, last in its line; "": it is not known."""
    if card.trust is None:
        return {}
    numbers = ("", "", "") if found is None else (found.iou, found.low, found.high)
    names = ("expected_iou", "expected_iou_low", "expected_iou_high")
    line: dict[str, str | int] = {
        name: f"{value:.4f}" if value != "" else ""
        for name, value in zip(names, numbers, strict=True)
    }
    line["expected_iou_reason"] = "" if found is None else found.reason
    for name in card.classes:
        value = None if found is None else found.classes.get(name)
        column = number_of_class(name, "expected_iou")
        line[_free_column(column, line)] = "" if value is None else f"{value:.4f}"
    return line


def area_of(pixel_nm: tuple[float, float] | None) -> float | None:
    """Return the area of a pixel in nm²; None where its size is not known."""
    return None if pixel_nm is None else math.prod(pixel_nm)


def of_classes(
    mask_HW: np.ndarray,
    area_nm2: float | None,
    card: ModelCard,
    numbers_HW: np.ndarray | None = None,
    *,
    info_bar_rows: int = 0,
) -> dict[str, Line]:
    """Return each class's area, and the number and size of its objects; "": not known.

    Objects are told of all classes but the first, the ground. Units: px, and nm where the pixel
    size is known; diameters are those of discs of the same area, their median. Where a model tells
    objects apart their numbers say which pixels are one, else those that touch are. The rows of an
    info bar, the last ones, are left out.
    Shapes: the mask is H×W uint8, numbers H×W of any integer dtype, 0 where no object is.
    """
    specimen = slice(0, len(mask_HW) - info_bar_rows)
    mask_HW = mask_HW[specimen]
    numbers_HW = None if numbers_HW is None else numbers_HW[specimen]
    ground = card.class_values[0]
    # A person may leave pixels out: of no class.
    labelled_px = sum(int((mask_HW == value).sum()) for value in card.class_values)
    return {
        name: _of_class(
            mask_HW == value,
            labelled_px,
            area_nm2,
            numbers_HW if name in card.instances else None,
            has_objects=value != ground,
        )
        for name, value in zip(card.classes, card.class_values, strict=True)
    }


def _of_class(
    is_class_HW: np.ndarray,
    labelled_px: int,
    area_nm2: float | None,
    numbers_HW: np.ndarray | None,
    *,
    has_objects: bool,
) -> Line:
    pixels = int(is_class_HW.sum())
    told: dict[str, str | int] = {
        "fraction": f"{pixels / labelled_px:.6f}" if labelled_px else "",
        "px": pixels,
        "nm2": "" if area_nm2 is None else f"{pixels * area_nm2:.6g}",
    }
    if not has_objects:
        return told
    if numbers_HW is None:
        areas_px = _object_areas_px(is_class_HW)
    else:
        counts = np.bincount(numbers_HW[is_class_HW].astype(np.int64))[1:]
        areas_px = counts[counts > 0]
    middle = ""
    if len(areas_px):
        # Of an even number the median lies between two: of diameters, as `measure` has it.
        diameters = 2 * np.sqrt(areas_px * (area_nm2 or 1) / math.pi)
        middle = f"{float(np.median(diameters)):.6g}"
    told["objects"] = len(areas_px)
    told["diameter_px"] = middle if area_nm2 is None else ""
    told["diameter_nm"] = "" if area_nm2 is None else middle
    return told


def _free_column(name: str, line: Line) -> str:
    """Return a column's name that is not taken: a class may be called "height", as the image is."""
    number, free = 1, name
    while free in line:
        number += 1
        free = f"{name}_{number}"
    return free


def _object_areas_px(is_class_HW: np.ndarray) -> np.ndarray:
    """Return the area of each object; pixels that touch at a corner are one object."""
    labels = np.zeros(is_class_HW.shape, np.int32)
    scipy.ndimage.label(is_class_HW, np.ones((3, 3)), output=labels)
    return np.bincount(labels.ravel())[1:]


class Measurements:
    """The CSV of one output folder; its columns stay those of its first line.

    Raises: OSError where it cannot be read or written.
    """

    def __init__(self, output: Path, done: Collection[str], *, keeps_older: bool = False) -> None:
        """`done`: the images the ledger knows; `keeps_older`: each version has lines of its own."""
        self.file = output / FOLDER / _FILE
        self.told = ""  # of a file that a person made another one of
        self._columns: list[str] = []
        self._head = b""  # its first line, as it was looked at last
        self._begun = 0  # where the lines of the last append begin
        self._unknown: set[str] = set()  # images that have lines, and are not in the ledger
        if self.file.exists():
            known = frozenset(done)
            rows = self._learn(known)
            if not keeps_older:
                self._drop_older(rows, known)
            self._head = self._ends()[0]

    def news(self) -> list[str]:
        """Return, once, what is to be said of a file that a person made another one of."""
        told, self.told = self.told, ""
        return [told] if told else []

    def append(self, lines: Sequence[Line]) -> None:
        """Append lines; they are on the disk when this returns."""
        if not lines:
            return
        self._look_again()
        self._drop_unknown({str(line[_FIRST_COLUMN]) for line in lines})
        text = io.StringIO(newline="")
        self._columns = self._columns or list(lines[0])
        self._widen(_of_new_classes(lines[0], self._columns))
        # A later version's columns would shift an older file's: it keeps its own.
        writer = csv.DictWriter(text, self._columns, restval="", extrasaction="ignore")
        writer.writerows({name: cell_of(value) for name, value in line.items()} for line in lines)
        descriptor = open_own(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with os.fdopen(descriptor, "ab") as stream:
            self._begun = stream.tell()
            try:
                if not self._begun:  # a person may have moved the older lines away
                    stream.write(_line_of(self._columns))
                stream.write(text.getvalue().encode("utf-8", "surrogateescape"))
                stream.flush()
                os.fsync(stream.fileno())
            except OSError as error:
                self.take_back()  # half a line would merge with the next
                raise named_after(error, self.file) from None

    def _widen(self, columns: Sequence[str]) -> None:
        """Add columns at the end, so that the others stay in their places."""
        rows = self._rows()[0] if columns else []
        if not rows:
            return
        self._columns += columns
        rows[0] += [str(cell_of(name)) for name in columns]
        width = len(rows[0])
        self._write([row + [""] * (width - len(row)) if row else row for row in rows])

    def take_back(self) -> None:
        """Remove the lines of the last append: the ledger could not take their images."""
        if self.file.exists():
            os.truncate(self.file, self._begun)
            self._columns = self._columns if self._begun else []

    def newest_of(self, files: Collection[str]) -> dict[str, dict[str, dict[str, str]]]:
        """Return file -> image or plane -> its newest line, as column -> cell."""
        self._look_again()
        wanted, found = frozenset(files), dict[str, dict[str, dict[str, str]]]()
        for row in self._rows()[0][1:]:
            image = text_of_cell(row[0]) if row else ""
            file = _file_of(image, wanted)
            if file in wanted:
                cells = zip(self._columns, map(text_of_cell, row), strict=False)
                found.setdefault(file, {})[image] = dict(cells)
        return found

    def replace_newest(self, lines: Sequence[Line]) -> None:
        """Put lines where the newest of their images stand, all in one step; others come last."""
        self._look_again()
        rows = self._rows()[0]
        if not lines or not rows or not self._columns:
            self.append(lines)
            return
        places = {text_of_cell(row[0]): number for number, row in enumerate(rows) if row}
        for line in lines:
            row = [str(cell_of(line.get(name, ""))) for name in self._columns]
            place = places.get(str(line[_FIRST_COLUMN]), 0)
            if place:
                rows[place] = row
            else:
                rows.append(row)
        self._write(rows)

    def keep_newest(self, redone: Mapping[str, Sequence[Line]]) -> None:
        """Drop older lines of files that were predicted again, and of planes that they lost.

        `redone`: file -> the lines that were appended of it.
        """
        names = {str(line["image"]) for lines in redone.values() for line in lines}
        if not names:
            return
        rows, _ = self._rows()
        files = frozenset(redone)
        images = [text_of_cell(row[0]) if row else "" for row in rows]
        last = {image: number for number, image in enumerate(images)}
        kept = [
            row
            for number, (row, image) in enumerate(zip(rows, images, strict=True))
            if number == 0
            or _file_of(image, files) not in files
            or (image in names and number == last[image])
        ]
        if len(kept) < len(rows):
            self._write(kept)

    def _look_again(self) -> None:
        """Follow what a person saved while the watch runs: other columns, a last line unended."""
        head, end = self._ends()
        if head and (head != self._head or end != b"\n"):
            unknown = self._unknown
            self._learn(None)
            self._unknown, self._head = unknown, self._ends()[0]

    def _ends(self) -> tuple[bytes, bytes]:
        """Return the first line of the file, and its last byte; b"" where there is none."""
        with suppress(FileNotFoundError), reading_own(self.file) as stream:
            head, size = stream.readline(_MOST_BYTES), os.fstat(stream.fileno()).st_size
            return head, os.pread(stream.fileno(), 1, size - 1) if size else b""
        return b"", b""

    def _learn(self, known: frozenset[str] | None) -> list[list[str]]:
        """Read what is there, drop a torn last line, and return the others.

        `known`: the images of the ledger; None: what is there, this watch wrote whole.
        """
        rows, is_whole = self._rows()
        if rows and rows[0][:1] != [_FIRST_COLUMN]:
            self._put_aside()
            self._columns = []
            return []
        done = frozenset(row[0] for row in rows if row) if known is None else known
        if rows and not is_whole:
            # Its line was on the disk before the ledger knew the image: an editor took its end.
            last = text_of_cell(rows[-1][0]) if rows[-1] else ""
            is_torn = len(rows[-1]) < len(rows[0]) or _file_of(last, done) not in done
            rows = rows[:-1] if is_torn else rows
            self._write(rows)
        self._columns = list(map(text_of_cell, rows[0])) if rows else []
        images = [text_of_cell(row[0]) for row in rows[1:] if row]
        self._unknown = {image for image in images if _file_of(image, done) not in done}
        return rows

    def _drop_older(self, rows: Sequence[Sequence[str]], done: frozenset[str]) -> None:
        """Drop lines of files that were predicted again before a kill that came before this.

        Lines of all planes are appended together, so older ones stand above the first plane's last.
        """
        images = [text_of_cell(row[0]) if row else "" for row in rows]
        files = [_file_of(image, done) for image in images]
        begun = {
            file: number
            for number, (image, file) in enumerate(zip(images, files, strict=True))
            if image == file or image == f"{file}#0"
        }
        kept = [
            row
            for number, (row, file) in enumerate(zip(rows, files, strict=True))
            if number == 0 or file not in done or number >= begun.get(file, 0)
        ]
        if len(kept) < len(rows):
            self._write(kept)

    def _put_aside(self) -> None:
        """Keep what a spreadsheet saved with other signs between cells: lines would not fit it."""
        aside = free_name(self.file.parent, "measurements.changed-{}.csv")
        self.file.rename(aside)
        what = f'does not begin with "{_FIRST_COLUMN}," as this program writes it'
        self.told = f"{self.file} {what}: it is kept as {aside.name}, and begun anew"

    def _drop_unknown(self, images: Collection[str]) -> None:
        """Drop lines of images that are measured again, as the ledger does not know them."""
        stacks = {found[1] for image in images if (found := _PLANE.fullmatch(image))}
        again = {
            image
            for image in self._unknown
            if image in images or ((found := _PLANE.fullmatch(image)) and found[1] in stacks)
        }
        if again:
            rows, _ = self._rows()
            if rows:
                self._write([row for row in rows if not row or text_of_cell(row[0]) not in again])
            self._unknown -= again

    def _rows(self) -> tuple[list[list[str]], bool]:
        """Return the lines, and whether the last one is whole; none where there is no file."""
        if not self.file.exists():
            return [], True
        with reading_own(self.file) as stream:
            if os.fstat(stream.fileno()).st_size > _MOST_BYTES:
                raise OSError(errno.EFBIG, "is far too large: move it away", str(self.file))
            content = stream.read().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        csv.field_size_limit(max(csv.field_size_limit(), len(content)))
        return list(csv.reader(io.StringIO(content, newline=""))), content.endswith("\n")

    def _write(self, rows: Sequence[Sequence[str]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        write_whole(self.file, text.getvalue().encode("utf-8", "surrogateescape"))


def _of_new_classes(line: Line, columns: Sequence[str]) -> list[str]:
    """Return the columns of classes that a file has none of: the model is another one."""
    known = frozenset(columns)
    if not any(name.endswith("_fraction") for name in columns):
        return []  # of a version that did not write all that is told of a class
    told = [name.removesuffix("_fraction") for name in line if name.endswith("_fraction")]
    new = [name for name in told if not known.intersection((f"{name}_fraction", f"{name}_px"))]
    return [
        column
        for column in line
        if column not in known and any(column.startswith(f"{name}_") for name in new)
    ]


def _line_of(columns: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(map(cell_of, columns))
    return text.getvalue().encode("utf-8", "surrogateescape")


def _file_of(image: str, done: frozenset[str]) -> str:
    """Return the file of an image, which may be a plane: stack.mrc#12."""
    plane = None if image in done else _PLANE.fullmatch(image)
    return plane[1] if plane else image
