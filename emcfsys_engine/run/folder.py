"""One run's folder: makes it, names every file in it, tells its outcome."""

import errno
import os
import re
import shutil
import socket
import stat
import sys
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError, RecordClosedError, RunFolderError
from emcfsys_engine.files import NotOursError, boot_id, is_locked, read_own, remedy_of, write_whole
from emcfsys_engine.project import Project, numbers_now
from emcfsys_engine.run.events import (
    AnyEvent,
    Ending,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunRefused,
    RunResumed,
    RunStarted,
    end_of_events,
    read_events,
    reversed_events,
)
from emcfsys_engine.run.outcome import (
    ExitRecord,
    RunOutcome,
    State,
    Traces,
    how_it_ended,
    told_by_worker,
)
from emcfsys_engine.run.records import (
    FORMAT,
    AskRecord,
    Request,
    RunRecord,
    StartRecord,
    allowed_environment,
    found_here,
    new_group,
    portable,
    seal_of,
    versions_here,
    why_unread,
)
from emcfsys_engine.settings import own_key

_RECORD_MODE = 0o640


class _LockRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Of run.lock, what tells whether the machine was restarted since."""

    boot: str = ""


class Run:
    """One run, known by its folder; every name of a file in it is made here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def id(self) -> str:
        """The run's name: that of its folder."""
        return self.folder.name

    @property
    def record_file(self) -> Path:
        """What was asked for."""
        return self.folder / "run.json"

    @property
    def plan_file(self) -> Path:
        """Every automatic choice, with its reason."""
        return self.folder / "plan.json"

    @property
    def events_file(self) -> Path:
        """What the worker said."""
        return self.folder / "events.jsonl"

    @property
    def exit_file(self) -> Path:
        """How the worker's process ended."""
        return self.folder / "exit.json"

    @property
    def ranks_file(self) -> Path:
        """With which exit code the first of several processes ended; torchrun passes none on."""
        return self.folder / "ranks.json"

    @property
    def retry_file(self) -> Path:
        """With how many patches at a time several processes start again that ran out of memory."""
        return self.folder / "retry.json"

    @property
    def fault_file(self) -> Path:
        """Which of several processes failed first, and why."""
        return self.folder / "fault.json"

    @property
    def result_file(self) -> Path:
        """What a measurement or a conversion in shards gave, as its command says it."""
        return self.folder / "result.json"

    @property
    def ask_file(self) -> Path:
        """What a person asked of the worker."""
        return self.folder / "ask.json"

    @property
    def lock_file(self) -> Path:
        """Locked while a keeper or worker of this run lives."""
        return self.folder / "run.lock"

    @property
    def log_file(self) -> Path:
        """The worker's standard output and error."""
        return self.folder / "log.txt"

    @property
    def best_model(self) -> Path:
        """The model file with the best validation score so far."""
        return self.folder / "best.safetensors"

    @property
    def final_model(self) -> Path:
        """The model file as training ended."""
        return self.folder / "final.safetensors"

    @property
    def checkpoint_file(self) -> Path:
        """Everything needed to go on with training."""
        return self.folder / "checkpoint-last.safetensors"

    @property
    def previews_folder(self) -> Path:
        """Small pictures made at validations."""
        return self.folder / "previews"

    def record(self) -> RunRecord:
        """Read run.json.

        Interpreter and variables are taken only from a file that we wrote ourselves, as its seal
        tells, and that nobody else can have written: else they are our own, see `distrusted`.
        Raises: RunFolderError if there is none or it is of a newer version; RecordClosedError where
        only others may read it.
        """
        try:
            content, found = read_own(self.record_file)
            record = _decoded(content)
        except (FileNotFoundError, NotADirectoryError):
            remedy = "Name a folder under a project's runs/"
            raise RunFolderError(self.folder, "is no run: it has no run.json", remedy) from None
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            is_closed = isinstance(error, PermissionError) and not isinstance(error, NotOursError)
            kind = RecordClosedError if is_closed else RunFolderError
            raise kind(self.record_file, what, "Check its disk and permissions") from None
        except msgspec.MsgspecError as error:
            raise RunFolderError(self.record_file, *why_unread(error)) from None
        if record.format > FORMAT:
            what = f"has format {record.format}, this version knows {FORMAT}"
            raise RunFolderError(self.record_file, what, "Update emcfsys-tui")
        if _why_distrusted(found, record):
            own = {
                "python": sys.executable,
                "environment": allowed_environment(os.environ),
                "folder": "/",
            }
            record = msgspec.structs.replace(record, **own)
        else:
            allowed = allowed_environment(record.environment)
            record = msgspec.structs.replace(record, environment=allowed)
        return found_here(record, self.folder)

    def record_if_open(self) -> RunRecord | None:
        """Read run.json; None where only others may. Raises: RunFolderError as `record` does."""
        try:
            return self.record()
        except RecordClosedError:
            return None

    def distrusted(self) -> str:
        """Say why run.json may not choose interpreter and variables; empty when it may."""
        try:
            content, found = read_own(self.record_file)
            return _why_distrusted(found, _decoded(content))
        except (OSError, msgspec.MsgspecError):
            return ""  # whoever reads it next says so

    def write_record(self, record: RunRecord) -> None:
        """Write run.json: when the run is made, and when a resume extends it.

        Raises: RunFolderError if it cannot be written.
        """
        record = msgspec.structs.replace(record, seal=seal_of(record, own_key(make=True)))
        content = any_names.encode(portable(record, self.folder), indent=2)
        try:
            write_whole(self.record_file, content, mode=_RECORD_MODE)
        except OSError as error:
            what = f"could not be written: {error.strerror}"
            raise RunFolderError(self.record_file, what, remedy_of(error)) from None

    def is_away(self) -> bool:
        """Tell whether the run's disk seems away, rather than its folder removed.

        Who removes a run leaves the others, or their folder; an empty mount point has neither.
        Raises: OSError for a disk that does not answer.
        """
        if self.folder.is_dir():
            return False
        try:
            return not os.listdir(self.folder.parent)
        except (FileNotFoundError, NotADirectoryError):
            return True

    def why_away(self) -> str:
        """Say why a job of the run must wait now; empty where its folder is there, or is gone."""
        try:
            away = self.is_away()
            end_of_events(self.events_file)
        except OSError as error:
            return f"waits for {self.folder}: {error.strerror}"
        return f"waits for {self.folder}: its disk may be away" if away else ""

    def discard(self) -> None:
        """Remove a run that was never started.

        Raises: RunFolderError if it was.
        """
        if self.events_file.exists() or self.is_alive():
            raise RunFolderError(self.folder, "has been started", "Cancel it instead")
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def start_file(self) -> Path:
        """Which start of the run is the newest; written by whoever starts it."""
        return self.folder / "start.json"

    def exit_record(self) -> ExitRecord | None:
        """Read exit.json; None while there is none."""
        return any_names.read(self.exit_file, ExitRecord)

    def asked(self) -> str | None:
        """Tell what a person asked of the worker: cancel, stop or pause."""
        record: AskRecord | None = any_names.read(self.ask_file, AskRecord)
        return record.ask if record else None

    def events(self) -> list[AnyEvent]:
        """Return all events, without those a resume made void."""
        return read_events(self.events_file)

    def is_alive(self) -> bool:
        """Tell whether a keeper or worker of this run lives: it holds the run lock."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(self.lock_file, flags)
        except OSError as error:
            # Nobody holds what is no file of ours: no keeper takes a link or a pipe for its lock.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                return False
            raise
        return is_locked(descriptor)

    def state(self) -> State:
        """Tell the run's state from its folder alone."""
        if self.is_alive():
            return "running"
        return self.outcome()[0]

    def outcome(self) -> tuple[State, str]:
        """Tell how a run that no longer lives ended, and why."""
        ended = self.ended()
        return ended.state, self._still_to_do() or ended.reason

    def _still_to_do(self) -> str:
        """Tell the budget of an extension that no worker has begun yet; empty where none waits."""
        try:
            record = self.record()
        except (EmcfError, OSError):
            return ""  # whoever needs the record says so
        if record.budget_before is None or record.project is None:
            return ""
        asked = record.project.training
        if asked.steps is not None:
            return f"waits to go on to {asked.steps} steps"
        return "waits to go on" + (f" to {asked.minutes:g} minutes" if asked.minutes else "")

    def ended(
        self, *, since: int | None = None, asked: str | None = None, was_killed: bool = False
    ) -> RunOutcome:
        """Tell how the newest start of a run that no longer lives ended.

        `since`: where that start's events begin, in bytes; else start.json says it, and a finished
        run whose resume was refused is what it was.
        `asked`: what was asked of it; else ask.json says it.
        """
        is_of_run = since is None
        start: StartRecord = any_names.read(self.start_file, StartRecord) or StartRecord()
        since = start.events_bytes if since is None else since
        ending, process = self.ending(since or 0), self.exit_record()
        if is_of_run and isinstance(ending, RunRefused):
            finished = self.finished()
            return told_by_worker(finished or ending)
        if process is not None and process.start and process.start != start.token:
            process = None  # of an earlier start
        if since is None and ending is not None and process is not None:  # an older version's run
            ending = ending if _fit(ending, process) else None
        return how_it_ended(
            Traces(
                ending=ending,
                process=process,
                asked=(self.asked() or "") if asked is None else asked,
                was_killed=was_killed,
                was_restart=self._was_restarted(),
                has_begun=self.events_file.exists() or self.lock_file.exists(),
            )
        )

    def ending(self, since: int = 0) -> Ending | None:
        """Return the event that ended the run's last start, if it left one.

        Units: `since` is an offset in events.jsonl, in bytes; an ending before it does not count.
        """
        for event in reversed_events(self.events_file, since):
            if isinstance(event, Ending):
                return event
            if isinstance(event, RunStarted | RunResumed):
                return None
        return None

    def finished(self) -> RunFinished | None:
        """Return the newest word of a worker that did what it was asked; None: there is none."""
        found = (one for one in reversed_events(self.events_file) if isinstance(one, RunFinished))
        return next(found, None)

    def _was_restarted(self) -> bool:
        lock: _LockRecord | None = any_names.read(self.lock_file, _LockRecord)
        return lock is not None and lock.boot not in ("", boot_id())

    def ask(self, ask: Literal["cancel", "stop", "pause"]) -> None:
        """Leave word for the worker: it looks when it is signalled, and between steps."""
        write_whole(self.ask_file, msgspec.json.encode(AskRecord(ask=ask, time=time.time())))


def new_run(
    parent: Path,
    request: Request,
    *,
    project: Project | None = None,
    resume: Literal["auto", "never"] = "never",
    group: str = "",
    fold: int = 0,
) -> Run:
    """Make the next free run folder under `parent` and write its run.json.

    A first fold without a group's name begins a new group, named after its run.
    Raises: RunFolderError if the folder cannot be made or written.
    """
    folder = next_folder(parent)
    record = RunRecord(
        id=folder.name,
        request=request,
        project=project,
        seed=project.project.seed if project else 0,
        created=time.time(),
        python=sys.executable,
        folder=str(Path.cwd()),
        environment=allowed_environment(os.environ),
        versions=versions_here(),
        host=socket.gethostname(),
        numbers=_numbers_of(project or getattr(request, "project", None)),
        resume=resume,
        group=group or (new_group(folder) if fold else ""),
        fold=fold,
    )
    run = Run(folder)
    try:
        run.write_record(record)
    except RunFolderError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return run


def _numbers_of(project: Project | None) -> str:
    return numbers_now(project.file) if project is not None else ""


def open_run(folder: Path) -> Run:
    """Return the run of a folder that holds one.

    Raises: RunFolderError if it holds none.
    """
    run = Run(folder)
    run.record()
    return run


def same_run(folder: Path, created: float) -> Run:
    """Return the run of a folder, if its record still is the one that was `created` then.

    A project put back from a copy, or a runs folder that was emptied, may hold another of the same
    number by now. 0: nobody noted it. Raises: RunFolderError.
    """
    run = Run(folder)
    if created and run.record().created != created:
        what = "holds another run than the one that was meant"
        raise RunFolderError(folder, what, "It is left alone: look at it again")
    return run


@lru_cache(maxsize=16)
def _decoded(content: bytes) -> RunRecord:
    """Return what a run.json says: on its road through a process it is asked a dozen times."""
    record: RunRecord = any_names.decode(content, RunRecord)
    return record


def list_runs(project_folder: Path) -> list[Run]:
    """Return a project's runs, oldest first."""
    folder = project_folder / "runs"
    with suppress(FileNotFoundError, NotADirectoryError):
        names = sorted(os.listdir(folder))
        return [Run(folder / name) for name in names if is_run(folder / name)]
    return []


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a run's: its run.json may be damaged by now, or a pipe."""
    return os.path.lexists(folder / "run.json")


def next_folder(parent: Path) -> Path:
    """Make the next free folder for a run.

    Raises: RunFolderError if that cannot be.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(name[4:]) for name in os.listdir(parent) if re.fullmatch(r"run-\d+", name)]
        number = max(taken, default=0) + 1
        while True:
            folder = parent / f"run-{number:04d}"
            try:
                folder.mkdir()
            except FileExistsError:  # somebody else was faster
                number += 1
            else:
                return folder
    except OSError as error:
        what = f"no run can be made here: {error.strerror}"
        raise RunFolderError(parent, what, remedy_of(error)) from None


def _why_distrusted(found: os.stat_result, record: RunRecord) -> str:
    if found.st_uid != os.geteuid():
        return "run.json belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "run.json may be written by other users"
    if not record.seal or record.seal != seal_of(record, own_key()):
        return "run.json was not written here by you, or by an older version"
    return ""


def _fit(ending: Ending, process: ExitRecord) -> bool:
    """Tell whether a worker's last word and its process's end are of one start; clocks may lie."""
    match ending:
        case RunFinished():
            code = 0
        case RunCancelled():
            code = 130
        case RunInterrupted():
            code = 143
        case RunFailed() | RunRefused():
            return process.exit_code != 0  # killed after its last word, it has failed all the same
    return process.exit_code == code
