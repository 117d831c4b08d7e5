"""Run a worker in the foreground: follow its events on stderr, pass Ctrl+C on, return its code."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Literal

from emcfsys_engine.commands.saying import say, say_lines
from emcfsys_engine.errors import InputError, ProjectError, RunFolderError, printable
from emcfsys_engine.files import DiskFullError, refuse_full
from emcfsys_engine.jobs.machine import Machine, choose, usual_gpus, who_uses
from emcfsys_engine.launch import processes
from emcfsys_engine.launch.keeper import NO_LEASE
from emcfsys_engine.launch.start import Lease, holder, is_second, kill_run, signal_group, start
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import (
    AnyEvent,
    EventReader,
    ImageDone,
    ImageFailed,
    ItemDone,
    RegionDone,
    RunStarted,
    StepDone,
    ValidationDone,
)
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.lines import line_of
from emcfsys_engine.run.outcome import told_by_process
from emcfsys_engine.run.records import EvaluateRequest, PredictRequest, TrainRequest, WatchRequest
from emcfsys_engine.run.rescue import rescue_folder
from emcfsys_engine.settings import Config, load_config
from emcfsys_engine.text import for_shell, how_many

_LOOK_EVERY_S = 0.1
_LOOK_AT_FOLDER_S = 1.0


def run_in_foreground(run: Run) -> int:
    """Start the run's worker, tell on stderr how it goes, and return its exit code.

    It takes a free GPU, where there is one, and nobody else's.
    Ctrl+C asks the worker to save and end; a second Ctrl+C kills it. TERM is passed on, and what
    does not end within the grace of [jobs] is killed, unless it still computes or writes.
    Raises: InputError if all GPUs are in use.
    """
    laid_over, lease = gpus_for(run)
    reader = EventReader(run.events_file)
    reader.read_new()  # a resumed run's past is known
    if why := run.distrusted():
        say(f"{run.id}: {why}: it runs with {sys.executable} and your own variables", err=True)
    keeper = start(run, foreground=True, environment=laid_over, lease=lease)
    progress = ProgressLine(sys.stderr.isatty())
    passed_on = _SignalsPassedOn(run, keeper)
    place = _Place(run)
    with passed_on:
        while keeper.poll() is None:
            passed_on.tell()
            passed_on.kill_if_due()
            place.look()
            _tell_news(reader, progress)
            with contextlib.suppress(subprocess.TimeoutExpired):
                keeper.wait(_LOOK_EVERY_S)
    passed_on.tell()
    _tell_news(reader, progress)
    progress.finish()
    place.tell_rescued()
    if passed_on.code is not None:
        return passed_on.code
    return _exit_code(run, keeper.returncode)


def _tell_news(reader: EventReader, progress: "ProgressLine") -> None:
    with contextlib.suppress(OSError):  # its disk is away: the worker goes on, and so do we
        for event in reader.read_new():
            progress.tell(event)


def refuse_cluster(project: Project, command: str) -> None:
    """Refuse to compute here what is meant for the cluster: this may be its login node.

    Raises: ProjectError if the project's executor is Slurm.
    """
    if project.compute.executor == "slurm":
        remedy = (
            f"Run: emcfsys-engine submit {command} {for_shell(project.folder)}, or add --set"
            " compute.executor=local"
        )
        what = '"slurm" does not run in the foreground'
        raise ProjectError(project.file, "compute.executor", what, remedy)


def _exit_code(run: Run, code: int) -> int:
    if is_second(code):
        raise RunFolderError(run.folder, "is already running", "Wait for it or cancel it")
    if code == NO_LEASE:
        raise InputError("GPU", "was taken by somebody else in this moment", "Try again")
    with contextlib.suppress(OSError):  # its disk is away: what was saved is told already
        _tell_end(run)
    return 1 if code < 0 or code in (127, 137, 139) else code


def _tell_end(run: Run) -> None:
    """Say of an end what its worker could not.

    Raises: OSError for a disk that does not answer.
    """
    state, reason = run.outcome()
    if state == "lost":  # a full disk takes no last word
        say(f"emcfsys-engine: {_why_lost(run, reason)}", err=True)
    record = run.exit_record()
    if state == "failed" and record is not None and reason == told_by_process(record).reason:
        say(f"emcfsys-engine: {run.id}: {reason}. See {run.log_file}", err=True)


def _why_lost(run: Run, reason: str) -> str:
    try:
        refuse_full([run.folder])
    except DiskFullError:
        what = "its disk is full. What is done is kept: free some space, then go on."
        return f"{run.folder}: {what}"
    return f"{run.id}: {reason}. See {run.log_file}"


class _Place:
    """Says when the run's folder leaves or takes nothing: its worker's own words go there."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._fault = ""
        self._looked_at = time.monotonic()
        self._rescue: Path | None = None
        with contextlib.suppress(RuntimeError):  # no home
            self._rescue = rescue_folder(run)

    def tell_rescued(self) -> None:
        """Say what was saved elsewhere at the end."""
        with contextlib.suppress(OSError):  # nothing was
            if self._rescue and (names := sorted(os.listdir(self._rescue))):
                say(f"{', '.join(names)} could only be saved in {self._rescue}", err=True)

    def look(self) -> None:
        """Look now and then."""
        if time.monotonic() < self._looked_at + _LOOK_AT_FOLDER_S:
            return
        self._looked_at = time.monotonic()
        before, self._fault = self._fault, self._why_not()
        if self._fault and self._fault != before:
            say(f"{self._run.folder} {self._fault}: what is done waits for it", err=True)
        elif before and not self._fault:
            say(f"{self._run.folder} is there again", err=True)

    def _why_not(self) -> str:
        if not os.path.isdir(self._run.folder):  # noqa: PTH112 - no error of its disk ends us
            return "was removed, or its disk is away"
        try:  # a file without a name: nothing is left of it
            os.close(os.open(self._run.folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                return f"cannot be written ({error.strerror})"
        return ""


class _SignalsPassedOn:
    """While it lasts, INT and TERM go to the worker instead of ending this process."""

    def __init__(self, run: Run, keeper: "subprocess.Popen[bytes]") -> None:
        self.code: int | None = None  # with which to end, where the worker had to be killed
        self._run = run
        self._keeper = keeper
        self._interrupts = 0
        self._untold: list[str] = []
        self._may_finish = _goes_on_until_stopped(run)
        self._was_asked = False
        self._is_finishing = False  # its last steps may take long
        self._grace_s = 0.0
        self._kill_at: float | None = None
        self._graces = 0
        self._progress = processes.Activity("")
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def tell(self) -> None:
        """Say what the signals were answered with: they may have come in the middle of a line."""
        while self._untold:
            say(self._untold.pop(0), err=True, lead="\n")

    def kill_if_due(self) -> None:
        """Kill a worker that was asked to end, does not, and neither computes nor writes."""
        if not self._was_asked:
            return
        now = time.monotonic()
        if self._kill_at is None:
            self._grace_s = _grace_s()
            self._kill_at = now + self._grace_s
            self._progress = processes.Activity(processes.token_of(self._keeper.pid))
        if now < self._kill_at:
            return
        self._graces += not self._is_finishing
        self._kill_at = now + self._grace_s
        if self._graces < processes.MOST_GRACES and self._progress.goes_on():
            return
        if self.code is None:
            say(f"It does not end, and was killed after {self._grace_s:g} s.", err=True)
        self._kill(130 if self._interrupts else 143)

    def _kill(self, code: int) -> None:
        """Kill the worker, and on the next call its keeper as well, which tells how it ended."""
        held_by = holder(self._run)
        if self.code is None and held_by is not None and held_by.worker_lives:
            kill_run(held_by)
        else:
            signal_group(self._keeper.pid, signal.SIGKILL)
        self.code = code

    def _ask(self, ask: Literal["cancel", "stop"]) -> None:
        with contextlib.suppress(OSError):  # its disk is away or full: the signal is heard
            self._run.ask(ask)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_finishing = number == signal.SIGINT and self._may_finish
        if self._is_finishing:
            self._may_finish = False
            words = "Finishing: a few steps of a falling rate, then the final model. Ctrl+C again "
            self._untold.append(f"{words}saves and ends.")
            self._ask("stop")
        elif number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                signal_group(self._keeper.pid, signal.SIGKILL)
                if self.code is None:
                    self._untold.append("cancelled")
                self.code = 130
                return
            self._untold.append("Saving and ending. Ctrl+C again kills it.")
            self._ask("cancel")
        self._was_asked = True
        signal_group(self._keeper.pid, signal.SIGTERM)


def _goes_on_until_stopped(run: Run) -> bool:
    """Tell whether only a person ends the run: the first Ctrl+C is how."""
    project = run.record().project
    if project is None or not isinstance(run.record().request, TrainRequest):
        return False
    training = project.training
    return training.follow and training.steps is None and training.minutes is None


def _grace_s() -> float:
    """Return the user's own grace; a faulty file keeps nobody from ending a run."""
    try:
        return load_config().jobs.grace_s
    except InputError:
        return Config().jobs.grace_s


class ProgressLine:
    """Tells events to a person: one changing line on a terminal, else a line a validation."""

    def __init__(self, on_terminal: bool) -> None:
        self._on_terminal = on_terminal
        self._total: int | None = None
        self._score = ""
        self._called = "images"
        self._done = self._failed = self._regions = 0
        self._began = time.monotonic()
        self._drawn = 0.0

    def tell(self, event: AnyEvent) -> None:
        """Tell one event."""
        if isinstance(event, StepDone):
            total = f"/{self._total}" if self._total else ""
            self._draw(f"step {event.step}{total}  loss {event.loss:.4f}  {self._score}")
        elif isinstance(event, ImageDone | ImageFailed):
            self._tell_image(event)
        elif isinstance(event, ItemDone):
            self._done += 1
            self._draw_count()
        elif isinstance(event, RegionDone):
            self._regions += 1
            images = f"{self._done + self._failed}/{self._total or '?'} images"
            self._draw(f"{images}, {how_many(self._regions, 'region')} of {event.of}")
        else:
            if isinstance(event, RunStarted):
                self._called = event.called
                self._total = event.total_steps if event.does == "train" else event.num_images
            elif isinstance(event, ValidationDone) and event.is_best and event.score is not None:
                self._score = f"best {event.score:.3f}"
            if text := line_of(event):
                self._line(text)

    def finish(self) -> None:
        """Leave the terminal's cursor on a fresh line."""
        if self._on_terminal and self._drawn:
            say("", nl=False, err=True, lead="\r\x1b[K")

    def _tell_image(self, event: ImageDone | ImageFailed) -> None:
        if isinstance(event, ImageFailed):
            self._failed += 1
            self._line(f"failed: {event.reason}")
        else:
            self._done += 1
            if event.unlike:
                self._line(f"{event.image}: unlike the training data: {event.unlike}")
            if event.verdict in ("review", "fail"):
                why = "; ".join(event.verdict_reasons)
                self._line(f"{event.image}: {event.verdict.upper()}: {why}")
        self._draw_count()

    def _draw_count(self) -> None:
        per_s = self._done / max(1e-6, time.monotonic() - self._began)
        told = self._done + self._failed
        self._draw(f"{told}/{self._total or '?'} {self._called}  {per_s:.1f}/s")

    def _line(self, text: str) -> None:
        clear = "\r\x1b[K" if self._on_terminal and self._drawn else ""
        say_lines(text, err=True, lead=clear)

    def _draw(self, text: str) -> None:
        now = time.monotonic()
        if not self._on_terminal or now - self._drawn < 0.1:
            return
        self._drawn = now
        width = shutil.get_terminal_size().columns - 1
        say(printable(text)[:width], nl=False, err=True, lead="\r\x1b[K")


def gpus_for(
    run: Run, machine: Machine | None = None, environment: Mapping[str, str] = os.environ
) -> tuple[dict[str, str], Lease | None]:
    """Return what a run's worker gets laid over its environment, and the GPU slots it must lock.

    Who names GPUs in CUDA_VISIBLE_DEVICES gets those, in use or not.
    Raises: InputError if all GPUs are in use.
    """
    if "CUDA_VISIBLE_DEVICES" in environment:
        return {}, None
    machine = machine or Machine()
    gpus = machine.gpus()
    wanted = _wanted(run, machine) if gpus else 0.0
    if not wanted or wanted > len(gpus):  # too many: the worker says so with its remedy
        return {}, None
    chosen = choose(gpus, wanted, {})
    if chosen is None:
        users = who_uses(machine.lock_folder, gpus)
        remedy = "Submit the run, or name the GPU to share: CUDA_VISIBLE_DEVICES=0"
        raise InputError("GPU", f"{wanted:g} wanted, in use: {users}", remedy)
    laid_over = {
        "CUDA_VISIBLE_DEVICES": ",".join(chosen),
        processes.SHARE_VARIABLE: f"{min(1.0, wanted):g}",
    }
    slots = dict.fromkeys(chosen, processes.slots_for(wanted))
    return laid_over, Lease(lock_folder=str(machine.lock_folder), num_slots=slots)


def _wanted(run: Run, machine: Machine) -> float:
    record = run.record()
    gpus = None if record.project is None else record.project.compute.gpus
    if isinstance(record.request, TrainRequest):
        return usual_gpus(machine, "train") if gpus is None else float(gpus)
    if isinstance(record.request, PredictRequest | EvaluateRequest):
        gpus = record.request.gpus
        return usual_gpus(machine, "predict") if gpus is None else float(gpus)
    if gpus == 0 or not isinstance(record.request, WatchRequest):
        return 0.0
    # One process beside others takes a share; several take each a GPU of their own.
    return usual_gpus(machine, "watch") if (gpus or 1) == 1 else float(gpus or 1)
