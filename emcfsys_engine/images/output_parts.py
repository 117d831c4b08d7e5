"""What one of many tasks wrote into an output folder: a book of its own, taken into the folder's.

Tasks on many nodes would wait for one another at one book, and not every shared disk has locks.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from emcfsys_engine.files import next_lines, reading_own
from emcfsys_engine.images.output_book import OutputBook


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


def take_in(book: OutputBook, part: Path) -> None:
    """Take over what one task noted, and remove its book.

    Raises: OSError. After a kill it is taken in again: a fact told twice is one.
    """
    try:
        with reading_own(part) as stream:
            while lines := next_lines(stream):
                book.add(_facts_in(lines))
    except FileNotFoundError:
        return
    book.sync()
    part.unlink(missing_ok=True)


def _facts_in(lines: bytes) -> list[dict[str, Any]]:
    """Return the whole lines; what a kill tore is none: its file counts as not ours."""
    found: list[dict[str, Any]] = []
    for line in lines.splitlines():
        with suppress(ValueError, RecursionError):
            fact: Any = json.loads(line)
            if isinstance(fact, dict):
                found.append(fact)
    return found
