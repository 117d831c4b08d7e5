"""The worker: a process that executes one run. `python -m emcfsys_engine.learn.worker RUN_FOLDER`

Signals are caught before torch is imported: a TERM during start-up is answered, too.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from emcfsys_engine.errors import EmcfError, InputError, OutputError, printable
from emcfsys_engine.files import exit_with, is_full, write_whole
from emcfsys_engine.launch.start import place_here
from emcfsys_engine.learn.run_context import RunContext, keep_freed_memory
from emcfsys_engine.run.events import EventWriter
from emcfsys_engine.run.folder import open_run
from emcfsys_engine.run.records import PredictRequest

_IN_SHARDS = "shards.runner"  # whatever the command: torch is imported only where it needs that
_JOBS = {
    "TrainRequest": "learn.training.run",
    "PredictRequest": "learn.inference.files",
    "WatchRequest": "learn.watch.run",
}


def main(arguments: Sequence[str]) -> int:
    """Execute one run; return the process's exit code.

    Of several processes that train together the first one tells events and leaves the exit code
    in ranks.json, as torchrun passes none on; the others say only what goes wrong.
    """
    keep_freed_memory()
    try:
        return _main(Path(arguments[0]))
    except EmcfError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:  # its disk is gone or full: not even its last word could be written
        place = os.fsdecode(error.filename) if error.filename else arguments[0]
        print(printable(f"{place}: {error.strerror or error}"), file=sys.stderr)
        return InputError.exit_code


def _main(folder: Path) -> int:
    run, place = open_run(folder), place_here()
    if place.rank:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _execute(RunContext(run, None, place))
    with EventWriter(run.events_file) as events:
        worker = RunContext(run, events, place)
        with closing(worker.disk):
            code = _execute(worker)
    if place.world > 1:
        write_whole(run.ranks_file, json.dumps({"exit_code": code}).encode())
        return 0
    return code


def _execute(worker: RunContext) -> int:
    request = worker.record.request
    job = _JOBS.get(type(request).__name__, _IN_SHARDS)
    if isinstance(request, PredictRequest) and request.shards:
        job = _IN_SHARDS
    try:
        execute: Callable[[RunContext], int] = import_module(f"emcfsys_engine.{job}").execute
        code = execute(worker)
    except EmcfError as error:
        print(f"{_name(worker)}{error}", file=sys.stderr)
        reason = _faults().told_with_first_fault(worker, error)
        # A disk may have room again, or be back: another try need not meet the same.
        may_pass = isinstance(error, OutputError) and error.errno
        with suppress(OSError):  # a full disk takes no event: the exit code tells
            worker.failed(reason, 1 if may_pass else error.exit_code)
        return error.exit_code
    except Exception as error:  # told to the person, then to the log with its trace
        reason = reason_of(error, worker.run.folder)
        # A disk that is full, gone or closed: where it is says more than a trace.
        of_disk = isinstance(error, OSError) and not isinstance(error, ConnectionError)
        print(printable(reason), file=sys.stderr) if of_disk else traceback.print_exc()
        with suppress(OSError):
            _faults().note_fault(worker, reason)
            worker.failed(reason)
        return InputError.exit_code if of_disk and not is_full(error) else 1
    # An end that all processes agreed on is no failure of theirs.
    return 0 if worker.place.rank else code


def _faults() -> Any:
    """Return the module of faults: it needs torch, which not every run does."""
    return import_module("emcfsys_engine.learn.faults")


def reason_of(error: Exception, folder: Path) -> str:
    """Return a line about what nobody expected; a full disk is met anywhere."""
    name = error.filename if isinstance(error, OSError) else None
    place = os.fsdecode(name) if name else folder
    if is_full(error):
        return f"{place}: its disk is full. What is done is kept: free some space, then go on."
    if isinstance(error, OSError):
        return f"{place}: {error.strerror or error}. What is done is kept: mend that, then go on."
    return f"{type(error).__name__}: {error}"


def _name(worker: RunContext) -> str:
    return f"process {worker.place.rank}: " if worker.place.world > 1 else ""


if __name__ == "__main__":
    exit_with(main, sys.argv[1:])
