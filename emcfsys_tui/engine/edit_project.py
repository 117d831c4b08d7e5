"""project.toml changed by the interface: comments kept, and never over what somebody else wrote."""

import fcntl
import hashlib
import os
import stat
import time
from codecs import BOM_UTF8
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from emcfsys_engine.errors import ProjectError
from emcfsys_engine.files import plain_bytes, write_whole
from emcfsys_engine.text import for_shell

_MAY_WRITE = 0o222  # of owner, group and others: root could, but is not meant to
_MOST_TRIES, _TRY_AGAIN_S = 200, 0.01


def edit_project(folder: Path, change: Callable[[Any], None], digest: str = "") -> None:
    """Change project.toml as its reader would accept it, the comments kept.

    `digest`: of the content that the change was made for; empty: of what is there now.
    Raises: ProjectError if the file changed meanwhile, or cannot be read or written, ProjectFaults
    if it would be faulty.
    """
    file = folder / "project.toml"
    place = file.resolve()  # a link goes on leading to what others have, too
    with _alone(place.parent):
        _edit(file, place, change, digest)


def _edit(file: Path, place: Path, change: Callable[[Any], None], digest: str) -> None:
    tomlkit: Any = import_module("tomlkit")
    try:
        content = plain_bytes(file)
        mark = BOM_UTF8 if content.startswith(BOM_UTF8) else b""  # as editors of Windows write it
        document = tomlkit.parse(content.removeprefix(mark).decode())
        change(document)
    except (OSError, ValueError, RecursionError) as error:  # somebody is in the midst of it
        raise ProjectError(file, "", f"cannot be read: {error}", "Mend it, then again") from None
    except (LookupError, AttributeError, TypeError):  # a table that the change was for is none now
        raise _otherwise(file) from None
    text = tomlkit.dumps(document)
    try:
        found = tomlkit.parse(text).unwrap()
    except ValueError:
        found = None
    if found != document.unwrap():  # of tables in one line, or keys with dots, not all can be
        raise _otherwise(file)
    import_module("emcfsys_engine.project").project_from(file, found)
    wanted = digest or digest_of_content(content)

    def refuse_changed() -> None:
        if digest_of_content(plain_bytes(file)) != wanted:
            raise ProjectError(file, "", "changed on the disk meanwhile", "Read it again with R")

    refuse_changed()
    try:
        mode = stat.S_IMODE(place.stat().st_mode)
        if not mode & _MAY_WRITE or not os.access(place, os.W_OK):  # a new file could take its name
            remedy = f"If it may change: chmod u+w {for_shell(place)}"
            raise ProjectError(file, "", "is read-only", remedy)
        # Looked at once more when the new content is on the disk: it may have taken its time.
        write_whole(place, mark + text.encode(), mode=mode, look=refuse_changed)
    except OSError as error:
        what = f"could not be written: {error.strerror}"
        raise ProjectError(file, "", what, "Check its permissions and free space") from None


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Let no other interface change a project.toml of this folder meanwhile."""
    descriptor: int | None = None
    with suppress(OSError):  # some network disks have no locks; that it is gone is told later
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _lock(descriptor)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a folder; another program that keeps it locked for long is not waited for."""
    for _ in range(_MOST_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_TRY_AGAIN_S)


def _otherwise(file: Path) -> ProjectError:
    what = "is written otherwise than this change can go into"
    return ProjectError(file, "", what, "Read it again with R, or change it in an editor")


def digest_of(folder: Path) -> str:
    """Return the digest of project.toml as it is now; empty when it cannot be read."""
    try:
        return digest_of_content(plain_bytes(folder / "project.toml"))
    except OSError:
        return ""


def digest_of_content(content: bytes) -> str:
    """Return the digest of project.toml's bytes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
