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
    root, wild = split_glob(pattern, base)
    found = [] if wild or not root.is_dir() or is_zarr(root) else _with_masks(root)
    if not found:
        return ""
    names = few([os.fspath(one.relative_to(root)) for one in found], 3)
    are = how_many(len(found), "folder of other outputs lies", "folders of other outputs lie")
    return f"{are} below {root}, and its masks do not count here: {names}"


def _with_masks(root: Path) -> list[Path]:
    found: list[Path] = []
    for place, inner, _ in os.walk(root):
        here = [Path(place, name) for name in sorted(inner) if not is_left_alone(name)]
        own = [folder for folder in here if is_own_output(folder)]
        found += filter(_has_masks, own)
        inner[:] = [one.name for one in here if one not in own and not is_zarr(one)]
    return found


def _has_masks(folder: Path) -> bool:
    try:
        masks = OutputBook(folder).masks() if book_of(folder).is_file() else []
    except OSError:
        return False
    return any(not _DRAWN.fullmatch(mask.name) and not is_companion(mask) for mask in masks)
