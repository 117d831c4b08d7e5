"""Which mask belongs to which image: by what was noted when it was written, else by its name.

Our own masks say in `.emcfsys/outputs.jsonl` which image, plane and version they are of. Of several
versions the newest counts; masks of an image as it was before it was predicted again count nowhere.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emcfsys_engine.annotations.masks import table_of
from emcfsys_engine.annotations.pairing import bare_name, key_of_file, match
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.origins import Origin
from emcfsys_engine.images.output_book import FOLDER, OutputBook
from emcfsys_engine.images.output_names import ENDS, LABEL_SUFFIXES, MASK_SUFFIXES, stem_of
from emcfsys_engine.images.own_files import is_content, resolved
from emcfsys_engine.images.own_outputs import opened_book
from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.regions import OF_REGION, overlap
from emcfsys_engine.text import few, how_many

_LEVELS = 8  # folders above a mask in which its book may lie
_PART = re.compile(rf"(.+){OF_REGION}", re.DOTALL)
_VERSION = re.compile(r"(.+)\.v\d+", re.DOTALL)


class NotedOrigins:
    """What is noted of masks, by the books beside them; nothing of what others wrote."""

    def __init__(self) -> None:
        self._books: dict[Path, OutputBook | None] = {}

    def of(self, file: Path) -> Origin | None:
        """Return what a mask, or outlines, were made of."""
        book = self._book_of(file.absolute())
        return None if book is None else book.origin_of(file.absolute())

    def is_of(self, mask: Path, origin: Origin, image: Path) -> bool:
        """Tell whether an image still is what a mask was made of, as far as that was noted."""
        book = self._book_of(mask.absolute())
        if book is None or not origin.content or not (now := book.contents.of(image)):
            return True
        try:
            return is_content(origin.content, image, now)
        except OSError:
            return True

    def is_as_written(self, mask: Path) -> bool:
        """Tell whether a mask is as this program wrote it."""
        book = self._book_of(mask.absolute())
        return book is not None and book.has(mask.absolute())

    def is_known(self, file: Path) -> bool:
        """Tell by its name whether this program ever wrote a file."""
        book = self._book_of(file.absolute())
        return book is not None and book.is_known(file.absolute())

    def is_behind_masks(self, outlines: Path) -> bool:
        """Tell whether outlines, as this program wrote them, say less than masks beside them.

        A person changed such a mask since, or that of another version, or another model made it
        later; of the outlines of all images together, that any mask was written later is enough.
        """
        file = outlines.absolute()
        book = self._book_of(file)
        if book is None or not book.has(file):
            return False
        origin = book.origin_of(file)
        if origin is None:
            return any(
                one.is_changed or one.order > book.order_of(file)
                for mask in book.masks()
                if (one := book.origin_of(mask)) is not None
            )
        stem = next(file.name[: -len(end)] for end in ENDS if file.name.endswith(end))
        beside = _masks_of(book, file.with_name(stem))
        if any(
            one.is_changed or (one.order > origin.order and one.maker != origin.maker)
            for one in beside
        ):
            return True
        others = [one for stem in _other_stems(book, origin) for one in _masks_of(book, stem)]
        return any(one.is_changed and not one.is_outdated for one in others)

    def changed_outlines(self, mask: Path, origin: Origin) -> list[Path]:
        """Return outlines of a mask's image that a person changed, beside any version of it."""
        book = self._book_of(mask.absolute())
        if book is None:
            return []
        stems = (mask.absolute().with_name(stem_of(mask)), *_other_stems(book, origin))
        files = [stem.with_name(f"{stem.name}{end}") for stem in stems for end in LABEL_SUFFIXES]
        noted = {file: book.origin_of(file) for file in files if file.is_file()}
        return [
            file for file, one in noted.items() if one and one.is_changed and not one.is_outdated
        ]

    def note_contents(self) -> None:
        """Write down which images were looked at."""
        for book in {id(book): book for book in self._books.values() if book is not None}.values():
            book.note_contents()

    def _book_of(self, file: Path) -> OutputBook | None:
        """Return the nearest book that knows a file, or else the nearest one that knows any."""
        above = [self._book_in(folder) for folder in file.parents[: _LEVELS + 1]]
        books = [book for book in above if book is not None]
        return next((book for book in books if book.is_known(file)), books[0] if books else None)

    def _book_in(self, folder: Path) -> OutputBook | None:
        if folder not in self._books:
            try:
                own = opened_book(folder) if (folder / FOLDER).is_dir() else None
            except OSError:
                own = None
            self._books[folder] = own if own is not None and own.is_begun else None
        return self._books[folder]


@dataclass(kw_only=True)
class Masks:
    """Masks that count, and what is to be said of the others."""

    refs: list[ImageRef]
    origins: dict[ImageRef, Origin]
    known: NotedOrigins
    notes: list[str] = field(default_factory=list)

    def pairs(
        self, images: Sequence[ImageRef], image_root: Path, root: Path
    ) -> tuple[dict[ImageRef, ImageRef], list[ImageRef]]:
        """Return image -> mask, and the masks that belong to no image.

        A mask that was noted to be of an image is that image's, by its path or, where the folders
        were moved, by its name; a newer version is never taken for another image's first.
        """
        pairs, claimed = self._noted(images, image_root, root)
        self.drop_changed(pairs, "mask")
        claimed |= {mask for mask, origin in self.origins.items() if origin.version > 1}
        used = set(pairs.values())
        named = {
            mask: key_of_file(mask.path, root, mask.plane)
            for mask in self.refs
            if mask not in used and mask not in claimed
        }
        bare = [ref for ref in images if ref not in pairs]
        more = match(bare, image_root, named, pairs.keys())[0]
        self._doubt(more, images)
        pairs |= more
        used |= set(more.values())
        return pairs, [mask for mask in self.refs if mask not in used]

    def is_of_model(self, mask: ImageRef) -> bool:
        """Tell whether a mask is as a model made it."""
        return mask in self.origins and self.origins[mask].is_of_model

    def name_beside(self, others: Iterable[ImageRef]) -> None:
        """Say which files are no masks by their names only: `predict` did not write them here."""
        names = sorted(
            one.path.name
            for one in others
            if one.path.suffix == ".png" and not self.known.is_known(one.path)
        )
        if names:
            are = how_many(len(names), "file is", "files are")
            what = "taken for what predict writes beside a mask, by name: left out"
            self.notes.append(f"{are} {what} ({few(names, 3)})")

    def drop_parts(self) -> None:
        """Leave out masks of regions whose whole image's mask is among these, too."""
        whole = {(mask.path.parent, stem_of(mask.path)) for mask in self.refs}
        parts = [
            mask
            for mask in self.refs
            if (part := _PART.fullmatch(stem_of(mask.path))) is not None
            and (mask.path.parent, part[1]) in whole
        ]
        for mask in parts:
            self.drop(mask)
        if parts:
            are = how_many(len(parts), "mask is", "masks are")
            what = "of a region of an image whose whole mask is beside: left out"
            self.notes.append(f"{are} {what}{_few(parts)}")
        self._name_overlaps()

    def _name_overlaps(self) -> None:
        """Say which masks of regions show a part of an image twice."""
        beside: defaultdict[tuple[Path, str], list[ImageRef]] = defaultdict(list)
        for mask in self.refs:
            if part := _PART.fullmatch(stem_of(mask.path)):
                beside[mask.path.parent, part[1]].append(mask)
        twice = [
            mask
            for masks in beside.values()
            for mask in masks
            if any(mask != one and overlap(stem_of(mask.path), stem_of(one.path)) for one in masks)
        ]
        if twice:
            are = how_many(len(twice), "mask is", "masks are")
            what = "of regions of one image that overlap: what lies in two counts twice"
            self.notes.append(f"{are} {what}{_few(twice)}")

    def doubt_namesakes(self) -> None:
        """Say which masks are of images that lie there no more, where one called alike has one."""
        by_name: defaultdict[tuple[Path, str, int | None], list[ImageRef]] = defaultdict(list)
        for mask, one in self.origins.items():
            by_name[mask.path.parent, one.image.name, one.plane].append(mask)
        several = [masks for masks in by_name.values() if len(masks) > 1]
        gone = [
            mask
            for masks in several
            for mask in masks
            if not os.path.lexists(self.origins[mask].image)
        ]
        if gone:
            are = how_many(len(gone), "mask is", "masks are")
            what = "of images that are gone, beside masks of others called alike"
            self.notes.append(f"{are} {what}: what was moved and changed counts twice{_few(gone)}")

    def drop(self, mask: ImageRef) -> None:
        """Leave one more out."""
        self.refs.remove(mask)
        self.origins.pop(mask, None)

    def of_other_classes(self, classes: Mapping[str, int]) -> list[ImageRef]:
        """Return masks whose values mean other classes, where those of others mean these.

        Where all were made by models of one naming, a person may have renamed the classes since:
        that is only said; but a name that means another value now was not renamed. Classes that
        came since, or went, change no others.
        """
        made = {mask: one.maker.classes for mask, one in self.origins.items() if one.maker}
        name_of = {value: name for name, value in classes.items()}
        others = [
            mask
            for mask, named in made.items()
            if any(
                classes.get(name, value) != value or name_of.get(value, name) != name
                for name, value in named.items()
            )
        ]
        namings = {tuple(named.items()) for named in made.values()}
        is_renamed = all(classes.get(name, value) == value for n in namings for name, value in n)
        if others and len(others) == len(self.refs) and len(namings) == 1 and is_renamed:
            names = ", ".join(f"{name} {value}" for name, value in next(iter(namings)))
            self.notes.append(f"the model that made the masks calls their values {names}")
            return []
        return others

    def doubt_values(self, classes: Mapping[str, int], labels: Mapping[str, str]) -> None:
        """Say which masks [data.labels] takes for other classes than the models that made them."""
        table = table_of(classes, labels)
        found = [
            (mask, name, value)
            for mask, one in self.origins.items()
            for name, value in (one.maker.classes if one.maker else {}).items()
            if name in classes and table.of_value(value) not in (classes[name], UNLABELLED)
        ]
        if found:
            are = how_many(len({mask for mask, _, _ in found}), "mask is", "masks are")
            mask, name, value = found[0]
            what = f"{mask.path.name}: {value} is {name!r} by the model, not by [data.labels]"
            self.notes.append(f"{are} of a model, and read as other classes ({what})")

    def other_classes(self, mask: ImageRef, remedy: str) -> AnnotationError:
        """Return the error for one of `of_other_classes`."""
        maker = self.origins[mask].maker
        named = maker.classes.items() if maker is not None else ()
        names = ", ".join(f"{name} {value}" for name, value in named)
        what = f"a model of other classes made it ({names})"
        return AnnotationError(str(mask), what, remedy)

    def _noted(
        self, images: Sequence[ImageRef], image_root: Path, root: Path
    ) -> tuple[dict[ImageRef, ImageRef], set[ImageRef]]:
        """Return image -> mask, and the masks that are of one of the images, if only together."""
        by_path = {(resolved(ref.path), ref.plane): ref for ref in images}
        by_name: defaultdict[tuple[str, int | None], list[ImageRef]] = defaultdict(list)
        for ref in images:
            by_name[f"{_folder(ref.path, image_root)}/{ref.path.name}", ref.plane].append(ref)
        claims: defaultdict[ImageRef, list[ImageRef]] = defaultdict(list)
        for mask, origin in self.origins.items():
            if (ref := by_path.get((origin.image, origin.plane))) is not None:
                claims[ref].append(mask)
        moved: defaultdict[ImageRef, list[ImageRef]] = defaultdict(list)
        for mask, origin in self.origins.items():
            refs = by_name[f"{_folder(mask.path, root)}/{origin.image.name}", origin.plane]
            # An image that has its own mask takes none of its namesake's in another folder.
            if (
                len(refs) == 1
                and refs[0] not in claims
                and ((origin.image, origin.plane) not in by_path)
            ):
                moved[refs[0]].append(mask)
        claims |= moved
        for ref, masks in claims.items():
            if len(masks) > 1:
                self.notes.append(
                    f"{ref}: {len(masks)} masks are of it, none is taken{_few(masks)}"
                )
        pairs = {ref: masks[0] for ref, masks in claims.items() if len(masks) == 1}
        return pairs, {mask for masks in claims.values() for mask in masks}

    def drop_changed(self, pairs: dict[ImageRef, ImageRef], what_it_is: str) -> None:
        """Leave out what was made of images that became others and were not predicted again.

        A person's correction stays: it may be of the same pixels. What nobody noted stays, too.
        """
        changed = [
            (image, mask)
            for image, mask in pairs.items()
            if mask in self.origins
            and not self.known.is_of(mask.path, self.origins[mask], image.path)
        ]
        self.known.note_contents()
        made = [mask for _, mask in changed if not self.origins[mask].is_changed]
        corrected = [mask for _, mask in changed if self.origins[mask].is_changed]
        for image, mask in changed:
            if not self.origins[mask].is_changed:
                del pairs[image]
        if made:
            are = how_many(len(made), f"{what_it_is} is", f"{what_it_is}s are")
            what = "of an image that changed since: left out, predict it again"
            self.notes.append(f"{are} {what}{_few(made)}")
        if corrected:
            masks = how_many(len(corrected), what_it_is)
            what = "changed by a person, of an image that changed since"
            self.notes.append(f"{masks} {what}{_few(corrected)}")

    def _doubt(self, pairs: dict[ImageRef, ImageRef], images: Iterable[ImageRef]) -> None:
        """Say which masks could be another image's second version, too: nothing notes whose."""
        names = {bare_name(ref.path.name) for ref in images}
        for image, mask in pairs.items():
            version = _VERSION.fullmatch(bare_name(mask.path.name))
            if mask not in self.origins and version is not None and version[1] in names:
                self.notes.append(
                    f"{mask}: taken for the mask of {image.path.name} by its name; "
                    f"if it is a second version of that of {version[1]}, take it away"
                )


def masks_that_count(found: Sequence[ImageRef]) -> Masks:
    """Leave out masks of what an image no longer is, and all but one version of each mask.

    That is the newest, or what a person corrected.
    """
    known = NotedOrigins()
    origins = {mask: one for mask in found if (one := known.of(mask.path)) is not None}
    outdated = [mask for mask, one in origins.items() if one.is_outdated]
    versions: defaultdict[tuple[Path, Path, int | None], list[ImageRef]] = defaultdict(list)
    newest: dict[tuple[Path, Path], int] = {}
    for mask, one in origins.items():
        whose = (one.folder, one.image)
        newest[whose] = max(one.version, newest.get(whose, 1))
        if not one.is_outdated:
            versions[one.folder, one.image, one.plane].append(mask)
    older: list[ImageRef] = []
    for several in versions.values():
        best = max(several, key=lambda mask: _rank(origins[mask]))
        one = origins[best]
        counts = one.is_changed or one.version == newest[one.folder, one.image]
        older += [mask for mask in several if mask != best or not counts]
    left_out = {*older, *outdated}
    masks = Masks(
        refs=[mask for mask in found if mask not in left_out],
        known=known,
        origins={mask: one for mask, one in origins.items() if mask not in left_out},
    )
    if older:
        files = how_many(len(older), "file has another version", "files have another version")
        masks.notes.append(f"{files} beside, which counts: left out{_few(older)}")
    drawn = [
        ImageRef(path=outlines)
        for mask, one in masks.origins.items()
        if mask.path.name.endswith(MASK_SUFFIXES) and not one.is_changed
        for outlines in known.changed_outlines(mask.path, one)
    ]
    if drawn:
        files = how_many(len(drawn), "file of outlines", "files of outlines")
        what = "changed by a person, beside masks as they were predicted: convert them to masks"
        masks.notes.append(f"{files} {what} first{_few(drawn)}")
    if outdated:
        what = "of an image as it was before it was predicted again: left out"
        are = how_many(len(outdated), "mask is", "masks are")
        masks.notes.append(f"{are} {what}{_few(outdated)}")
    return masks


def behind_masks(outlines: Iterable[Path]) -> list[Path]:
    """Return those of some annotation files that say less than the masks beside them."""
    known = NotedOrigins()
    return [file for file in outlines if known.is_behind_masks(file)]


def _masks_of(book: OutputBook, stem: Path) -> list[Origin]:
    """Return what is noted of the masks that are there by a stem, in all formats."""
    masks = [stem.with_name(f"{stem.name}{suffix}") for suffix in MASK_SUFFIXES]
    noted = [book.origin_of(mask) for mask in masks if mask.exists()]
    return [one for one in noted if one is not None]


def _other_stems(book: OutputBook, origin: Origin) -> list[Path]:
    """Return what the files of an image's other versions begin with."""
    image, plane = str(origin.image), origin.plane
    versions = range(1, book.version_of(image, plane) + 1)
    stems = [book.stem_of(image, plane, one) for one in versions if one != origin.version]
    return [book.out / stem for stem in stems if stem]


def _folder(path: Path, root: Path) -> str:
    return key_of_file(path, root)[0].rpartition("/")[0]


def _rank(one: Origin) -> tuple[bool, int, int]:
    """Return what makes one of several masks count; formats of a mask are written in turn."""
    return one.is_changed, one.version, one.order


def _few(masks: Sequence[ImageRef]) -> str:
    return f" ({few([mask.path.name for mask in masks], 3)})"
