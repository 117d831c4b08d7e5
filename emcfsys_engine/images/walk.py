"""Walk a folder: each file once, whatever links lead to it; no devices, and nobody's leftovers."""

import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from emcfsys_engine.suffixes import is_left_alone

_WILD = re.compile(r"[*?\[]")
FileStamp = tuple[str, int, int, int]  # path, times of change in ns: its own, system's; bytes


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files (and Zarr folders) below a folder, sorted, each of them once.

    A link to a folder is followed, but never round in a circle; of two ways to one file the one
    without a link is kept. Pipes, sockets and devices are not opened, hidden files not shown.
    """
    return map(Path, names_below(folder))


def names_below(folder: Path) -> Iterator[str]:
    """Yield the paths of the same files as text: a million of them take half the time."""
    return _each_once(folder, _walk(str(folder), frozenset(), linked=False))


def names_matching(folder: Path, wild: str) -> Iterator[str]:
    """Yield the paths below a folder that a pattern fits, as text, each file once as above.

    It fits what it fits in Python's glob; but a folder that cannot be listed is no empty one, for
    what is reckoned of the others would be of a part of what was asked for.
    Raises: OSError.
    """
    return _each_once(folder, _fitting(str(folder), Path(wild).parts, frozenset(), linked=False))


def _each_once(folder: Path, found: Iterable[tuple[str, bool]]) -> Iterator[str]:
    plain: list[str] = []
    by_link: list[str] = []
    for path, linked in found:
        (by_link if linked else plain).append(path)
    if by_link:
        root = Path(os.path.realpath(folder))
        ways = {str(root / Path(path).relative_to(folder)): path for path in plain}
        for path in by_link:
            ways.setdefault(os.path.realpath(path), path)
        yield from map(str, sorted(map(Path, ways.values())))
    else:
        yield from dict.fromkeys(plain)


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
    """Return what changes when a file is written, or any of a Zarr folder: sums of all of them.

    Of one that is gone times and size are 0.
    """
    try:
        states = [path.stat()]
        if stat.S_ISDIR(states[0].st_mode):
            states += [inner.stat() for inner in path.rglob("*")]
    except OSError:
        return str(path), 0, 0, 0
    written = sum(one.st_mtime_ns for one in states)
    changed = sum(one.st_ctime_ns for one in states)
    return str(path), written, changed, sum(one.st_size for one in states)


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
        if _WILD.search(part) and not os.path.lexists(here / part):
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
    for entry in _listed(folder):
        if is_left_alone(entry.name):
            continue
        is_link = entry.is_symlink()
        if _is_folder(entry):
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


def _fitting(
    folder: str, parts: Sequence[str], above: frozenset[tuple[int, int]], *, linked: bool
) -> Iterator[tuple[str, bool]]:
    """Yield what the parts of a pattern fit in a folder, with whether a link led to it."""
    part, rest = parts[0], parts[1:]
    try:
        status, names = os.stat(folder), _named(folder, part)
    except (FileNotFoundError, NotADirectoryError):
        return
    here = (status.st_dev, status.st_ino)
    if part == "**" and here in above:
        return
    if part == "**" and rest:
        yield from _fitting(folder, rest, frozenset(), linked=linked)
    for name, is_link, is_file in names:
        is_wanted = part == "**" or fnmatch.fnmatchcase(name, part)
        if not is_wanted or (name.startswith(".") and not part.startswith(".")):
            continue
        place = os.path.join(folder, name)  # noqa: PTH118 - of a million names
        if not rest:
            yield place, linked or is_link
        if (part == "**" or rest) and not is_file and Path(place).is_dir():
            below = parts if part == "**" else rest
            yield from _fitting(place, below, above | {here}, linked=linked or is_link)


def _named(folder: str, part: str) -> list[tuple[str, bool, bool]]:
    """Return names of a folder that a part may fit, whether each is a link, and surely a file."""
    if not _WILD.search(part):  # it need not be listed, which it may forbid
        mode = os.lstat(os.path.join(folder, part)).st_mode  # noqa: PTH118
        return [(part, stat.S_ISLNK(mode), stat.S_ISREG(mode))]
    return [(e.name, e.is_symlink(), e.is_file(follow_symlinks=False)) for e in _listed(folder)]


def _listed(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()
