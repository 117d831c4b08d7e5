"""The model files of a run: the same as when it began, and in use while it predicts with them."""

import fcntl
import hashlib
import os
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emcfsys_engine import any_names
from emcfsys_engine.errors import InputError
from emcfsys_engine.model_card import ModelCard, read_card


@dataclass(frozen=True, kw_only=True)
class SameModels:
    """Model files, and digests of what they said when the run began; none: nobody noted them."""

    files: tuple[Path, ...]
    digests: tuple[str, ...]

    @property
    def are_others(self) -> bool:
        """Whether a file holds another model now. Raises: ModelFileError."""
        return bool(self.digests) and self.digests != digests_of_models(self.files)

    def refuse_others(self, since: str, remedy: str) -> None:
        """Raises: InputError if a file holds another model now; ModelFileError."""
        now = digests_of_models(self.files) if self.digests else ()
        for file, before, digest in zip(self.files, self.digests, now, strict=False):
            if digest != before:
                raise InputError(file, f"is another model than when {since}", remedy)


def digests_of_models(files: Sequence[Path]) -> tuple[str, ...]:
    """Return what tells models apart from others under their names.

    Raises: ModelFileError.
    """
    return tuple(digest_of_card(read_card(file)) for file in files)


def digest_of_card(card: ModelCard) -> str:
    """Return what tells a model apart: its card has digests of its weights, or of what they do."""
    return hashlib.blake2b(any_names.encode(card), digest_size=16).hexdigest()


# Files that a process has in use, as others can see: a model, while images are predicted with it.
#
# Whoever uses one holds a shared lock of it, which any number may; it ends with the process.
class InUse:
    """Files that are in use for as long as this object lives.

    A disk without locks, or a file that somebody is just removing, is no reason not to use it.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        descriptors = [held for file in files if (held := _held(file)) is not None]
        self.end = weakref.finalize(self, _close, descriptors)


def is_in_use(file: Path) -> bool:
    """Tell whether a process uses a file, this one or another, on this machine or another."""
    for flags in (os.O_RDWR, os.O_RDONLY):  # on NFS only who may write can ask
        try:
            descriptor = os.open(file, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False
    return False


def _held(file: Path) -> int | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
