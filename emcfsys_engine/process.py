"""Start and signal a keeper with its worker: the only spawner."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.keeper import ALREADY_RUNNING
from emcfsys_engine.run import Run

_KEEPER = "emcfsys_engine.keeper"
_WORKER = "emcfsys_engine.learn.worker"


def start(
    run: Run, *, foreground: bool = False, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a keeper for the run, in a session of its own, with the submitter's interpreter.

    `foreground`: the keeper ends its worker when the calling process dies.
    `environment` is laid over the submitter's (CUDA_VISIBLE_DEVICES, for one).
    Raises: RunFolderError if the run is already running or its interpreter is gone.
    """
    record = run.record()
    if run.is_alive():
        raise RunFolderError(run.folder, "is already running", "Wait for it or cancel it")
    flags = ["--with-parent"] if foreground else []
    worker = [record.python, "-m", _WORKER, str(run.folder)]
    command = [record.python, "-m", _KEEPER, str(run.folder), *flags, "--", *worker]
    try:
        with run.log_file.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE if foreground else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=_folder(record.folder),
                env={**record.environment, **(environment or {})},
            )
    except FileNotFoundError:
        remedy = "Submit again from an environment that exists"
        raise RunFolderError(record.python, "the run's Python is gone", remedy) from None


def is_second(exit_code: int) -> bool:
    """Tell whether a keeper ended because another one has the run."""
    return exit_code == ALREADY_RUNNING


def signal_group(keeper_pid: int, number: signal.Signals) -> bool:
    """Send a signal to the keeper's whole group; False when nothing of it is left."""
    try:
        os.killpg(keeper_pid, number)
    except ProcessLookupError:
        return False
    return True


def _folder(place: str) -> str:
    return place if Path(place).is_dir() else "/"
