"""A watch's output folder: taken, on a disk that is late, full, gone, back again.

None of it is an image's fault.
"""

import errno
import os
import time
from pathlib import Path

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError, RunFailedError, WatchedError, printable
from emcfsys_engine.files import (
    DiskFullError,
    identity_of,
    is_full,
    refuse_full,
    try_to_write,
    write_whole,
)
from emcfsys_engine.hotfolder.ledger import Ledger, id_of_ledger
from emcfsys_engine.hotfolder.places import device_of
from emcfsys_engine.images.outages import wait_until
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.run.events import WatchState
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import WatchRequest

_TURN_S = 0.5  # between looks at a folder that the other will leave


def take_folder(worker: RunContext, request: WatchRequest) -> Ledger | None:
    """Take the output folder; None if we were asked to end before it was free.

    A watch that lasts waits for a `--once` that is at work there: it ends by itself, and a job of
    the daemon that was refused would not come back. A full disk is waited for, too.
    Raises: WatchedError if another watch that lasts has it; InputError if it cannot be used.
    """
    told = was_full = False
    while worker.stop_request() is None:
        try:
            ledger = Ledger(Path(request.output), owner=str(worker.run.folder))
            ledger.refuse_other_images(Path(request.watch))
            return ledger
        except WatchedError as error:
            if request.once or not _ends_by_itself(error.run):
                raise
            if not told:
                print(f"{error.where} {error.what}: waits for its end", flush=True)
                told = True
        except OSError as error:
            if request.once or not is_full(error):
                raise
            if not was_full:
                print(error, flush=True)
                worker.emit_when_possible(WatchState(state="full", detail=str(error)))
                was_full = True
        time.sleep(_TURN_S)
    return None


def _ends_by_itself(other: str) -> bool:
    """Tell whether a watch's run folder is that of a `--once`."""
    try:
        request = Run(Path(other)).record().request
    except (EmcfError, OSError):
        return False
    return isinstance(request, WatchRequest) and request.once


def is_all_there(worker: RunContext, request: WatchRequest) -> bool:
    """Wait for disks that are late, such as after a reboot; False if we were asked to end first.

    Raises: RunFailedError for a missing disk when nobody waits: `once`.
    """
    runs, model = worker.run.folder.parent, Path(request.model)

    def why_not() -> str:
        if not model.exists():
            return f"{model}: the model is not there: it is waited for"
        return missing_output(runs, Path(request.output))

    why = why_not()
    if why and request.once:
        remedy = f"Mount it, or remove {forget_output(runs)} to begin anew"
        raise RunFailedError(f"{why}. {remedy}")
    return wait_until(
        why_not,
        worker.stop_request,
        lambda why: worker.emit(WatchState(state="waiting", detail=why)),
    )


_REMEMBERED = ".outputs.json"  # beside the runs: which outputs lay on a disk of their own


class OutputAwayError(OSError):
    """The output folder cannot be written now; what is to be done waits."""


class OutputDisk:
    """Where a watch's masks and ledger lie: whether that is there, and the same as before."""

    def __init__(self, ledger: Ledger, runs: Path, run_folder: Path) -> None:
        self._ledger = ledger
        self._run_folder = run_folder
        remember_output(runs, ledger.output, ledger.id)

    def refuse(self) -> None:
        """Check that everything can be written.

        Raises: OSError saying why not.
        """
        ledger = self._ledger
        if not ledger.is_in_place:
            gone = identity_of(ledger.output) is None
            what = "it is gone" if gone else "its .emcfsys folder is gone, or another lies there"
            raise OutputAwayError(errno.ESTALE, what, str(ledger.output))
        refuse_full((ledger.output, self._run_folder))

    def refuse_unwritable(self) -> None:
        """Check by writing.

        Raises: OSError saying why not.
        """
        self.refuse()
        try_to_write(self._ledger.folder)

    def may_be_made_again(self) -> bool:
        """Tell whether the ledger was removed by somebody, and its disk is there.

        Under a mount point whose disk is away nothing is ever written: its device is another one.
        """
        ledger = self._ledger
        if id_of_ledger(ledger.output) == ledger.id:
            return True  # the same disk, under another number
        return device_of(ledger.output) == ledger.device


def missing_output(runs: Path, output: Path) -> str:
    """Tell why an output folder cannot be used yet: it lay on a disk that is not there."""
    ledger_id = _remembered(runs).get(str(output))
    if not ledger_id or id_of_ledger(output) == ledger_id:
        return ""
    if device_of(output) != device_of(runs):
        return ""  # a disk is there; its ledger was removed by somebody
    return f"{output} lay on a disk of its own, which is not there: it is waited for"


def forget_output(runs: Path) -> Path:
    """Return the file to remove to begin anew in another place."""
    return runs / _REMEMBERED


def remember_output(runs: Path, output: Path, ledger_id: str) -> None:
    """Note whether an output folder lies on a disk of its own, for a start that comes too early."""
    known = _remembered(runs)
    own = ledger_id if device_of(output) != device_of(runs) else None
    if known.get(str(output)) == own:
        return
    kept = {place: one for place, one in known.items() if place != str(output)}
    if own:
        kept[str(output)] = own
    write_whole(runs / _REMEMBERED, any_names.encode(kept))


def _remembered(runs: Path) -> dict[str, str]:
    try:
        found: dict[str, str] | None = any_names.read(runs / _REMEMBERED, dict[str, str])
    except OSError:
        found = None
    return found or {}


def why_of(error: BaseException, *, is_end: bool = False) -> str:
    """Return one line about a disk: which place, what is wrong with it, and what comes of it."""
    if isinstance(error, DiskFullError | EmcfError):
        return str(error)
    then = "Mend its disk, then go on" if is_end else "it is waited for"
    mark = "." if is_end else ":"
    if isinstance(error, OSError) and error.filename:
        return printable(f"{os.fsdecode(error.filename)}: {error.strerror}{mark} {then}")
    return f"{error}{mark} {then}"
