"""Start and signal a keeper with its worker: the only spawner."""

import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.files import open_own, remedy_of, write_whole
from emcfsys_engine.launch.keeper import ALREADY_RUNNING, START_FILE
from emcfsys_engine.launch.processes import (
    COOKIE,
    SHARE_VARIABLE,
    descendants,
    is_same,
    session,
    token_of,
)
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import end_of_events
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import RunRecord, StartRecord, TrainRequest, without_access

LAUNCHER = "torch.distributed.run"
WORKER = "emcfsys_engine.learn.worker"
RENDEZVOUS = "$EMCFSYS_RENDEZVOUS"  # host:port of the first node, set by the job script
RENDEZVOUS_ID = "$EMCFSYS_RENDEZVOUS_ID"  # one word for this start, the same on every node
GRACE_S = 60  # for the processes to save and end, before they are killed
_EXPANDED = (RENDEZVOUS, RENDEZVOUS_ID)


@dataclass(frozen=True)
class Place:
    """Which process of a training this is; `local`: among those of its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def place_here(environment: Mapping[str, str] = os.environ) -> Place:
    """Return which process this is, as torchrun says; alone without it."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(environment[name]) for name in names))


def processes_of(project: Project) -> int:
    """Return how many processes a training has on each machine: one a GPU, or as many as asked."""
    gpus = project.compute.gpus
    return gpus or project.compute.processes


def worker_command(record: RunRecord, run_folder: Path) -> list[str]:
    """Return the words that execute a run here: the plain worker, or several under torchrun."""
    processes, nodes = 1, 1
    if isinstance(record.request, TrainRequest) and record.project is not None:
        processes, nodes = processes_of(record.project), record.project.compute.nodes
    if processes * nodes == 1:
        return [record.python, "-m", WORKER, str(run_folder)]
    return torchrun_command(run_folder, record.python, processes=processes, nodes=nodes)


def default_environment(command: Sequence[str]) -> dict[str, str]:
    """Return what a command needs where the submitter's environment says nothing.

    torchrun would set the same, with a warning; every process sets its own threads later.
    """
    return {"OMP_NUM_THREADS": "1"} if LAUNCHER in command else {}


def torchrun_command(run_folder: Path, python: str, *, processes: int, nodes: int = 1) -> list[str]:
    """Return the words that start a run's processes on one machine.

    With several nodes each of them runs these words in a shell that knows EMCFSYS_RENDEZVOUS and
    EMCFSYS_RENDEZVOUS_ID (see `in_shell`); alone, the machine finds a free port by itself.
    torchrun exits with 1 whatever the processes end with: the true exit code is in the run's
    ranks.json, where the keeper reads it.
    """
    if nodes == 1:
        meeting = ["--standalone"]
    else:
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", RENDEZVOUS]
        meeting += ["--rdzv-id", RENDEZVOUS_ID]
    return [
        *(python, "-m", LAUNCHER, *meeting),
        *("--nnodes", str(nodes), "--nproc-per-node", str(processes), "--max-restarts", "0"),
        *("--signals-to-handle", "SIGTERM,SIGINT,SIGUSR2"),
        *(("--shutdown-timeout", str(GRACE_S)) if _knows(python, "--shutdown-timeout") else ()),
        *("-m", WORKER, str(run_folder)),
    ]


def _knows(python: str, option: str) -> bool:
    """Tell whether the torchrun of an interpreter has an option; torch is not imported for it."""
    return any(option in file.read_text() for file in _launchers(python))


def _launchers(python: str) -> Iterator[Path]:
    if python == sys.executable:
        found = find_spec("torch")
        places = [Path(place) for place in (found and found.submodule_search_locations) or ()]
    else:
        places = list(Path(python).parent.parent.glob("lib*/python3*/site-packages/torch"))
    for place in places:
        if (file := place / "distributed" / "run.py").is_file():
            yield file


def in_shell(words: Sequence[str]) -> str:
    """Return words as one line for a POSIX shell; only the rendezvous is expanded there."""
    return " ".join(f'"{word}"' if word in _EXPANDED else shlex.quote(word) for word in words)


_KEEPER = "emcfsys_engine.launch.keeper"
# Python looks for modules where it stands, before all else: a folder's json.py is not ours.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}


def path_of_package(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variable by which an interpreter finds the package that we are, if it needs one.

    It needs one where we run from a source folder.
    """
    place = Path(__file__).resolve().parents[2]
    if place.name in ("site-packages", "dist-packages"):
        return {}
    paths = [str(place), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Which slots of which GPUs a keeper locks before it starts its worker."""

    lock_folder: str
    num_slots: dict[str, int]  # by the GPU's UUID


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """run.lock: who holds the run, or held it last."""

    pid: int
    start_ticks: int
    boot: str
    token: str = ""  # names one start of the run; empty in files of version 0.1.0's first days
    worker: int = 0
    worker_ticks: int = 0

    @property
    def keeper_lives(self) -> bool:
        """Tell whether this very keeper still lives."""
        return is_same(self.pid, self.start_ticks, self.boot)

    @property
    def worker_lives(self) -> bool:
        """Tell whether this very worker still lives."""
        return self.worker > 0 and is_same(self.worker, self.worker_ticks, self.boot)


def start(
    run: Run,
    *,
    foreground: bool = False,
    environment: Mapping[str, str] | None = None,
    token: str | None = None,
    lease: Lease | None = None,
    umask: int = -1,
    worker: Sequence[str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a keeper for the run, in a session of its own, with the submitter's interpreter.

    `foreground`: the keeper ends its worker when the calling process dies.
    `environment` is laid over the submitter's (CUDA_VISIBLE_DEVICES, for one).
    `token` names this start; keepers of earlier starts that have not got going never will.
    `lease`: GPU slots to lock first; the keeper ends with `keeper.NO_LEASE` when they are taken.
    `umask`: who may read what the run writes; -1: as for us.
    `worker`: the command that gets the run's folder, instead of the real worker: for tests.
    Raises: RunFolderError if the run is already running, or its folder or interpreter is gone.
    """
    record = run.record()
    if run.is_alive():
        raise RunFolderError(run.folder, "is already running", "Wait for it or cancel it")
    token = token or secrets.token_hex(8)
    options = _lease_options(lease)
    options += ["--with-parent"] if foreground else []
    command = keeper_command(run, token, options, worker=worker)
    is_ours = record.python == sys.executable
    announce(run, token)
    with _log(run) as log:
        if why := run.distrusted():
            log.write(f"{why}: runs with {record.python} and our own variables\n".encode())
            log.flush()
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE if foreground else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=umask,
                cwd=_folder(record.folder),
                env={
                    **default_environment(command),
                    **_recorded(record.environment, foreground=foreground),
                    **(environment or {}),
                    COOKIE: token,
                    **SAFE_PATH,
                    **(path_of_package(record.environment) if is_ours else {}),
                },
            )
        except (FileNotFoundError, PermissionError):
            remedy = "Submit again from an environment that exists"
            raise RunFolderError(record.python, "the run's Python is gone", remedy) from None


def keeper_command(
    run: Run, token: str, options: Sequence[str] = (), *, worker: Sequence[str] | None = None
) -> list[str]:
    """Return the words that start a keeper with its worker, with the submitter's interpreter."""
    record = run.record()
    work = [*worker, str(run.folder)] if worker else worker_command(record, run.folder)
    return [
        record.python,
        "-m",
        _KEEPER,
        str(run.folder),
        f"--start={token}",
        *options,
        "--",
        *work,
    ]


def announce(run: Run, token: str) -> None:
    """Make this start the run's newest, before it begins: what was asked of an earlier one is over.

    Raises: RunFolderError if the folder cannot be written.
    """
    try:
        run.ask_file.unlink(missing_ok=True)
        _name_start(run, token)
        for file in (run.log_file, run.lock_file, run.events_file):
            if os.path.lexists(file) or file == run.log_file:
                os.close(open_own(file, os.O_RDWR | os.O_APPEND | os.O_CREAT))
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        where = error.filename or run.folder
        remedy = remedy_of(error, "Check its permissions and free space")
        raise RunFolderError(where, what, remedy) from None


def void_start(run: Run) -> None:
    """Make every start so far void: a keeper that has not locked the run yet ends by itself.

    Raises: OSError if the folder cannot be written.
    """
    _name_start(run, secrets.token_hex(8))


def holder(run: Run) -> Holder | None:
    """Tell who holds the run or held it last; `run.is_alive()` tells which of the two."""
    try:
        found: Holder | None = any_names.read(run.lock_file, Holder)
    except OSError:
        return None
    return found


def is_second(exit_code: int) -> bool:
    """Tell whether a keeper ended because another one has the run."""
    return exit_code == ALREADY_RUNNING


def signal_group(keeper_pid: int, number: signal.Signals) -> bool:
    """Send a signal to the keeper's group, and so to its worker; False when nothing is left.

    A keeper passes SIGTERM, SIGINT and SIGUSR2 on. SIGKILL cannot be passed on: it goes to every
    process of the keeper's session, and to those that left it. The caller knows that the keeper's
    number is still its own.
    """
    if number == signal.SIGKILL:
        token = token_of(keeper_pid)
        family = [*(descendants(token) if token else []), *session(keeper_pid)]
        sent = [send(pid, number) for pid in dict.fromkeys(family)]
        return True in sent
    try:
        os.killpg(keeper_pid, number)
    except ProcessLookupError:
        return False
    return True


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal to one process; False when it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_run(held_by: Holder, *, with_keeper: bool = False) -> None:
    """Kill a run's worker and all that came of it; the keeper lives on to tell, unless named too.

    Only processes that are proven to be this start's are touched: a reused id is no match.
    """
    if held_by.worker_lives and _is_of(held_by.worker, held_by.token):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(held_by.worker, signal.SIGKILL)
    for pid in descendants(held_by.token) if held_by.token else []:
        if pid != held_by.pid:
            send(pid, signal.SIGKILL)
    if with_keeper and held_by.keeper_lives and _is_of(held_by.pid, held_by.token):
        send(held_by.pid, signal.SIGKILL)


def _is_of(pid: int, token: str) -> bool:
    """Tell whether a process is of one start: run.lock alone may name anybody's."""
    return not token or token_of(pid) == token


def _recorded(environment: Mapping[str, str], *, foreground: bool) -> dict[str, str]:
    """Return the submitter's environment; which GPUs are seen is for whoever starts it now.

    Of a proxy's address run.json holds no password: it is our own variable's, where that is alike.
    """
    chosen_now = "CUDA_VISIBLE_DEVICES"
    kept = {k: v for k, v in environment.items() if k != SHARE_VARIABLE}
    for name, value in kept.items():
        if "://" in value and without_access(os.environ.get(name, "")) == value:
            kept[name] = os.environ[name]
    if foreground:
        kept.pop(chosen_now, None)
        if chosen_now in os.environ:
            kept[chosen_now] = os.environ[chosen_now]
    return kept


def _lease_options(lease: Lease | None) -> list[str]:
    if lease is None:
        return []
    slots = [f"--lease={gpu}={num}" for gpu, num in lease.num_slots.items()]
    return [f"--lock-folder={lease.lock_folder}", *slots]


def _name_start(run: Run, token: str) -> None:
    begins = end_of_events(run.events_file)
    record = StartRecord(token=token, host=socket.gethostname(), events_bytes=begins)
    write_whole(run.folder / START_FILE, msgspec.json.encode(record))


def _log(run: Run) -> BinaryIO:
    return os.fdopen(open_own(run.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")


def _folder(place: str) -> str:
    return place if Path(place).is_dir() else "/"
