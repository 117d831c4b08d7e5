"""What of a run's folder the run made: only that goes with it, or is cleaned away."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from emcfsys_engine.images.output_book import FOLDER, OutputBook, book_of
from emcfsys_engine.launch.keeper import SAVING_FILE
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import EVALUATION
from emcfsys_engine.run.shards import FOLDER as SHARDS_FOLDER

TEMPORARY = re.compile(r"\..+\.\d+\.tmp", re.DOTALL)  # what a killed worker was just writing
PREVIEW = re.compile(r"step-\d+(-.+)?\.png")
CHECKPOINT = re.compile(r"checkpoint-last\.[a-z]+")
# A file manager leaves them in each folder that it shows; a network disk, of what is still open.
_LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+", re.DOTALL)
_FOLDERS = frozenset(("previews", SHARDS_FOLDER, FOLDER))


def is_checkpoint(name: str) -> bool:
    """Tell whether a file of a run is one to go on from; `checkpoint-last.1.safetensors` is not."""
    return CHECKPOINT.fullmatch(name) is not None


def not_of_run(run: Run) -> Path | None:
    """Return something in a run's folder that the run did not make; None without such a thing.

    Whoever keeps notes there, edits a preview or mounts a disk in it loses nothing with the run;
    `adapt` makes its project beside the model, and people predict into any folder.
    Raises: OSError.
    """
    own, book = _own_names(run), OutputBook(run.folder)
    for place in _within(run.folder):
        name, folder = place.name, place.parent
        if place.is_dir() and not place.is_symlink():
            is_own = folder == run.folder and name in _FOLDERS
        elif folder == run.folder:
            is_own = name in own or is_checkpoint(name) or book.has(place)
        elif folder == run.previews_folder:
            is_own = PREVIEW.fullmatch(name) is not None
        else:
            is_own = folder.name == SHARDS_FOLDER or place == book_of(run.folder)
        if not is_own and not TEMPORARY.fullmatch(name) and not _LITTER.fullmatch(name):
            return place
    return None


def _own_names(run: Run) -> frozenset[str]:
    """Return the names of a run's own files: all that `Run` names, and what few others add."""
    files = [getattr(run, name) for name in dir(Run) if name.endswith(("_file", "_model"))]
    others = (EVALUATION, SAVING_FILE, "slurm.sh", "requeues.json")
    return frozenset((*(file.name for file in files), *others))


def _within(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        yield folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _within(folder / entry.name)
