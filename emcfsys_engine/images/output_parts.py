"""What one of many tasks wrote into an output folder: a book of its own, taken into the folder's.

Tasks on many nodes would wait for one another at one book, and not every shared disk has locks.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.files import next_lines, reading_own
from emcfsys_engine.images.output_book import OutputBook, append_whole, book_of, opened_alone


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
    there = [part for part in parts if part.exists()]
    if not there:
        return
    with opened_alone(book) as descriptor:
        for part in there:
            with reading_own(part) as stream:
                while lines := next_lines(stream):  # what a kill tore is no line: it is left out
                    append_whole(descriptor, lines, book)
        os.fsync(descriptor)
    for part in there:
        part.unlink(missing_ok=True)
