"""One watch at a time writes into an output folder; one that lasts waits for a short one's end."""

import time
from pathlib import Path

from emcfsys_engine.errors import EmcfError, WatchedError
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.learn.run_context import Worker
from emcfsys_engine.run.folder import Run, WatchRequest

_TURN_S = 0.5  # between looks at a folder that the other will leave


def take_folder(worker: Worker, request: WatchRequest) -> Ledger | None:
    """Take the output folder; None if we were asked to end before it was free.

    A watch that lasts waits for a `--once` that is at work there: it ends by itself, and a job of
    the daemon that was refused would not come back.
    Raises: WatchedError if another watch that lasts has it; InputError if it cannot be used.
    """
    told = False
    while worker.asked() is None:
        try:
            return Ledger(Path(request.output), owner=str(worker.run.folder))
        except WatchedError as error:
            if request.once or not _ends_by_itself(error.run):
                raise
            if not told:
                print(f"{error.where} {error.what}: waits for its end", flush=True)
                told = True
        time.sleep(_TURN_S)
    return None


def _ends_by_itself(other: str) -> bool:
    """Tell whether a watch's run folder is that of a `--once`."""
    try:
        request = Run(Path(other)).record().request
    except (EmcfError, OSError):
        return False
    return isinstance(request, WatchRequest) and request.once
