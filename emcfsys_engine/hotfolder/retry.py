"""Ask a watch to try its failed images again: a mark beside the ledger, which has one writer."""

from pathlib import Path

from emcfsys_engine.errors import InputError
from emcfsys_engine.hotfolder.ledger import FOLDER, read_ledger

_MARK = "retry"


def ask_retry(output: Path) -> int:
    """Leave word for the watch that runs, or for the next one; return how many images failed.

    The images themselves are never touched.
    Raises: InputError if none failed, or if the mark cannot be written.
    """
    failed = sum(entry.state == "failed" for entry in read_ledger(output))
    if not failed:
        raise InputError(output, "holds no failed image")
    try:
        (output / FOLDER / _MARK).touch()
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise InputError(output / FOLDER, what, "Check its permissions") from None
    return failed


def was_asked(output: Path) -> bool:
    """Tell whether a retry was asked for, and take the mark away."""
    try:
        (output / FOLDER / _MARK).unlink()
    except FileNotFoundError:
        return False
    return True
