"""Who needs the files of a run: what removes any of them asks here first."""

import os
import pwd
import shlex
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError, InputError, ProjectError, QueueError
from emcfsys_engine.files import AWAY, file_system_of, is_network
from emcfsys_engine.images.walk import split_glob
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.jobs.state_folder import other_queues
from emcfsys_engine.jobs.store import open_jobs_in
from emcfsys_engine.project import Project, read_toml
from emcfsys_engine.run.folder import Run, State, is_run, list_runs
from emcfsys_engine.run.models_used import is_in_use
from emcfsys_engine.run.records import (
    ConvertRequest,
    EvaluateRequest,
    MeasureRequest,
    PredictRequest,
    RunRecord,
    StartRecord,
    WatchRequest,
)

_MODEL_KEYS = (("hotfolder", "model"), ("suggest", "model"), ("model", "start"))
_FILE_KEYS = (("model", "weights"), ("hotfolder", "watch"), ("hotfolder", "output"))
_DATA_KEYS = ("images", "masks", "annotations")
_END_IT = "Cancel that first, or let it end"
_UNENDED: tuple[State, ...] = ("new", "running", "interrupted", "lost")


class _Need(NamedTuple):
    """What somebody needs: as words and as a path, and by which run or project.toml."""

    words: str
    place: Path  # absolute
    remedy: str
    by: Path


class Use(NamedTuple):
    """Why a run's files are needed, as in "run-0001 …", and what helps."""

    why: str
    remedy: str


class RunUsers:
    """All that is known to need files of runs, as it was when this was made.

    Known are the open jobs of the queue, and of those of the same home's other hosts, and of each
    project that they, any older job or `places` name, or that a run there is of: what runs in it,
    and what its project.toml says.
    Raises: QueueError where the queue cannot be asked.
    """

    def __init__(self, places: Iterable[Path] = ()) -> None:
        with Queue.open() as queue:
            jobs, own = queue.list(), queue.store.file
        self._jobs = {_real(Path(job.run)): f"job {job.id}" for job in jobs if job.is_open}
        self._known = {_real(Path(job.run)) for job in jobs}
        self._elsewhere, self._unread = _jobs_elsewhere(own)
        folders = [Path(job.run).parent.parent for job in jobs]
        folders = list(dict.fromkeys(map(_real, [*places, *folders])))
        waiting = {**{run: str(job) for run, job in self._elsewhere.items()}, **self._jobs}
        named = [(who, Run(run)) for run, who in waiting.items()]
        homes: dict[Path, None] = {}
        for folder in folders:
            with suppress(OSError):  # its disk is away
                runs = list_runs(folder)
                named += [(run.id, run) for run in runs if run.is_alive()]
                homes |= dict.fromkeys(home for run in runs if (home := _home_of(run)))
        self._needs: list[_Need] = []
        self._unsaid: Use | None = None  # what may name any run, and cannot be read now
        for who, run in named:
            self._add(lambda who=who, run=run: _of_run(who, run))
        for folder in dict.fromkeys([*folders, *homes]):
            self._add(lambda file=folder / "project.toml": _of_project(file))

    def _add(self, needs: Callable[[], list[_Need]]) -> None:
        try:
            self._needs += needs()
        except InputError as fault:
            why = f"may be what {fault.where} names, which {fault.what}"
            self._unsaid = self._unsaid or Use(why, "Mend that first, or let it be saved")

    def of(self, run: Run, files: Sequence[Path]) -> Use | None:
        """Return who needs a run, or one of these files or folders of it; None: nobody.

        What the run itself or its worker names does not count.
        """
        own = _real(run.folder)
        if own in self._jobs:
            return Use(f"has an open {self._jobs[own]}", "Cancel it first")
        if job := self._elsewhere.get(own):
            return Use(f"has an open {job}", job.remedy)
        if unread := self._unread:
            remedy = "See why that queue cannot be read; where that host is gone, "
            return Use(f"may have a job in {unread}", f"{remedy}{_aside(unread)}")
        if own not in self._known and (other := _others(run)):
            return other
        for need in self._needs:
            if need.by != own and any(_lies_in(need.place, file) for file in files):
                return Use(f"has {need.words}", need.remedy)
        if files and self._unsaid:
            return self._unsaid
        for file in files:
            models = file.glob("**/*.safetensors") if file.is_dir() else [file]
            if any(is_in_use(model) for model in models):
                return Use("has a model that a process predicts with now", "Wait for its end")
        return None


def _aside(queue: str) -> str:
    """Return the command that takes a queue out of those that are asked."""
    return f"mv {shlex.quote(queue)} {shlex.quote(f'{queue}.gone')}"


class _JobElsewhere(NamedTuple):
    """An open job in the queue of another host, which may be this one under its former name."""

    number: int
    queue: Path

    def __str__(self) -> str:
        return f"job {self.number} on {self.queue.parent.name} (its queue is {self.queue})"

    @property
    def remedy(self) -> str:
        home = shlex.quote(str(self.queue.parent))
        command = f"EMCFSYS_HOME={home} emcfsys-engine cancel {self.number}"
        return f"Cancel it there; where that host is gone or has another name now, here: {command}"


def _jobs_elsewhere(own: Path) -> tuple[dict[Path, _JobElsewhere], str]:
    """Return the runs with open jobs in queues of a home's other hosts, and a queue unread."""
    found: dict[Path, _JobElsewhere] = {}
    unread = ""
    for file in other_queues(own):
        try:
            jobs = open_jobs_in(file)
        except QueueError:
            unread = str(file)
            continue
        found |= {_real(Path(run)): _JobElsewhere(number, file) for number, run in jobs}
    return found, unread


def _others(run: Run) -> Use | None:
    """Return why a run that has not ended, and was never in our queue, may be needed elsewhere.

    Jobs of another user, or of a host with a queue of its own, are not to be seen from here.
    """
    with suppress(EmcfError, OSError):
        record = run.record()
        if run.state() not in _UNENDED and record.budget_before is None:
            return None
        owner = run.record_file.stat().st_uid
        if owner != os.geteuid():
            return Use(f"is user {_user(owner)}'s, and may wait in their queue", "Ask them first")
        start = any_names.read(run.start_file, StartRecord)
        host = (start and start.host) or record.host
        if host not in ("", socket.gethostname()) and is_network(file_system_of(run.folder)):
            what = f"was begun on {host}, and may wait or run there"
            return Use(what, "Delete it there, or remove its folder yourself")
    return None


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _home_of(run: Run) -> Path | None:
    with suppress(EmcfError, OSError):
        project = run.record().project
        return _real(project.folder) if project is not None else None
    return None


def _of_run(who: str, run: Run) -> list[_Need]:
    """Return what a run needs. Raises: RunFolderError where that cannot be read for now."""
    if not _may_be_read(run.record_file):
        return []
    record = run.record()
    found = dict(_said_by(record))
    return [
        _Need(words.format(who=who), place, _END_IT, _real(run.folder))
        for place, words in found.items()
    ]


def _said_by(record: RunRecord) -> Iterator[tuple[Path, str]]:
    """Yield each path that a run reads or writes, and what it is to it."""
    request, project = record.request, record.project
    if project is not None:
        yield from _trained_on(project)
    if isinstance(request, PredictRequest):
        yield Path(request.out), "the folder that {who} writes into"
        yield from ((_before_glob(one), "images that {who} predicts") for one in request.inputs)
    if isinstance(request, WatchRequest):
        yield Path(request.output), "the folder that {who} writes into"
        yield Path(request.watch), "the folder that {who} watches"
        if request.recipe:
            yield Path(request.recipe), "the recipe that {who} follows"
    if isinstance(request, EvaluateRequest):
        yield Path(request.out), "the folder that {who} writes into"
        labels = _data_of(request.project) if request.project else ()
        for place in (*labels, *map(Path, filter(None, (request.images, request.masks)))):
            yield place, "labelled images that {who} compares with"
    if isinstance(request, MeasureRequest):
        yield Path(request.out), "the folder that {who} writes into"
        for place in filter(None, (request.masks, request.images)):
            yield _before_glob(place), "masks or images that {who} measures"
    if isinstance(request, ConvertRequest):
        yield Path(request.out), "the folder that {who} writes into"
        for place in filter(None, (request.source, request.images)):
            yield _before_glob(place), "files that {who} converts"
    if isinstance(request, PredictRequest | WatchRequest | EvaluateRequest):
        for model in (request.model,) if isinstance(request, WatchRequest) else request.models:
            yield Path(model), "the model that {who} predicts with"


def _data_of(project: Project) -> Iterator[Path]:
    for source in project.data:
        places = (source.images, source.masks, source.annotations)
        for place in filter(None, places):
            yield _before_glob(_below(project.folder, place))


def _trained_on(project: Project) -> Iterator[tuple[Path, str]]:
    for place in _data_of(project):
        yield place, "data that {who} trains on"
    for model in filter(None, (project.model.weights, project.model.start)):
        yield Path(_below(project.folder, model)), "the model that {who} begins with"


def _of_project(file: Path) -> list[_Need]:
    """Return what a project.toml names; faults of other keys, or gone images, do not matter.

    Raises: ProjectError where that is not known: its disk fails, or it is just being saved.
    """
    if not _may_be_read(file):
        return []
    document = read_toml(file)
    if absent := [name for name in ("project", "classes", "data") if name not in document]:
        raise ProjectError(file, "", f"has no [{absent[0]}]: it is not whole")
    folder = file.parent
    named: dict[str, Path] = {}
    for table, key in (*_MODEL_KEYS, *_FILE_KEYS):
        if said := _text(document.get(table), key):
            run = Run(folder / "runs" / said)
            names_run = (table, key) in _MODEL_KEYS and is_run(run.folder)
            place = run.best_model if names_run else Path(_below(folder, said))
            named[f"{table}.{key}"] = place
    sources = document.get("data")
    for number, source in enumerate(sources if isinstance(sources, list) else ()):
        for key in _DATA_KEYS:
            if said := _text(source, key):
                named[f"data.{number}.{key}"] = _before_glob(_below(folder, said))
    return [
        _Need(f"what {file} names: {key}", place, "Name another there first", file)
        for key, place in named.items()
    ]


def _may_be_read(file: Path) -> bool:
    """Tell whether a file is there and open to us; one that says nothing for now may be."""
    try:
        return stat.S_ISREG(file.stat().st_mode) and os.access(file, os.R_OK)
    except OSError as error:
        return error.errno in AWAY


def _text(table: Any, key: str) -> str:
    said = table.get(key) if isinstance(table, dict) else None
    return said if isinstance(said, str) and "\0" not in said else ""


def _below(folder: Path, place: str) -> str:
    return str(folder / os.path.expanduser(place))  # noqa: PTH111 - Path's raises for no such user


def _before_glob(place: str) -> Path:
    """Return the folder in which a glob looks, or the path that is none. `place`: absolute."""
    folder, wild = split_glob(place, Path("/"))
    return folder if wild else Path(place)


def _lies_in(place: Path, file: Path) -> bool:
    """Tell whether a path is, or leads to, a file or what a folder holds."""
    home = _real(file)
    as_named = _real(place.parent) / place.name
    return as_named.is_relative_to(home) or _real(place).is_relative_to(home)


def _real(place: Path) -> Path:
    try:
        return Path(os.path.realpath(place))
    except ValueError:  # a name that none can have, out of a damaged file
        return place
