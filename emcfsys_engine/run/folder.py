"""One run's folder: makes it, names every file in it, tells its outcome."""

import errno
import fcntl
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.files import boot_id, read_own, write_whole
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import (
    AnyEvent,
    Ending,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
    read_events,
    reversed_events,
)
from emcfsys_engine.run.outcome import ExitRecord, Outcome, State, Traces, how_it_ended

FORMAT = 1
_HERE = "./"  # of a path in the project's folder, in run.json

# What a worker may know of its submitter's environment: libraries and caches, no secrets.
_ENVIRONMENT = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHONPATH|VIRTUAL_ENV|"
    r"CONDA_(PREFIX|DEFAULT_ENV)|CC|CXX|TORCHINDUCTOR_CACHE_DIR|CUDA_\w+|NVIDIA_\w+|"
    r"OMP_NUM_THREADS|MKL_NUM_THREADS|(TORCH_)?NCCL_\w+|GLOO_\w+|PYTORCH_\w*ALLOC_CONF|"
    r"TRITON_CACHE_DIR|HF_(HOME|HUB_CACHE|HUB_OFFLINE|ENDPOINT|ASSETS_CACHE|XET_CACHE)|"
    r"TORCH_HOME|XDG_\w+|EMCFSYS_\w+|https?_proxy|no_proxy"
)
_WORD_OF_ACCESS = re.compile(r"(?<=://)[^/@\s]*@")  # user and password in an address
_RECORD_MODE = 0o640


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True, tag="train"):
    """Train as the project says."""


class PredictRequest(msgspec.Struct, frozen=True, kw_only=True, tag="predict"):
    """Predict the inputs with a model file, or with several as an ensemble."""

    model: str  # absolute path
    also: tuple[str, ...] = ()  # more model files: an ensemble
    inputs: tuple[str, ...]  # absolute files, folders or globs
    out: str  # absolute folder
    overlay: bool = False
    probability: bool = False
    uncertainty: bool = False
    rank_uncertain: bool = False
    vectors: tuple[Literal["labelme", "coco", "geojson", "imagej"], ...] = ()
    mask_format: Literal["png", "tif", "tiff", "ome-tiff", "ome-zarr"] = "png"
    force: bool = False
    tta: bool = False
    rescale: bool = False
    overlap: float = 0.25
    tile_px: int | None = None
    batch: int | None = None
    threads: int | None = None


class WatchRequest(msgspec.Struct, frozen=True, kw_only=True, tag="watch"):
    """Watch the project's hot folder and predict what arrives."""

    model: str  # absolute path, resolved when the run was made
    watch: str
    output: str
    once: bool = False


Request = TrainRequest | PredictRequest | WatchRequest


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """run.json: what was true when the run was asked for; what runs is what stands here."""

    format: int = FORMAT
    id: str
    request: Request
    project: Project | None = None
    seed: int = 0
    created: float
    python: str  # the submitter's interpreter
    folder: str  # where the submitter stood
    environment: dict[str, str] = {}
    versions: dict[str, str] = {}
    resume: Literal["auto", "never"] = "never"
    group: str = ""  # runs that were asked for together
    fold: int = 0  # of a cross-validation, from 1; 0: none


class StartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """start.json: the newest start of a run; written by whoever starts it."""

    token: str = ""
    events_bytes: int | None = None  # how long events.jsonl was then; None in older files


class _LockRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Of run.lock, what tells whether the machine was restarted since."""

    boot: str = ""


class AskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """ask.json: what a person asked of a running worker; without one a TERM is an interruption."""

    ask: Literal["cancel", "stop", "pause"]
    time: float


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

        Interpreter and variables are taken only from a file that nobody else can have written:
        else they are our own, see `distrusted`.
        Raises: RunFolderError if there is none or it is of a newer version.
        """
        try:
            content, found = read_own(self.record_file)
            record: RunRecord = any_names.decode(content, RunRecord)
        except (FileNotFoundError, NotADirectoryError):
            remedy = "Name a folder under a project's runs/"
            raise RunFolderError(self.folder, "is no run: it has no run.json", remedy) from None
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            remedy = "Check its permissions and its disk"
            raise RunFolderError(self.record_file, what, remedy) from None
        except msgspec.MsgspecError as error:
            remedy = "Restore it from a copy"
            raise RunFolderError(self.record_file, f"is damaged: {error}", remedy) from None
        if record.format > FORMAT:
            what = f"has format {record.format}, this version knows {FORMAT}"
            raise RunFolderError(self.record_file, what, "Update emcfsys-tui")
        if _why_distrusted(found):
            own = {"python": sys.executable, "environment": _allowed(os.environ), "folder": "/"}
            record = msgspec.structs.replace(record, **own)
        else:
            allowed = _allowed(record.environment)
            record = msgspec.structs.replace(record, environment=allowed)
        return self._found_here(record)

    def distrusted(self) -> str:
        """Say why run.json may not choose interpreter and variables; empty when it may."""
        try:
            return _why_distrusted(self.record_file.stat(follow_symlinks=False))
        except OSError:
            return ""  # whoever reads it next says so

    def write_record(self, record: RunRecord) -> None:
        """Write run.json: when the run is made, and when a resume extends it.

        Raises: RunFolderError if it cannot be written.
        """
        content = any_names.encode(self._portable(record), indent=2)
        try:
            write_whole(self.record_file, content, mode=_RECORD_MODE)
        except OSError as error:
            what = f"could not be written: {error.strerror}"
            raise RunFolderError(self.record_file, what, "Free some space") from None

    def is_away(self) -> bool:
        """Tell whether the run's disk seems away, rather than its folder removed.

        Who removes a run leaves the other runs, or at least the folder that they were in; an empty
        mount point has neither.
        Raises: OSError for a disk that does not answer.
        """
        if self.folder.is_dir():
            return False
        try:
            return not os.listdir(self.folder.parent)
        except (FileNotFoundError, NotADirectoryError):
            return True

    def _portable(self, record: RunRecord) -> RunRecord:
        """Return the record as it is written: what is inside the project, by its path in it."""
        project = record.project
        if project is None or self.folder.parent != project.runs_folder:
            return record
        home = project.folder

        def inside(text: str) -> str:
            path = Path(text)
            return str(path.relative_to(home)) if path.is_relative_to(home) else text

        def marked(text: str) -> str:
            path = Path(text)
            return f"{_HERE}{path.relative_to(home)}" if path.is_relative_to(home) else text

        return _with_paths(record, inside, inside(project.file_name), marked)

    def _found_here(self, record: RunRecord) -> RunRecord:
        """Return the record with absolute paths, where the project is now: it may be a copy."""
        project, home = record.project, self.folder.parent.parent
        if project is None:
            return record
        file = home / project.file.name
        is_old = project.file.is_absolute()  # as older versions wrote it
        if is_old and (self.folder.parent.name != "runs" or not file.is_file()):
            return record
        before = project.folder

        def here(text: str) -> str:
            path = Path(text)
            if is_old and path.is_relative_to(before):
                return str(home / path.relative_to(before))
            return str(home / path) if text.startswith(_HERE) else text

        def of_data(text: str) -> str:  # relative ones are the person's own words
            return here(text) if Path(text).is_absolute() else text

        return _with_paths(record, of_data, str(file), here)

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
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def state(self) -> State:
        """Tell the run's state from its folder alone."""
        if self.is_alive():
            return "running"
        return self.outcome()[0]

    def outcome(self) -> tuple[State, str]:
        """Tell how a run that no longer lives ended, and why."""
        ended = self.ended()
        return ended.state, ended.reason

    def ended(
        self, *, since: int | None = None, asked: str | None = None, was_killed: bool = False
    ) -> Outcome:
        """Tell how the newest start of a run that no longer lives ended.

        `since`: where that start's events begin, in bytes; else start.json says it.
        `asked`: what was asked of it; else ask.json says it.
        """
        start: StartRecord = any_names.read(self.start_file, StartRecord) or StartRecord()
        since = start.events_bytes if since is None else since
        ending, process = self.ending(since or 0), self.exit_record()
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

    def _was_restarted(self) -> bool:
        lock: _LockRecord | None = any_names.read(self.lock_file, _LockRecord)
        return lock is not None and lock.boot not in ("", boot_id())

    def ask(self, ask: Literal["cancel", "stop", "pause"]) -> None:
        """Leave word for the worker; it looks when it is signalled and between steps."""
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
    folder = _next_folder(parent)
    record = RunRecord(
        id=folder.name,
        request=request,
        project=project,
        seed=project.project.seed if project else 0,
        created=time.time(),
        python=sys.executable,
        folder=str(Path.cwd()),
        environment=_allowed(os.environ),
        versions=_versions(),
        resume=resume,
        group=group or (folder.name.replace("run-", "kfold-") if fold else ""),
        fold=fold,
    )
    run = Run(folder)
    try:
        run.write_record(record)
    except RunFolderError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return run


def open_run(folder: Path) -> Run:
    """Return the run of a folder that holds one.

    Raises: RunFolderError if it holds none.
    """
    run = Run(folder)
    run.record()
    return run


def list_runs(project_folder: Path) -> list[Run]:
    """Return a project's runs, oldest first."""
    folder = project_folder / "runs"
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Run(folder / name) for name in names if (folder / name / "run.json").is_file()]


def _with_paths(
    record: RunRecord,
    of_data: Callable[[str], str],
    file_name: str,
    of_request: Callable[[str], str],
) -> RunRecord:
    """Return the record with other paths: of its project's file, its data and its watch."""
    project, request = record.project, record.request
    assert project is not None
    sources = tuple(
        msgspec.structs.replace(
            source,
            **{
                key: of_data(text)
                for key in ("images", "masks", "annotations")
                if (text := getattr(source, key)) is not None
            },
        )
        for source in project.data
    )
    project = msgspec.structs.replace(project, file_name=file_name, data=sources)
    if isinstance(request, WatchRequest):
        request = msgspec.structs.replace(
            request,
            model=of_request(request.model),
            watch=of_request(request.watch),
            output=of_request(request.output),
        )
    return msgspec.structs.replace(record, project=project, request=request)


def _next_folder(parent: Path) -> Path:
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
        raise RunFolderError(parent, what, "Check the folder's permissions and space") from None


def _allowed(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: without_access(value)
        for name, value in environment.items()
        if _ENVIRONMENT.fullmatch(name) and "\0" not in value
    }


def without_access(value: str) -> str:
    """Return a value without user and password of an address: run.json holds no secret."""
    return _WORD_OF_ACCESS.sub("", value)


def _why_distrusted(found: os.stat_result) -> str:
    if found.st_uid != os.geteuid():
        return "run.json belongs to another user"
    writers = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return "run.json may be written by other users" if writers else ""


def _fit(ending: Ending, process: ExitRecord) -> bool:
    """Tell whether a worker's last word and its process's end are of one start; clocks may lie."""
    match ending:
        case RunFinished():
            code = 0
        case RunCancelled():
            code = 130
        case RunInterrupted():
            code = 143
        case RunFailed():
            return process.exit_code != 0  # killed after its last word, it has failed all the same
    return process.exit_code == code


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    metadata = import_module("importlib.metadata")  # a tenth of the interface's start
    for name in ("emcfsys-tui", "torch", "timm", "segmentation-models-pytorch", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
