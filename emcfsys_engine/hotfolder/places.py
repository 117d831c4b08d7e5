"""Where a hot folder reads and writes, and who watches into it: one watcher at a time.

The two places never meet, whatever their paths look like; a watcher's locks end with it.
"""

import contextlib
import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

from emcfsys_engine.errors import InputError, ProjectError, WatchedError
from emcfsys_engine.files import identity_of, open_own
from emcfsys_engine.project import Project


def watched_places(project: Project) -> tuple[Path, Path]:
    """Return the watched folder and the output folder of a project.

    Raises: ProjectError without hotfolder.watch, or where masks would lie among the images or no
    image could ever be seen.
    """
    settings = project.hotfolder
    if settings.watch is None:
        remedy = 'Add [hotfolder] with watch = "incoming"'
        raise ProjectError(project.file, "hotfolder.watch", "is missing", remedy)
    root, output = project.folder / settings.watch, project.folder / settings.output
    for key, place in (("watch", root), ("output", output)):
        if _is_no_folder(place):
            what = f"is a file, not a folder ({place})"
            raise ProjectError(project.file, f"hotfolder.{key}", what, "Name a folder")
    what = why_not(root, output)
    if what:
        remedy = 'Name a folder of its own, such as output = "predictions"'
        raise ProjectError(project.file, "hotfolder.output", what, remedy)
    return root, output


def name_below(root: Path, image: str) -> str:
    """Return an image's name below a watched folder, as the ledger knows it, however it was typed.

    A name that leads elsewhere is one below the folder already.
    """
    plain, folder = Path(os.path.abspath(image)), Path(os.path.abspath(root))  # noqa: PTH100
    for path, above in ((plain, folder), (plain.parent.resolve() / plain.name, root.resolve())):
        if path.is_relative_to(above):
            return str(path.relative_to(above))
    return os.path.normpath(image)


def refuse_places(root: Path, output: Path) -> None:
    """Check the folders of a watch once more as it begins: links and mounts change.

    Raises: InputError.
    """
    what = why_not(root, output)
    if what:
        raise InputError(output, what, "Choose another output folder")


def why_not(root: Path, output: Path) -> str:
    """Tell why masks of one folder's images may not go to another; empty: they may."""
    if root.resolve() == output.resolve() or _is_same(root, output):
        return f"is the watched folder itself ({root.resolve()}): masks would lie among the images"
    if is_inside(root, output):
        return f"holds the watched folder ({root.resolve()}): no image in it would ever be seen"
    return ""


def is_inside(place: Path | str, folder: Path) -> bool:
    """Tell whether a path is a folder or lies below it, by whatever links and mounts."""
    real, wanted = Path(place).resolve(), identity_of(folder)
    if real.is_relative_to(folder.resolve()):
        return True
    return wanted is not None and any(identity_of(one) == wanted for one in (real, *real.parents))


def device_of(place: Path) -> int:
    """Return the device that holds a path, or would hold it: that of the nearest folder."""
    while True:
        try:
            return os.stat(place).st_dev
        except OSError:
            if place == place.parent:
                return 0
            place = place.parent


def _is_same(one: Path, other: Path) -> bool:
    found = identity_of(one)
    return found is not None and found == identity_of(other)


def _is_no_folder(place: Path) -> bool:
    """Tell whether something other than a folder stands there; what is away may come."""
    try:
        return not stat.S_ISDIR(os.stat(place).st_mode)
    except OSError:
        return False


FOLDER = ".emcfsys"  # of ours, in the output folder


def watcher_of(output: Path) -> str | None:
    """Tell who watches into an output folder now, or None."""
    found = _holder(output)
    return found[0] if found else None


def watching_run(output: Path) -> Path | None:
    """Return the folder of the run that watches into an output folder now, if it is known."""
    found = _holder(output)
    return Path(found[1]) if found and found[1] else None


def _holder(output: Path) -> tuple[str, str] | None:
    for place in (output / FOLDER / "watch.lock", output):
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _owner(descriptor)
        except OSError:
            continue  # no locks on this file system
        finally:
            os.close(descriptor)
    return None


def lock_folder(output: Path, record: Path) -> int:
    """Return a locked descriptor of the output folder itself. Raises: WatchedError."""
    descriptor = os.open(output, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        what = "is watched already: another process holds the folder"
        raise WatchedError(output, what, "Stop that watch, or use another output") from None
    except OSError:
        pass  # some networks do not lock folders: the file's lock has to do
    return descriptor


def close_all(descriptors: Iterable[int]) -> None:
    """Let locks go."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def is_same(descriptor: int, place: Path) -> bool:
    """Tell whether a locked file or folder still is what lies at its place.

    Raises: OSError where that cannot be seen now: who took "no" for the answer would find the
    place locked, by itself.
    """
    held = os.fstat(descriptor)
    try:
        return os.path.samestat(held, os.stat(place))
    except FileNotFoundError:
        return False


def lock_file(file: Path, owner: str) -> int:
    """Return a locked descriptor of a file that says who watches. Raises: WatchedError."""
    descriptor = open_own(file, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other, run = _owner(descriptor)
        os.close(descriptor)
        what = f"is watched already, by {other}"
        remedy = "Stop that watch, or use another output"
        raise WatchedError(file.parent.parent, what, remedy, run=run) from None
    record = {"owner": owner, "pid": os.getpid(), "host": socket.gethostname()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)
    return descriptor


def _owner(descriptor: int) -> tuple[str, str]:
    """Return who has a lock, in words, and its run folder; it is empty where that is unknown."""
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        told = f"{record['owner']} (process {record['pid']} on {record['host']})"
        return told, str(record["owner"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process", ""
