"""A worker without torch: obeys a script in the run's folder, says events, counts its starts.

`python standin.py RUN_FOLDER`; behaviour.json: {"does": one of the names below, "seconds": …}
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from emcfsys_engine.run.events import (
    EventWriter,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
    StepDone,
)
from emcfsys_engine.run.folder import Run

_TICK_S = 0.01


def main() -> int:
    """Do as the script says; every start and end leaves a line that tests count."""
    run = Run(Path(sys.argv[1]))
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: asked.append(number))
    behaviour: dict[str, Any] = {"does": "work", "seconds": 0.0}
    with contextlib.suppress(FileNotFoundError):
        behaviour |= json.loads((run.folder / "behaviour.json").read_text())
    _count(run, "starts")
    with EventWriter(run.events_file) as events:
        resumes = run.events_file.stat().st_size > 0
        events.write(
            RunResumed(step=1) if resumes else RunStarted(run=run.id, does="train", total_steps=9)
        )
        events.write(StepDone(step=1, loss=0.5, learning_rate=0.1, seconds=0.01))
        print("the stand-in works", flush=True)
        code = _do(run, behaviour, events, asked)
    _count(run, "ends")
    return code


def _do(run: Run, behaviour: dict[str, Any], events: EventWriter, asked: list[int]) -> int:
    does = behaviour["does"]
    if does == "ignore":  # deaf to SIGTERM
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
    if does == "crash":
        if behaviour.get("times", 10**9) >= int((run.folder / "starts").stat().st_size):
            print("about to die", flush=True)
            os.kill(os.getpid(), getattr(signal, behaviour.get("signal", "SIGSEGV")))
        return _finish(events)
    if does == "fail":
        events.write(RunFailed(reason=behaviour["reason"], exit_code=behaviour["exit_code"]))
        return int(behaviour["exit_code"])
    if does == "flood":  # until no more events fit: a limit on the file stands for a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        while True:
            events.write(StepDone(step=1, loss=0.5, learning_rate=0.1, seconds=0.01))
    if does == "tell":  # which GPUs it was given
        told = run.folder / "told.tmp"
        told.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        told.rename(run.folder / "told")
    if does == "family":  # grandchildren: one in the group, one in a session of its own
        for own_session in (False, True):
            child = subprocess.Popen(["sleep", "1000"], start_new_session=own_session)
            with (run.folder / "family").open("a") as file:
                file.write(f"{child.pid}\n")
    if does == "slow ending":  # asked to end, it computes for a while before it can
        while not asked:
            time.sleep(_TICK_S)
        until = time.monotonic() + behaviour["seconds"]
        while time.monotonic() < until:
            pass
        events.write(RunFinished(reason="stopped", step=1))
        return 0
    return _work(run, behaviour, events, asked)


def _work(run: Run, behaviour: dict[str, Any], events: EventWriter, asked: list[int]) -> int:
    deadline = time.monotonic() + behaviour["seconds"]
    while time.monotonic() < deadline or (run.folder / "hold").exists():
        if asked:
            wish = run.asked()
            if wish == "cancel":
                events.write(RunCancelled(step=1))
                return 130
            if wish == "stop":
                events.write(RunFinished(reason="stopped", step=1))
                return 0
            events.write(
                RunInterrupted(step=1, reason="paused" if wish == "pause" else "terminated")
            )
            return 1
        time.sleep(_TICK_S)
    return _finish(events)


def _finish(events: EventWriter) -> int:
    events.write(RunFinished(reason="steps", step=9), durable=True)
    return 0


def _count(run: Run, name: str) -> None:
    descriptor = os.open(run.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, b"1")
    os.close(descriptor)


if __name__ == "__main__":
    raise SystemExit(main())
