"""Walk a folder: each file once, whatever links lead to it; no devices, and nobody's leftovers."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from emcfsys_engine.suffixes import is_left_alone

FileStamp = tuple[str, int, int, int]  # path, times of change in ns: its own, system's; bytes


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files (and Zarr folders) below a folder, sorted, each of them once.

    A link to a folder is followed, but never round in a circle; of two ways to one file the one
    without a link is kept. Pipes, sockets and devices are not opened, hidden files not shown.
    """
    return map(Path, names_below(folder))


def names_below(folder: Path) -> Iterator[str]:
    """Yield the paths of the same files as text: a million of them take half the time."""
    plain: list[str] = []
    by_link: list[str] = []
    for path, linked in _walk(str(folder), frozenset(), linked=False):
        (by_link if linked else plain).append(path)
    if by_link:
        root = Path(os.path.realpath(folder))
        found = {str(root / Path(path).relative_to(folder)): path for path in plain}
        for path in by_link:
            found.setdefault(os.path.realpath(path), path)
        yield from map(str, sorted(map(Path, found.values())))
    else:
        yield from plain


def stamps_below(folder: Path) -> Iterator[FileStamp]:
    """Yield what changes when a file below a folder is written, comes or goes; none is opened.

    What EMCFsys writes there itself, as a run does with every step, is not looked at.
    """
    for place, inner, names in os.walk(folder):
        inner[:] = [
            one for one in inner if not one.startswith(".") and not is_own_output(Path(place, one))
        ]
        for name in names:
            if not name.startswith("."):
                yield stamp_of(Path(place, name))


def stamp_of(path: Path) -> FileStamp:
    """Return what changes when a file is written; of one that is gone times and size are 0."""
    try:
        state = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), state.st_mtime_ns, state.st_ctime_ns, state.st_size


def is_own_output(folder: Path) -> bool:
    """Tell whether a folder holds what EMCFsys wrote: a run, or the output of a hot folder."""
    return (folder / ".emcfsys").is_dir() or (
        os.path.lexists(folder / "run.json") and folder.parent.name == "runs"
    )


def is_zarr(folder: Path) -> bool:
    """Tell whether a folder is a Zarr array or group, which is one image rather than many."""
    return any((folder / name).is_file() for name in (".zarray", ".zgroup", "zarr.json"))


def is_regular(path: Path) -> bool:
    """Tell whether a path leads to a plain file: no pipe, socket or device is ever opened."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def may_be_file(path: Path) -> bool:
    """Tell whether a name in a listing is a plain file, or cannot be seen: reading it says why."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return path.is_symlink()  # it leads nowhere now
    except OSError:
        return True


def split_glob(pattern: str, base: Path) -> tuple[Path, str]:
    """Return the folder where a pattern's wildcards begin, and the pattern below it.

    What exists is meant as it is called: brackets in a folder's name are no wildcard there. The
    second part is empty where the whole pattern is the name of a file or folder.
    """
    here = base
    parts = Path(pattern).expanduser().parts
    for number, part in enumerate(parts):
        if re.search(r"[*?\[]", part) and not os.path.lexists(here / part):
            return here, str(Path(*parts[number:]))
        here /= part
    return here, ""


def _walk(
    folder: str, above: frozenset[tuple[int, int]], *, linked: bool
) -> Iterator[tuple[str, bool]]:
    """Yield every file with whether a link led to it; no folder is walked inside itself.

    What the folder's listing tells of a file is believed: an archive of a million files is listed
    without a question about each.
    """
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if is_left_alone(entry.name):
            continue
        is_link = entry.is_symlink()
        if Path(entry.path).is_dir() if is_link else entry.is_dir():
            place = Path(entry.path)
            if is_zarr(place):
                yield entry.path, linked or is_link
            elif not is_own_output(place):
                yield from _walk(entry.path, above | {here}, linked=linked or is_link)
        elif is_link:
            if may_be_file(Path(entry.path)):
                yield entry.path, True
        elif entry.is_file(follow_symlinks=False) or not os.path.lexists(entry.path):
            yield entry.path, linked
