"""Files written whole beside the masks of an output folder, over our own ones only."""

import os
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path

from emcfsys_engine.errors import InputError
from emcfsys_engine.files import named_after, temporary_of, write_whole
from emcfsys_engine.images.output_book import OutputBook, book_of
from emcfsys_engine.images.own_files import digest_of_output, put


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

    Where another than ours lies there once it is written, that is kept, and a newer version's
    name is returned (see `free_version`).
    Raises: OSError; FileExistsError if somebody was faster even so.
    """
    book.refuse_gone()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(file)
    try:
        write(temporary)
        file = free_version(file, book)
        is_there = os.path.lexists(file)
        book.note({file: digest_of_output(temporary)})
        put(temporary, file, may_replace=is_there)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise named_after(error, file) from None
        raise
    return file


def replace_own(file: Path, book: OutputBook, write: Callable[[Path], object]) -> None:
    """Write one file that a person named, over an older one of ours only.

    Raises: InputError for a file of somebody else; OSError.
    """
    if os.path.lexists(file) and not book.has_now(file, of_image=False):
        what = "is not as this program wrote it, and kept"
        raise InputError(file, what, "Name another file, or remove it")
    try:
        place_own(file, book, write)
    except PermissionError:  # the book lies in somebody else's folder: it takes no note
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file)


def write_own(file: Path, content: bytes, book: OutputBook) -> Path:
    """Write a file whole, over one of ours only, and return its name: else x.v2.json.

    Raises: OSError.
    """
    return place_own(file, book, lambda temporary: write_whole(temporary, content))
