"""An output folder whose disk is gone for now: no fault of what was to be written."""

import errno
import time
from collections.abc import Callable

from emcfsys_engine.errors import OutputError
from emcfsys_engine.files import AWAY, is_full, try_to_write
from emcfsys_engine.images.output_book import OutputBook

DISK_ERRORS = AWAY | {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.ENOSPC, errno.ENXIO, errno.ENOENT,
}  # fmt: skip


def is_of_disk(error: BaseException) -> bool:
    """Tell whether an error only says that a disk is full, gone or may not be written."""
    number = error.errno if isinstance(error, OSError | OutputError) else None
    return is_full(error) or (number or 0) in DISK_ERRORS


def is_gone(error: Exception, book: OutputBook) -> bool:
    """Tell whether an image failed only because its output's disk is away, for now."""
    if not isinstance(error, OutputError) or not is_of_disk(error) or is_full(error):
        return False
    return bool(why_gone(book))


def why_gone(book: OutputBook) -> str:
    """Say why an output folder cannot be written for now; empty where it can, or is full."""
    try:
        book.refuse_gone()
        try_to_write(book.file.parent)
    except OSError as error:
        return "" if is_full(error) else error.strerror or str(error)
    return ""


def wait_until(
    is_there: Callable[[], str], asked: Callable[[], str | None], say: Callable[[str], None]
) -> bool:
    """Wait while `is_there` says why not; say it once. False if we were asked to end first."""
    told = ""
    wait_s = 0.5
    while why := is_there():
        if asked() is not None:
            return False
        if why != told:
            say(why)
            told = why
        time.sleep(min(0.5, wait_s))
        wait_s = min(2.0, wait_s * 2)
    return asked() is None
