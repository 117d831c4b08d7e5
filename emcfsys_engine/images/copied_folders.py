"""Images that moved, or were copied together with their masks: those are theirs where they are."""

import os
from functools import lru_cache
from pathlib import Path

from emcfsys_engine.files import reading_own

_LONGEST_LINE = 1 << 16  # bytes


def is_elsewhere(original: str, image: str, book: Path) -> bool:
    """Tell whether what a book calls by one name is an image elsewhere, of the same content.

    It is where the original is gone; and where image and output folder are copies: they lie to one
    another as the originals do, and the book begins as that of the original output.
    """
    if not os.path.lexists(original):
        return True
    place = _original_output(book.parent.parent.resolve(), image, original)
    return place is not None and _begin_alike(book, place.joinpath(*book.parts[-2:]))


def _original_output(out: Path, image: str, original: str) -> Path | None:
    steps = Path(os.path.relpath(image, out)).parts
    up = steps.count(os.pardir)
    below, parts = steps[up:], Path(original).parts
    if not up or parts[-len(below) :] != below:
        return None
    place = Path(*parts[: -len(below)], *out.parts[-up:])
    return None if place == out else place


@lru_cache(maxsize=16)  # a million images have the same two
def _begin_alike(book: Path, other: Path) -> bool:
    line = _first_line(book)
    return line != b"" and line == _first_line(other)


def _first_line(book: Path) -> bytes:
    try:
        with reading_own(book) as stream:
            return stream.readline(_LONGEST_LINE)
    except OSError:
        return b""
