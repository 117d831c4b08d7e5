"""Before a watch begins: its disks and its model are there, its output folder is its own."""

import time
from pathlib import Path

from emcfsys_engine.errors import EmcfError, InputError, RunFailedError, WatchedError
from emcfsys_engine.files import is_full
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.images.outages import wait_until
from emcfsys_engine.learn.inference.output_disk import forget_output, missing_output
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
            _refuse_other_images(ledger, Path(request.watch))
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


def _refuse_other_images(ledger: Ledger, root: Path) -> None:
    """Refuse an output that has the masks of another watched folder: names would meet."""
    other = ledger.other_root(root)
    if other is not None:
        ledger.close()
        what = f"has the masks of another watched folder ({other}): names would meet"
        remedy = f"Choose another output; if that folder was copied here, remove {ledger.file}"
        raise InputError(ledger.output, what, remedy)


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
