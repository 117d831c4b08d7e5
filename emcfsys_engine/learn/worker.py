"""The worker: a process that executes one run. `python -m emcfsys_engine.learn.worker RUN_FOLDER`

Signals are caught before torch is imported: a TERM during start-up is answered, too.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.events import EventWriter, RunFailed
from emcfsys_engine.learn.working import Worker
from emcfsys_engine.run import open_run

_JOBS = {"TrainRequest": "train_run", "PredictRequest": "predict_run", "WatchRequest": "watch_run"}


def main(arguments: Sequence[str]) -> int:
    """Execute one run; return the process's exit code."""
    run = open_run(Path(arguments[0]))
    with EventWriter(run.events_file) as events:
        worker = Worker(run, events)
        job = _JOBS[type(worker.record.request).__name__]
        try:
            execute: Callable[[Worker], int] = import_module(f"emcfsys_engine.learn.{job}").execute
            return execute(worker)
        except EmcfError as error:
            print(error, file=sys.stderr)
            worker.say(RunFailed(reason=str(error), exit_code=error.exit_code))
            return error.exit_code
        except Exception as error:  # told to the person, then to the log with its trace
            traceback.print_exc()
            worker.say(RunFailed(reason=f"{type(error).__name__}: {error}"))
            return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
