"""Where each image's files go, and whose those are that lie there.

Sub-folders are mirrored, no two images share a file.
"""

import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import overload

from msgspec import structs

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef, ImageRefs
from emcfsys_engine.images.origins import Maker
from emcfsys_engine.images.other_outputs import OtherBooks
from emcfsys_engine.images.output_book import FOLDER, OutputBook
from emcfsys_engine.images.output_names import WantedName, key_of_file, keys_of
from emcfsys_engine.images.own_files import identity_of, is_content, is_other_file, lies_in
from emcfsys_engine.run.events import RunStarted
from emcfsys_engine.run.folder import Run
from emcfsys_engine.text import few, how_many


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Where the files of one image go."""

    wanted: WantedName
    stems: tuple[str, ...]  # one a plane
    out: Path
    suffix: str
    kept: tuple[Path, ...] = ()  # files not ours: a new version goes beside them

    @property
    def masks(self) -> tuple[Path, ...]:
        """The files of the masks, one a plane."""
        return tuple(self.mask(plane) for plane in range(len(self.stems)))

    def mask(self, plane: int) -> Path:
        """Return the file of one mask. `plane`: its place in line."""
        return Path(f"{self.out}/{self.stems[plane]}{self.suffix}")

    @property
    def told(self) -> str:
        """What to say of files that are kept; empty if there are none."""
        if not self.kept:
            return ""
        what = "is not as a prediction wrote it" if len(self.kept) == 1 else "are not as written"
        names = ", ".join(map(str, self.kept[:3]))
        return f"{names} {what}, and kept: the new version is {self.masks[0]}"


class Placing:
    """Names the files of images in one output folder."""

    def __init__(self, book: OutputBook, suffix: str, originals: Sequence[Path]) -> None:
        """`originals`: folders of images, into which no link in the output may lead."""
        self.book = book
        self._suffix = suffix
        self._originals = originals
        self._leads_there: dict[Path, bool] = {}
        self._others = OtherBooks(book.out)

    def newest(self, wanted: Sequence[WantedName]) -> list[Placed]:
        """Return the newest names of images; new ones get theirs."""
        newest = [self._newest_of(one) for one in wanted]
        every = self.book.stems(newest, self._suffix)
        return [
            Placed(wanted=one, stems=stems, out=self.book.out, suffix=self._suffix)
            for one, stems in zip(newest, every, strict=True)
        ]

    def newest_there(self, placed: Placed) -> Placed:
        """Return the newest names that have all masks: a version may have been begun in vain."""
        for version in range(placed.wanted.version, 0, -1):
            older = structs.replace(placed.wanted, version=version)
            (stems,) = self.book.stems([older], self._suffix)
            if all(os.path.lexists(self.mask(stem)) for stem in stems):
                return replace(placed, wanted=older, stems=stems)
        return placed

    def writable(self, placed: Placed, files: Callable[[Path], list[Path]]) -> Placed:
        """Return names whose files are all ours or not there: else those of a newer version.

        `files` gives everything that is written beside a mask.
        """
        kept: list[Path] = []
        while foreign := [
            file
            for mask in placed.masks
            for file in files(mask)
            if os.path.lexists(file) and not self.book.has_now(file, of_image=True)
        ]:
            kept += foreign
            wanted = structs.replace(placed.wanted, version=placed.wanted.version + 1)
            (placed,) = self.newest([wanted])
        return replace(placed, kept=tuple(kept))

    def has_mask(self, placed: Placed, plane: int) -> bool:
        """Tell whether the mask of a plane is there, in any version. `plane`: its place in line.

        One of ours that was made of another image under this name is none.
        """
        if self.is_among_originals(placed):
            return False
        image, mask = Path(placed.wanted.image), placed.mask(plane)
        if is_other_file(mask, image) and not self.is_of_another(mask, placed.wanted):
            before = self.book.made_of(mask)
            return not before or _is_still(before, image, placed.wanted.content)
        for version in range(1, placed.wanted.version):
            older = structs.replace(placed.wanted, version=version)
            (stems,) = self.book.stems([older], self._suffix)
            mask = self.mask(stems[plane])
            if is_other_file(mask, image) and not self.is_of_another(mask, older):
                return True
        return False

    def is_of_another(self, mask: Path, wanted: WantedName) -> bool:
        """Tell whether a mask that is there is of another image, by an output folder around it."""
        if self.book.is_known(mask):
            return False
        return self._others.is_of_another(mask, Path(wanted.image), wanted.content)

    def retire(self, placed: Placed) -> str:
        """Remove what is of an image as it was before, of planes that it lost; return what to say.

        All masks that it has now are there. What a person changed stays, and is said.
        """
        if not all(self.book.has(mask, placed.wanted.content) for mask in placed.masks):
            return ""
        gone, kept = self.book.retire(placed.wanted)
        told: list[str] = []
        if gone:
            files = how_many(len(gone), "file")
            told.append(f"{files} of it as it was before removed{in_brackets(gone)}")
        if kept:
            told.append(f"{how_many(len(kept), 'changed file')} of it kept{in_brackets(kept)}")
        return f"{placed.wanted.image}: {'; '.join(told)}" if told else ""

    def is_among_originals(self, placed: Placed) -> bool:
        """Tell whether masks would lie among images, by whatever links."""
        place = placed.mask(0).parent
        folder = identity_of(place)
        if folder is not None and folder == identity_of(Path(placed.wanted.image).parent):
            return True
        if place not in self._leads_there:
            self._leads_there[place] = not lies_in(place, self.book.out) and any(
                lies_in(place, one) for one in self._originals
            )
        return self._leads_there[place]

    def mask(self, stem: str) -> Path:
        """Return the mask of a stem."""
        return self.book.out / f"{stem}{self._suffix}"

    def _newest_of(self, wanted: WantedName) -> WantedName:
        version = max(self.book.version_of(wanted.image, plane) for plane in wanted.planes)
        return structs.replace(wanted, version=version) if version > wanted.version else wanted


def _is_still(before: str, image: Path, content: str) -> bool:
    try:
        return is_content(before, image, content)
    except OSError:
        return False


def in_brackets(files: Sequence[Path]) -> str:
    """Return the names of the first of some files, to be said in brackets."""
    return f" ({few([file.name for file in files], 3)})"


class _Listed:
    """What lies in the folders of an output, each listed once: a file that is not is not asked for.

    It is as old as this object: what concerns a file that is there is asked of the disk.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._keys: dict[str, frozenset[str]] = {}

    def may_have(self, stem: str) -> bool:
        """Tell whether any file that a stem can lead to may be there."""
        folder = stem.rpartition("/")[0]
        if folder not in self._keys:
            self._keys[folder] = self._keys_in(folder)
        there = self._keys[folder]
        return bool(there) and not there.isdisjoint(keys_of(stem))

    @cached_property
    def is_empty(self) -> bool:
        """Tell whether nothing lies there but what this program notes."""
        try:
            return not set(os.listdir(self._out)) - {FOLDER}
        except FileNotFoundError:
            return True

    def _keys_in(self, folder: str) -> frozenset[str]:
        try:
            names = os.listdir(self._out / folder)
        except FileNotFoundError:
            return frozenset()
        top = f"{folder}/" if folder else ""
        return frozenset(key_of_file(f"{top}{name}") for name in names)


_ONE: tuple[int | None, ...] = (None,)  # planes of a file that is one picture


class OutputNames:
    """The names of a prediction's outputs."""

    def __init__(
        self,
        book: OutputBook,
        refs: Sequence[ImageRef],
        inputs: Sequence[str],
        suffix: str,
        is_ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._roots = sorted((Path(place) for place in inputs), key=lambda p: -len(p.parts))
        self._book, self._suffix, self._top = book, suffix, f"{book.out}/"
        self.placing = Placing(book, suffix, [one for one in self._roots if one.is_dir()])
        self._there = _Listed(book.out)
        self._folders: dict[str, tuple[str, str]] = {}  # of images: below the output, resolved
        self._stacks: dict[str, list[int | None]] = {}
        listed = ImageRefs.of(refs)
        firsts = array("Q")  # of each file, which of all images is its first
        for number, name, plane in listed.files():
            if plane is None or name not in self._stacks:
                firsts.append(number)
            if plane is not None:
                self._stacks.setdefault(name, []).append(plane)
        self._contents: dict[str, str] = {}  # of images, where there may be masks
        if book.is_begun:
            names = map(listed.name_of, firsts)
            self._contents = {one: book.contents.of(Path(one), is_ended) for one in names}
            book.note_contents()
        book.name_all(_Files(self._wanted, listed, firsts), suffix)

    @property
    def has_none(self) -> bool:
        """Tell whether no image has any file there: then a million need not be asked for."""
        return self._there.is_empty

    def mask_of(self, ref: ImageRef) -> Path:
        """Return the mask's file: `sub/x.png`, `sub/x.dm4.png` on a collision, `x.0012.png`."""
        return Path(self.mask_name_of(str(ref.path), ref.plane))

    def mask_name_of(self, image: str, plane: int | None) -> str:
        """Return the mask's path as text."""
        return f"{self._top}{self._stem_of(image, plane)[0]}{self._suffix}"

    def has_mask(self, ref: ImageRef) -> bool:
        """Tell whether an image has its mask, in any version."""
        stem, version = self._stem_of(str(ref.path), ref.plane)
        if version == 1 and not self._there.may_have(stem):
            return False
        placed = self._placed(str(ref.path))
        return self.placing.has_mask(placed, placed.wanted.planes.index(ref.plane))

    def retire(self, made: Iterable[ImageRef]) -> list[str]:
        """Remove what is of images as they were before they were predicted; return what to say."""
        paths = dict.fromkeys(str(ref.path) for ref in made)
        return [told for path in paths if (told := self.placing.retire(self._placed(path)))]

    def make_writable(
        self, refs: Iterable[ImageRef], files: Callable[[ImageRef, Path], list[Path]]
    ) -> list[str]:
        """See that images can be written over nothing that is not ours; return what to say."""
        told: list[str] = []
        seen: set[Path] = set()
        for ref in () if self.has_none else refs:
            if ref.path in seen or not self._may_have(ref):
                continue
            if ref.plane is not None:
                seen.add(ref.path)
            placed = self._placed(str(ref.path))
            one = ImageRef(path=ref.path, plane=placed.wanted.planes[0])
            placed = self.placing.writable(placed, lambda mask, one=one: files(one, mask))
            told += [placed.told] if placed.kept else []
        return told

    def _may_have(self, ref: ImageRef) -> bool:
        if ref.plane is None:
            return self._there.may_have(self._stem_of(str(ref.path), None)[0])
        return any(map(self._there.may_have, self._placed(str(ref.path)).stems))

    def _stem_of(self, path: str, plane: int | None) -> tuple[str, int]:
        """Return the stem of an image's mask, and its version: all planes of a file are of one."""
        _, image = self._image(path)
        planes = _ONE if plane is None else self._stacks[path]
        version = max(self._book.version_of(image, each) for each in planes)
        stem = self._book.stem_of(image, plane, version)
        return stem or self._placed(path).stems[planes.index(plane)], version

    def _placed(self, path: str) -> Placed:
        return self.placing.newest([self._wanted(path)])[0]

    def _wanted(self, path: str) -> WantedName:
        folder, image = self._image(path)
        planes = tuple(self._stacks[path]) if path in self._stacks else _ONE
        content = self._contents.get(path, "") if self._contents else ""
        return WantedName(image=image, folder=folder, planes=planes, content=content)

    def _image(self, path: str) -> tuple[str, str]:
        """Return the folder of an image's mask below the output, and the path that names it."""
        above, _, name = path.rpartition("/")
        if above not in self._folders:
            parent = str(Path(path).parent.resolve())
            self._folders[above] = self._folder(Path(path)), parent.removesuffix("/")
        folder, parent = self._folders[above]
        return folder, f"{parent}/{name}"

    def _folder(self, path: Path) -> str:
        for root in self._roots:
            if root in path.parents:
                below = path.parent.relative_to(root).as_posix()
                return "" if below == "." else below
        return ""


class _Files(Sequence[WantedName]):
    """The files of images, as the book is asked for names: each is made when it is looked at."""

    def __init__(
        self,
        wanted: Callable[[str], WantedName],
        refs: ImageRefs,
        firsts: Sequence[int],
    ) -> None:
        self._wanted, self._refs, self._firsts = wanted, refs, firsts

    def __len__(self) -> int:
        return len(self._firsts)

    @overload
    def __getitem__(self, index: int) -> WantedName: ...
    @overload
    def __getitem__(self, index: slice) -> list[WantedName]: ...
    def __getitem__(self, index: int | slice) -> WantedName | list[WantedName]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return self._wanted(self._refs.name_of(self._firsts[index]))


class MakersOf:
    """Whose the masks of a folder are: one model's, or others', whose values may mean others."""

    def __init__(self, book: OutputBook, maker: Maker, classes: tuple[str, ...]) -> None:
        self._book, self._maker, self._classes = book, maker, classes
        self._known: dict[Path, Maker | None] = {}

    def is_another(self, mask: Path) -> bool:
        """Tell whether another model is known to have made a mask."""
        made_by = self._made_by(mask)
        return made_by is not None and made_by.key != self._maker.key

    def names_alike(self, mask: Path) -> bool:
        """Tell whether a mask's values mean the model's classes.

        Older versions did not note it: there they do where all runs had these classes.
        """
        made_by = self._made_by(mask)
        return (
            self._were_always_these if made_by is None else made_by.classes == self._maker.classes
        )

    def _made_by(self, mask: Path) -> Maker | None:
        if mask not in self._known:  # to find it reads the whole mask
            self._known[mask] = self._book.maker_of(mask)
        return self._known[mask]

    @cached_property
    def _were_always_these(self) -> bool:
        return _classes_of_runs(self._book.out) == {self._classes}


def _classes_of_runs(out: Path) -> set[tuple[str, ...]]:
    """Return the classes of all predictions into a folder, as far as they got under way."""
    found: set[tuple[str, ...]] = set()
    for folder in out.glob(f"{FOLDER}/*"):
        with suppress(InputError, OSError):
            for event in Run(folder).events():
                if isinstance(event, RunStarted):
                    found.add(tuple(event.classes))
                    break
    return found
