"""Which of several processes failed first: those that only miss it can name it, and why it went."""

import time
from contextlib import suppress
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError, PeerLostError
from emcfsys_engine.files import write_whole
from emcfsys_engine.learn.run_context import RunContext

_PATIENCE_S = 3.0  # the one that failed may still be writing


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """fault.json: what ended the first process that failed."""

    rank: int
    reason: str


def note_fault(worker: RunContext, reason: str) -> None:
    """Leave word that this process failed, unless another one did before."""
    file = worker.run.fault_file
    if worker.place.world == 1 or file.exists():
        return
    try:
        write_whole(file, msgspec.json.encode(Fault(rank=worker.place.rank, reason=reason)))
    except OSError:  # a full disk: the log has it
        return


def told_with_first_fault(worker: RunContext, error: EmcfError) -> str:
    """Return what to tell of an error; of a process that is missed, which one and why."""
    text = str(error)
    if worker.place.world == 1:
        return text
    if not isinstance(error, PeerLostError):
        note_fault(worker, text)
        return text
    first = _wait_for(worker.run.fault_file)
    if first is None or first.rank == worker.place.rank:
        return text
    return f"process {first.rank} failed: {first.reason} ({text})"


def _wait_for(file: Path) -> Fault | None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with suppress(OSError):
            found: Fault | None = any_names.read(file, Fault)
            if found is not None:
                return found
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
