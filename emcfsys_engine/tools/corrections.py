"""Is what a person calls corrected a mask that can be measured? Asked before it is believed."""

from collections.abc import Sequence
from pathlib import Path

from emcfsys_engine.dataset.corrected import read_mask_now, size_of
from emcfsys_engine.hotfolder.review import files_of_mask, masks_of, read_verdicts
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.project import Project


def refuse_what_is_no_mask(
    project: Project, root: Path, output: Path, paths: Sequence[str]
) -> None:
    """Check what was changed of some images' masks; `paths`: below the watched folder, `root`.

    Raises: InputError for the first that is no mask of its image and of its model's classes.
    """
    _, found = read_verdicts(output, (), paths)
    book = OutputBook(output)
    for one in found:
        size_HW = size_of(root / one.path)
        for mask in masks_of(output, one):
            if all(book.has(file) for file in files_of_mask(mask)):
                continue
            maker = book.maker_of(mask)
            read_mask_now(mask, maker.classes if maker else project.classes, book, size_HW)
