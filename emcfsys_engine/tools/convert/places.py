"""Where each item is written to: decided of all of them before the first is written.

So no two meet, and who goes on after a kill knows which files were not there before.
"""

import itertools
import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine.annotations.pairing import Key, key_of_file
from emcfsys_engine.annotations.writer import LABELME_OPENS, LabelFormat, file_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import free_version
from emcfsys_engine.tools.convert.items import ToConvert

Target = LabelFormat | Literal["png"]


class Places:
    """The files of an output folder that a conversion is about to write.

    Only what this program wrote, and nobody changed since, is ever replaced.
    """

    def __init__(self, out: Path, to: Target, *, overwrite: bool) -> None:
        self._to: Target = to
        self._out, self._overwrite = out, overwrite
        self._book = OutputBook(out)

    def of_all(self, items: Sequence[ToConvert]) -> list[ToConvert]:
        """Return items with where they go, or with why they go nowhere."""
        held = Counter(item.name for item in items)
        files = set() if self._to == "coco" else {self._file_of(name) for name in held}
        views = {self._view_of(item.name) for item in items if self._is_shown(item)}
        return [self._placed(one, files, views, is_alone=held[one.name] == 1) for one in items]

    def of_one(self, source: str) -> tuple[str, str, str]:
        """Return COCO's one file, what is said of it, and why it is not written."""
        return self._place(file_of(self._out, "coco", ""), source, ())

    def _placed(
        self, item: ToConvert, files: Container[Path], views: Container[Path], *, is_alone: bool
    ) -> ToConvert:
        file = note = why = view = ""
        if self._to != "coco":
            file, note, why = self._place(self._file_of(item.name), item.path, files)
        if not why and not is_alone:
            why = f"shares the name {item.name} with another file"
        if not why and self._is_shown(item):
            view = self._view(item, views).name
        notes = (*item.notes, note) if note else item.notes
        return msgspec.structs.replace(item, file=file, view=view, notes=notes, why_not=why)

    def _place(self, file: Path, source: str, others: Container[Path]) -> tuple[str, str, str]:
        if not os.path.lexists(file):
            return str(file), "", ""
        if file.exists() and file.samefile(source):
            return "", "", "would be overwritten by its own conversion. Give another --out"
        if not self._overwrite:
            why = f"{file} exists already. Give --overwrite to replace it, or another --out"
            return "", "", why
        free = free_version(file, self._book, others)
        what = "is not as this program wrote it, and kept: the new version is"
        return str(free), "" if free == file else f"{file} {what} {free.name}", ""

    def _file_of(self, name: str) -> Path:
        return self._view_of(name) if self._to == "png" else file_of(self._out, self._to, name)

    def _view_of(self, name: str) -> Path:
        return self._out / f"{name}.png"

    def _is_shown(self, item: ToConvert) -> bool:
        """Tell whether Labelme needs a picture of the image: it opens few formats, no planes."""
        image = item.image_ref
        if self._to != "labelme" or image is None:
            return False
        return image.plane is not None or image.path.suffix.lower() not in LABELME_OPENS

    def _view(self, item: ToConvert, views: Container[Path]) -> Path:
        """Return the picture of an image: neither its labels nor what a person has there."""
        file = self._view_of(item.name)
        if file.exists() and file.samefile(item.path):
            file = file.with_name(f"{file.stem}.view.png")
        return free_version(file, self._book, views)


def output_names(refs: Sequence[ImageRef], root: Path) -> list[str]:
    """Return a name below the output folder for each image: x, x.0012, or x.dm4 on collision.

    No two are alike, also where a file system takes A for a.
    """
    planes: dict[Path, list[int | None]] = {}
    for ref in refs:
        planes.setdefault(ref.path, []).append(ref.plane)
    stems = {path: key_of_file(path, root)[0].removeprefix("./") for path in planes}
    owners = Counter(stem.casefold() for stem in stems.values())
    taken: set[str] = set()
    found: dict[tuple[Path, int | None], str] = {}
    for path in sorted(planes, key=lambda path: len(path.name)):
        bases = _bases(path, stems[path], is_alone=owners[stems[path].casefold()] == 1)
        every = (
            [base if plane is None else f"{base}.{plane:04d}" for plane in planes[path]]
            for base in bases
        )
        names = next(names for names in every if taken.isdisjoint(map(str.casefold, names)))
        taken.update(map(str.casefold, names))
        found.update(zip([(path, plane) for plane in planes[path]], names, strict=True))
    return [found[ref.path, ref.plane] for ref in refs]


def _bases(path: Path, stem: str, *, is_alone: bool) -> Iterator[str]:
    """Yield names for one image, the best first; each is another one."""
    whole = str(Path(stem).parent / path.name)
    first = [stem, whole] if is_alone else [whole]
    return itertools.chain(first, (f"{whole}~{number}" for number in itertools.count(2)))


def name_of_key(key: Key) -> str:
    """Return the name of labels whose image is not known."""
    name, plane = key
    name = name.removeprefix("./").lstrip("/")
    return name if plane is None else f"{name}.{plane:04d}"
