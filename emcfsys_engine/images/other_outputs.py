"""Output folders below or above one another: whose a file is, and what a listing leaves out."""

import os
import re
from contextlib import suppress
from pathlib import Path

from emcfsys_engine.images.output_book import OutputBook, book_of
from emcfsys_engine.images.walk import is_own_output, is_zarr, split_glob
from emcfsys_engine.images.writers import is_companion
from emcfsys_engine.suffixes import is_left_alone
from emcfsys_engine.text import few, how_many

_LEVELS = 8  # folders above a file in which another book may lie
_DRAWN = re.compile(r"(histogram|grain-map)-.+\.png", re.DOTALL)  # measure's own pictures


class OtherBooks:
    """The books of output folders that lie above or below another one."""

    def __init__(self, own: Path) -> None:
        """`own`: the output folder whose book is not asked."""
        self._own = own
        self._books: dict[Path, OutputBook | None] = {}

    def is_of_another(self, mask: Path, image: Path, content: str = "") -> bool:
        """Tell whether a mask was written into another output folder, of another image.

        `content`: the image's digest, where it is known.
        """
        if (book := self._knowing(mask)) is None:
            return False
        return not book.is_made_of(mask, image, content or book.contents.of(image))

    def _knowing(self, mask: Path) -> OutputBook | None:
        for folder in mask.parents[:_LEVELS]:
            if folder == self._own:
                continue
            if self._books.get(folder) is None and book_of(folder).is_file():
                with suppress(OSError):  # it cannot be read: it says nothing
                    self._books[folder] = OutputBook(folder)
            if (book := self._books.get(folder)) is not None:
                book.refresh()
                if book.is_known(mask):
                    return book
        return None


def left_out_outputs(pattern: str, base: Path) -> str:
    """Return the one line about masks in output folders below a folder; "" where there are none.

    `find_images` does not list what lies in them: among micrographs it is none.
    """
    root, found = _outputs_below(pattern, base, predicted=True)
    if not found:
        return ""
    names = few([os.fspath(one.relative_to(root)) for one in found], 3)
    are = how_many(len(found), "folder of other outputs lies", "folders of other outputs lie")
    return f"{are} below {root}, and its masks do not count here: {names}"


def converted_below(pattern: str, base: Path) -> list[Path]:
    """Return output folders below a folder with pictures that no prediction wrote.

    They may be micrographs that a person converted into it, and `find_images` does not list them.
    """
    return _outputs_below(pattern, base, predicted=False)[1]


def _outputs_below(pattern: str, base: Path, *, predicted: bool) -> tuple[Path, list[Path]]:
    root, wild = split_glob(pattern, base)
    found: list[Path] = []
    for place, inner, _ in () if wild or is_zarr(root) else os.walk(root):
        here = [Path(place, name) for name in sorted(inner) if not is_left_alone(name)]
        own = [folder for folder in here if is_own_output(folder)]
        found += [folder for folder in own if _has_pictures(folder, predicted=predicted)]
        inner[:] = [one.name for one in here if one not in own and not is_zarr(one)]
    return root, found


def _has_pictures(folder: Path, *, predicted: bool) -> bool:
    try:
        there = OutputBook(folder).masks(predicted=predicted) if book_of(folder).is_file() else []
    except OSError:
        return False
    return any(not _DRAWN.fullmatch(one.name) and not is_companion(one) for one in there)
