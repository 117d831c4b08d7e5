"""Files written whole beside the masks of an output folder, over our own ones only."""

import os
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import InputError
from emcfsys_engine.files import named_after, next_lines, reading_own, temporary_of, write_whole
from emcfsys_engine.images.output_book import (
    FOLDER,
    OutputBook,
    append_whole,
    book_of,
    opened_alone,
)
from emcfsys_engine.images.own_files import digest_of_output, put_over
from emcfsys_engine.run import shards


class OutputsBelow:
    """Output folders that lie below a folder of images: what was written there is no image.

    Whoever watches `data` and whoever watches `data/today` into `data/today/masks` need not know of
    one another. What a person changed there is no image either, and what was put there is one.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._books: dict[Path, OutputBook] = {}

    def whose(self, image: str) -> Path | None:
        """Return the output folder that a file below the root was written into; None: none."""
        file = self._root / image
        for folder in file.parents:
            if folder not in self._books and book_of(folder).is_file():
                self._books[folder] = OutputBook(folder)
            if (book := self._books.get(folder)) is not None:
                book.refresh()
                if book.is_known(file):
                    return folder
            if folder == self._root:
                break
        return None


def free_version(
    file: Path, book: OutputBook, others: Container[Path] = (), *, of_image: bool = False
) -> Path:
    """Return a file that may be written: itself if it is not there or ours, else x.v2.json …

    `others`: files that something else is about to be written to: no version is called so.
    `of_image`: for a prediction. What another command made is not its own, nor the reverse.
    """

    def is_kept(free: Path) -> bool:
        return os.path.lexists(free) and not book.has_now(free, of_image=of_image)

    number, free = 1, file
    while (number > 1 and free in others) or is_kept(free):
        number += 1
        free = file.with_name(f"{file.stem}.v{number}{file.suffix}")
    return free


def place_own(file: Path, book: OutputBook, write: Callable[[Path], object]) -> Path:
    """Have a file written under a temporary name, and give it its own; return that.

    Where another than ours lies there once it is written, or is saved at that moment, that is
    kept, and a newer version's name is returned (see `free_version`).
    Raises: OSError.
    """
    book.refuse_gone()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(file)
    try:
        write(temporary)
        digest = digest_of_output(temporary)
        placed = None
        while placed is None:
            free = free_version(file, book)
            book.note({free: digest})
            with suppress(FileExistsError):  # somebody was faster: theirs is kept
                placed = put_over_own(temporary, free, book, of_image=False)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise named_after(error, file) from None
        raise
    return placed


def put_over_own(temporary: Path, place: Path, book: OutputBook, *, of_image: bool) -> Path:
    """Give a finished file, or folder, its name, over one that is as this program wrote it only.

    `of_image`: for a prediction. Raises: FileExistsError for what is not; OSError.
    """
    put_over(temporary, place, lambda there: book.has_now(place, of_image=of_image, lies_at=there))
    return place


def replace_own(file: Path, book: OutputBook, write: Callable[[Path], object]) -> None:
    """Write one file that a person named, over an older one of ours only.

    Raises: InputError for a file of somebody else; OSError.
    """
    if os.path.lexists(file) and not book.has_now(file, of_image=False):
        what = "is not as this program wrote it, and kept"
        raise InputError(file, what, "Name another file, or remove it")
    temporary = temporary_of(file)
    try:
        placed = place_own(file, book, write)
    except PermissionError:  # the book lies in somebody else's folder: it takes no note
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            placed = put_over_own(temporary, file, book, of_image=False)
        finally:
            temporary.unlink(missing_ok=True)
    if placed != file:
        what = f"was saved by somebody meanwhile, and is kept: the new one is {placed}"
        raise InputError(file, what, "Name another file, or remove it")


def write_own(file: Path, content: bytes, book: OutputBook) -> Path:
    """Write a file whole, over one of ours only, and return its name: else x.v2.json.

    Raises: OSError.
    """
    return place_own(file, book, lambda temporary: write_whole(temporary, content))


# What one of many tasks wrote into an output folder: a book of its own, taken into the folder's.
#
# Tasks on many nodes would wait for one another at one book, and not every shared disk has locks.


class PartBook(OutputBook):
    """The book of one task: it knows which files of the folder are ours, and gives out no names.

    Raises: OSError where it cannot be read or written.
    """

    def __init__(self, out: Path, part: Path) -> None:
        self._part = part
        super().__init__(out)

    def _read_first(self) -> None:
        with suppress(FileNotFoundError), reading_own(self.file) as stream:
            while lines := next_lines(stream):
                # A million names are of no use here.
                self._learn_all(b"".join(n for n in lines.splitlines(True) if b'"stem"' not in n))
        self.file = self._part
        super()._read_first()


class Made(NamedTuple):
    """What one task noted of images, and of what it made of them."""

    contents: dict[str, str]  # file, below the output -> digest of its image
    seen: dict[str, tuple[str, str]]  # image -> its stamp, its digest


class _Fact(msgspec.Struct, gc=False):
    file: str = ""
    content: str = ""
    seen: str = ""
    stamp: str = ""


def made_in(part: Path) -> Made:
    """Return what one task noted; nothing where its book is not there (any more).

    Raises: OSError.
    """
    made = Made({}, {})
    with suppress(FileNotFoundError), reading_own(part) as stream:
        while lines := next_lines(stream):
            for fact in any_names.decode_lines(lines, _Fact):
                if fact.seen:
                    made.seen[fact.seen] = fact.stamp, fact.content
                elif fact.file:
                    made.contents[fact.file] = fact.content
    return made


def take_in(out: Path, parts: Sequence[Path]) -> None:
    """Take over into an output folder's book what tasks noted, and remove their books.

    Raises: OSError. After a kill they are taken in again: a fact told twice is one.
    """
    book = book_of(out)
    if not any(part.exists() for part in parts):
        return
    with opened_alone(book) as descriptor:
        there = [part for part in parts if part.exists()]  # another process may have been faster
        for part in there:
            with reading_own(part) as stream:
                while lines := next_lines(stream):  # what a kill tore is no line: it is left out
                    append_whole(descriptor, lines, book)
        os.fsync(descriptor)
        for part in there:
            part.unlink(missing_ok=True)


def opened_book(out: Path) -> OutputBook:
    """Open the book of an output folder, with what tasks noted that do not run.

    They may have been ended, and never go on: else their masks would be somebody else's. Whoever
    cannot write there goes without.
    Raises: OSError where the book cannot be read.
    """
    _take_in_ended(out)
    return OutputBook(out)


def _take_in_ended(out: Path) -> None:
    with suppress(OSError):
        for part in sorted(out.glob(f"{FOLDER}/*/{shards.FOLDER}/*{shards.BOOK}")):
            lock = shards.locked(part.with_suffix(shards.LOCK), 0.0)
            if lock is not None:
                try:
                    take_in(out, [part])
                finally:
                    os.close(lock)
